"""What a model can be exported to, and what each target is asked to do.

A target is a file or folder of this room with a `TARGET`, and a line in `MODULES`. It writes a
folder, opens what it wrote as a `Runtime`, and says what it cannot hold. `publish.py` does the rest
alike for all: refusing, verifying, publishing by one rename.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from pydantic import ValidationError

from afm_mlx.errors import ExportError
from afm_mlx.export.verify import Runtime, Thresholds
from afm_mlx.settings.mistakes import Origin, invalid_settings, nearest
from afm_mlx.settings.sections import Section, Shape

MODULES: dict[str, str] = {
    "huggingface": "afm_mlx.export.huggingface",
    "gguf": "afm_mlx.export.gguf",
    "coreml": "afm_mlx.export.coreml.target",
    "coreai": "afm_mlx.export.coreai.target",
}
"""Where each target's `TARGET` is, by its name; imported when it is asked for."""


@dataclass(frozen=True)
class Source:
    """The model that is exported."""

    folder: Path
    """A model folder."""
    name: str
    """What people call it; part of names of files."""
    shape: Shape
    adapters: tuple[Path, ...] = ()
    """Folders of adapters to export with it: they belong to it."""


@dataclass(frozen=True)
class Size:
    """What one component of an export takes on disk."""

    component: str
    """Such as embedding, linears, norms, tokenizer."""
    bytes: int
    planned_bytes: int | None
    """What shapes and bits say; None where nothing says it, as of a tokenizer."""


@dataclass(frozen=True)
class Need:
    """A package that a target cannot be written without."""

    module: str
    """What is imported."""
    install: str
    """What to type to have it."""
    package: str = ""
    """Name of what is installed, where a version is asked for."""
    version: str = ""
    """The only one that will do; empty for any."""


@dataclass(frozen=True)
class Target:
    """One format that models are exported to, and how. `settings` are a `section` each time."""

    name: str
    about: str
    """One line for `afm export --list`."""
    section: type[Section]
    """Its settings, all with defaults."""
    folds: bool
    """An adapter is folded into the weights, so there can be one at most; else adapters are kept
    apart, and the model and each adapter are verified."""
    refusals: Callable[[Source, Any], Sequence[str]]
    """Source and settings: what of the model the target cannot hold, a line for each reason. Looks
    at no weights."""
    write: Callable[[Source, Path, Any], None]
    """Source, folder and settings: makes the folder, and writes the export into it."""
    open: Callable[[Path, Any, str], Runtime]
    """Folder, settings, and the adapter in use (its name, or "none"): what was written, running.
    Reads nothing but that folder. What it cannot read, it raises as ExportError."""
    sizes: Callable[[Path, Source, Any], Sequence[Size]]
    """Folder, source and settings: what each component takes, beside the plan."""
    thresholds: Callable[[Any], Thresholds]
    """Settings: what the verification must reach."""
    differences: Callable[[Path, Source, Any], Sequence[str]] = lambda folder, source, settings: ()
    """Folder, source and settings: tensors and facts that are not in the files as they were meant
    to be, one by one. The first check, for targets whose files can be read back."""
    stored: Callable[[Source, Any], Iterator[tuple[str, mx.array]] | None] = (
        lambda source, settings: None
    )
    """Source and settings: all weights by our names, with an adapter folded in, as a target holds
    them that rounds them to fewer bits on purpose; None where it keeps the model. What was written
    is then compared with the model of these weights, and what rounding costs is told apart."""
    needs: tuple[Need, ...] = ()


def find_target(name: str) -> Target:
    """The target of a name.

    Raises:
        ExportError: there is none.
    """
    if name not in MODULES:
        near = nearest(name, MODULES)
        raise ExportError(
            f"no target is called '{name}'",
            hint=f"did you mean '{near}'?" if near else f"there are {', '.join(MODULES)}",
        )
    found = import_module(MODULES[name]).TARGET
    assert isinstance(found, Target)
    return found


def read_settings(target: Target, assigned: Mapping[str, Any]) -> Section:
    """A target's settings: its defaults, and what was assigned by name.

    Raises:
        RecipeError: a setting has no such name, or a value is of a wrong kind.
    """
    try:
        return target.section.model_validate(dict(assigned))
    except ValidationError as error:
        origin = Origin(None, "", tuple(assigned))
        raise invalid_settings(error, target.section, origin) from None


def check_needs(target: Target) -> None:
    """Raise unless the packages are installed that a target needs.

    Raises:
        ExportError: one is not, or another version; the first is named, with what to type.
    """
    for need in target.needs:
        if importlib.util.find_spec(need.module.partition(".")[0]) is None:
            raise ExportError(
                f"--to {target.name} needs the package {need.module}, which is not installed",
                hint=need.install,
            )
        if need.version and (found := version(need.package)) != need.version:
            raise ExportError(
                f"--to {target.name} needs {need.package} {need.version}, and {found} is installed",
                hint=need.install,
            )
