"""One export from beginning to end: refuse, write beside, verify what was written, publish.

    out/
        export.json         ours: what was exported, with which settings, and what the check found
        ...                 what the target writes

The folder appears by one rename, and only if what was written says what the model says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from afm_mlx.artifact import made_whole, write_text
from afm_mlx.decoder.adapters import NONE, Adapters, base_hash, read_adapter, read_adapter_facts
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.decoder.weights import listed
from afm_mlx.errors import ExportError
from afm_mlx.export.in_mlx import MlxRuntime, dense_model
from afm_mlx.export.prompts import prompts
from afm_mlx.export.targets import Size, Source, Target, check_needs
from afm_mlx.export.verify import STEPS, Comparison, Runtime, Thresholds, table, verify
from afm_mlx.inference.prompts import chats_with
from afm_mlx.settings.sections import Section
from afm_mlx.text.tokenizer import Tokenizer

ANY = Thresholds(cosine=-1.0, error=math.inf, agreement=0.0, tie=0.0)
"""Of rounding, which is told and not judged: fewer bits were asked for."""

RECORD = "export.json"
"""What an exported folder says of itself."""


@dataclass(frozen=True)
class Exported:
    """An export that was verified and published."""

    folder: Path
    target: str
    comparisons: Mapping[str, Comparison]
    """By the adapter in use; "none" for the model itself."""
    rounding: Comparison | None
    """What fewer bits cost: the model of the weights as they are stored, beside the model. None
    where the target keeps them."""
    sizes: tuple[Size, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "folder": str(self.folder),
            "target": self.target,
            "verified": {name: _as_json(found) for name, found in self.comparisons.items()},
            "rounding": None if self.rounding is None else _as_json(self.rounding),
            "sizes": [asdict(size) for size in self.sizes],
        }


def export_model(
    source: Source,
    target: Target,
    out: Path,
    settings: Section,
    *,
    steps: int = STEPS,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write a model for a target, verify what was written, and publish it as the folder `out`.

    Args:
        source: the model.
        target: what it is exported to.
        out: folder to create: whole, verified, or not at all.
        settings: of the target.
        steps: tokens to decode after each prompt of the verification.
        say: called with lines about the work.

    Raises:
        ExportError: `out` exists, a package is missing, the target cannot hold the model, or what
            was written is not the model; then its table has been said.
        ModelError: the model or an adapter is damaged, or an adapter is of another base.
    """
    check(source, target, out, settings)
    with made_whole(out) as part:
        say(f"writing {target.name}")
        target.write(source, part, settings)
        if wrong := list(target.differences(part, source, settings)):
            raise ExportError(
                f"what was written is not the model, nothing is published: {listed(wrong)}"
            )
        comparisons, rounding = _verified(source, target, part, settings, steps, say)
        sizes = tuple(target.sizes(part, source, settings))
        write_text(
            part / RECORD,
            json.dumps(_record(source, target, settings, comparisons, rounding), indent=2) + "\n",
        )
    return Exported(out, target.name, comparisons, rounding, sizes)


def check(source: Source, target: Target, out: Path, settings: Section) -> None:
    """Raise for what can be known before anything is written.

    Raises:
        ExportError, ModelError: as `export_model`.
        DataError: the model has no tokenizer.
    """
    if out.exists():
        raise ExportError(f"'{out}' exists already", hint="name another --out, or delete it")
    check_needs(target)
    Tokenizer.open(source.folder)
    if target.folds and len(source.adapters) > 1:
        raise ExportError(
            f"--to {target.name} folds an adapter into the weights, so there can be one, "
            f"not {len(source.adapters)}",
            hint="export once for each adapter",
        )
    for folder in source.adapters:
        read_adapter(folder, source.folder)
    if reasons := target.refusals(source, settings):
        raise ExportError(f"--to {target.name} cannot hold this model: {'; '.join(reasons)}")


def _verified(
    source: Source,
    target: Target,
    folder: Path,
    settings: Section,
    steps: int,
    say: Callable[[str], None],
) -> tuple[dict[str, Comparison], Comparison | None]:
    """Compare what was written with the model, for each adapter; and what rounding costs.

    Raises:
        ExportError: it is not the model.
    """
    model = open_checkpoint(source.folder, dtype=mx.float32)
    adapters = Adapters(model, source.folder, dtype=mx.float32)
    names = [adapters.add(each) for each in source.adapters]
    found: dict[str, Comparison] = {}
    rounding = None
    for name in (names or [NONE]) if target.folds else [NONE, *names]:
        adapters.use(None if name == NONE else name)
        adapter_chats = name != NONE and adapters[name].facts.chat
        chats = chats_with(source.folder, adapter_chats=adapter_chats)
        asked = prompts(source.folder, chats=chats)
        wanted = model
        if (stored := target.stored(source, settings)) is not None:
            wanted = dense_model(source.shape, stored)
            runtime: Runtime = MlxRuntime(wanted, "rounded weights in MLX", is_stand_in=True)
            say("comparing rounded weights with the model's")
            rounding = verify(model, runtime, asked, steps=steps, thresholds=ANY, say=say)
        runtime = target.open(folder, settings, name)
        stands_in = ", which stands in for the target's own runtime" if runtime.is_stand_in else ""
        say(f"verifying with {runtime.name}{stands_in}")
        thresholds = target.thresholds(settings)
        found[name] = verify(wanted, runtime, asked, steps=steps, thresholds=thresholds, say=say)
        if failures := found[name].failures:
            for line in table(found[name]).splitlines():
                say(line)
            what = "" if name == NONE else f" with adapter '{name}'"
            raise ExportError(
                f"what was written{what} is not the model, nothing is published: "
                + "; ".join(failures)
            )
    return found, rounding


def _record(
    source: Source,
    target: Target,
    settings: Section,
    comparisons: Mapping[str, Comparison],
    rounding: Comparison | None,
) -> dict[str, Any]:
    """What stands in export.json."""
    return {
        "target": target.name,
        "settings": settings.model_dump(mode="json"),
        "model": source.name,
        "model_hash": base_hash(source.folder),
        "adapters": [read_adapter_facts(folder).name for folder in source.adapters],
        "versions": {name: version(name) for name in ("afm-mlx", "mlx")},
        "verified": {name: _as_json(found) for name, found in comparisons.items()},
        "rounding": None if rounding is None else _as_json(rounding),
    }


def _as_json(comparison: Comparison) -> dict[str, Any]:
    judged = comparison.thresholds != ANY  # infinity is not JSON
    return {
        "runtime": comparison.runtime,
        "is_stand_in": comparison.is_stand_in,
        "thresholds": asdict(comparison.thresholds) if judged else None,
        "all": asdict(comparison.all),
        "prompts": [asdict(one) for one in comparison.prompts],
    }
