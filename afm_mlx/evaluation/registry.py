"""The tasks by name: what `afm eval --task` and [eval.tasks.NAME] can ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from afm_mlx.errors import DataError, RecipeError
from afm_mlx.evaluation.items import Task
from afm_mlx.settings.mistakes import nearest

DATA = "data"
"""Name of the argument that says where a task's items are."""


@dataclass(frozen=True)
class Kind:
    """A task that can be asked for."""

    about: str
    """One line."""
    where: str
    """Module of `evaluation.tasks`, and name in it of what makes the task from `data` and settings
    by name: `module:Name`."""
    data: str = ""
    """Where its items usually are; "" where there is no such place."""
    needs: str = ""
    """What --data must be, where there is no usual place."""

    def maker(self) -> Callable[..., Task]:
        """What makes the task."""
        module, _, name = self.where.partition(":")
        maker: Callable[..., Task] = getattr(
            import_module(f"afm_mlx.evaluation.tasks.{module}"), name
        )
        return maker


KINDS: dict[str, Kind] = {
    "checks": Kind(
        "prompts whose answers a program checks, as of afm synth",
        "checks:Checks",
        needs="a JSONL file, as afm synth writes it",
    ),
    "continuations": Kind(
        "which line comes next in a document",
        "continuations:Continuations",
        needs="documents: a file or a folder of texts",
    ),
}
"""By name."""


def task_kind(name: str) -> Kind:
    """The task of a name.

    Raises:
        RecipeError: there is none.
    """
    if name not in KINDS:
        near = nearest(name, KINDS)
        raise RecipeError(
            f"no task is called '{name}'",
            hint=f"did you mean '{near}'?" if near else f"there are {', '.join(KINDS)}",
        )
    return KINDS[name]


def open_task(name: str, data: Any = None, settings: Mapping[str, Any] | None = None) -> Task:
    """A task with its data and settings.

    Args:
        name: as in `KINDS`.
        data: where its items are: a path, `hub:ORG/NAME`, or texts; None: where they usually are.
        settings: by name; texts are read as the type that is wanted.

    Raises:
        RecipeError: no task, or no setting, has this name; or a value is of a wrong type.
        DataError: the task needs data.
    """
    kind = task_kind(name)
    maker = kind.maker()
    given = dict(settings or {})
    types = get_type_hints(maker.__init__ if inspect.isclass(maker) else maker)
    known = [word for word in inspect.signature(maker).parameters if word != DATA]
    found: dict[str, Any] = {}
    for word, value in given.items():
        if word not in known:
            near = nearest(word, known)
            hint = f"did you mean '{near}'?" if near else f"there are {', '.join(known) or 'none'}"
            raise RecipeError(f"task {name} has no setting '{word}'", hint=hint)
        try:
            found[word] = TypeAdapter(types[word]).validate_python(value)
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise RecipeError(f"task {name}: {word} is {value!r}: {what.lower()}") from None
    where = kind.data if data is None or data == "" else data
    if DATA in inspect.signature(maker).parameters:
        if where == "":
            raise DataError(f"task {name} needs data", hint=f"--data PATH: {kind.needs}")
        found[DATA] = Path(where).expanduser() if is_path(where) else where
    return maker(**found)


def is_path(where: Any) -> bool:
    """Whether data are a file or folder on this machine."""
    return isinstance(where, Path) or (isinstance(where, str) and not where.startswith("hub:"))
