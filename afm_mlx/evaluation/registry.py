"""The tasks by name: what `afm eval --task` and [eval.tasks.NAME] can ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from afm_mlx.errors import DataError, RecipeError
from afm_mlx.evaluation.items import Task
from afm_mlx.settings.mistakes import nearest

if TYPE_CHECKING:
    from afm_mlx.inference.engine import Engine

DATA = "data"
"""Name of the argument that says where a task's items are."""

JUDGE = "judge"
"""The task that a second model marks; `judge.judging` has it."""

HARNESS = "harness:"
"""Begins the names of tasks that lm-evaluation-harness has."""


@dataclass(frozen=True)
class Kind:
    """A task that can be asked for."""

    about: str
    """One line."""
    where: str
    """Module of `evaluation`, and name in it of what makes the task from `data` and settings:
    `module:Name`."""
    data: str
    """Where its items usually are, or what must be given."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that make it this task."""

    def maker(self) -> Callable[..., Task]:
        """What makes the task."""
        module, _, name = self.where.partition(":")
        maker: Callable[..., Task] = getattr(import_module(f"afm_mlx.evaluation.{module}"), name)
        return maker

    def parameters(self) -> dict[str, inspect.Parameter]:
        """Arguments of its maker that a user can give."""
        known = inspect.signature(self.maker()).parameters
        return {name: each for name, each in known.items() if name not in self.fixed}


def _choices(name: str, about: str, data: str) -> Kind:
    return Kind(about, "tasks.choices:Choices", data, {"name": name})


KINDS: dict[str, Kind] = {
    "mmlu": Kind("57 subjects, four letters to choose from", "tasks.mmlu:MMLU", "hub:cais/mmlu"),
    "gsm8k": Kind("word problems of grade school", "tasks.gsm8k:GSM8K", "hub:openai/gsm8k"),
    "math": Kind("competition problems", "tasks.math:MATH", "hub:EleutherAI/hendrycks_math"),
    "ifeval": Kind(
        "instructions that a program verifies", "tasks.ifeval.task:IFEval", "hub:google/IFEval"
    ),
    "bfcl": Kind(
        "calls of functions", "tasks.bfcl.task:Bfcl", "the package bfcl-eval, or its data folder"
    ),
    "safety": Kind(
        "harmful requests answered, harmless ones declined",
        "tasks.safety:Safety",
        "--data: prompts, such as XSTest's CSV",
    ),
    "needle": Kind("facts hidden in long texts", "tasks.needle:Needle", "made here"),
    "perplexity": Kind(
        "how well texts are predicted", "tasks.perplexity:Perplexity", "--data: texts"
    ),
    "arc_easy": _choices("arc_easy", "science questions of school", "hub:allenai/ai2_arc"),
    "arc_challenge": _choices("arc_challenge", "the harder ones", "hub:allenai/ai2_arc"),
    "hellaswag": _choices("hellaswag", "how a scene goes on", "hub:Rowan/hellaswag"),
    "winogrande": _choices("winogrande", "whom a pronoun means", "hub:allenai/winogrande"),
    "piqa": _choices("piqa", "how things are done", "hub:baber/piqa"),
    "sciq": _choices("sciq", "science questions with a passage", "hub:allenai/sciq"),
    "openbookqa": _choices("openbookqa", "elementary science", "hub:allenai/openbookqa"),
    "checks": Kind(
        "prompts whose answers a program checks",
        "tasks.checks:Checks",
        "--data: JSONL, as afm synth writes it",
    ),
    "continuations": Kind(
        "which line comes next in a document",
        "tasks.continuations:Continuations",
        "--data: documents",
    ),
}
"""By name."""

FROM_MODEL: dict[str, Callable[[Engine], Any]] = {
    "chat": lambda engine: engine.is_chat,
    "count_tokens": lambda engine: lambda text: len(engine.tokenizer.encode(text)),
    "format": lambda engine: engine.tool_format,
}
"""Settings that a model decides, unless they are given."""

FROM_ENDPOINT: dict[str, Any] = {"chat": True}
"""Settings that the API of an endpoint decides, unless they are given; of others of `FROM_MODEL`
the defaults suit one."""


def task_kind(name: str) -> Kind:
    """The task of a name.

    Raises:
        RecipeError: there is none, or it is the judge's.
    """
    if name == JUDGE:
        raise RecipeError(
            f"task {JUDGE} needs a model that judges, and stands alone on a command line",
            hint=f"afm eval MODEL --task {JUDGE} --judge MODEL",
        )
    if name.startswith(HARNESS):
        return Kind("a task of lm-evaluation-harness", "harness:harness_task", "", {"name": name})
    if name not in KINDS:
        near = nearest(name, [*KINDS, JUDGE])
        raise RecipeError(
            f"no task is called '{name}'",
            hint=f"did you mean '{near}'?"
            if near
            else f"there are {', '.join([*KINDS, JUDGE])}, {HARNESS}NAME",
        )
    return KINDS[name]


def open_task(
    name: str,
    data: Any = None,
    settings: Mapping[str, Any] | None = None,
    *,
    engine: Engine | None = None,
    behind_endpoint: bool = False,
) -> Task:
    """A task with its data and settings.

    Args:
        name: as in `KINDS`, or `harness:NAME`.
        data: where its items are: a path, `hub:ORG/NAME`, or texts; None or "": where they usually
            are.
        settings: by name; values are read as the type that is wanted.
        engine: the model that will be asked; it decides what `FROM_MODEL` has.
        behind_endpoint: a model behind an endpoint will be asked; that decides `FROM_ENDPOINT`.

    Raises:
        RecipeError: as `check_task`.
        DataError: as there.
    """
    kind = task_kind(name)
    known = kind.parameters()
    found = {**kind.fixed, **check_task(name, data, settings)}
    for word in FROM_MODEL:
        if word not in known or word in found:
            continue
        if engine is not None:
            found[word] = FROM_MODEL[word](engine)
        elif behind_endpoint and word in FROM_ENDPOINT:
            found[word] = FROM_ENDPOINT[word]
    return kind.maker()(**found)


def check_task(
    name: str, data: Any = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What `open_task` is given as the task's maker takes it; nothing is opened.

    Raises:
        RecipeError: no task, or no setting, has this name; or a value is of a wrong type.
        DataError: the task needs data, takes none, or none of this kind.
    """
    kind = task_kind(name)
    known = kind.parameters()
    types = get_type_hints(kind.maker())
    settable = [
        each for each in known if each != DATA and (each not in FROM_MODEL or each == "chat")
    ]
    found = read_settings(
        name, settings or {}, {word: hint for word, hint in types.items() if word in settable}
    )
    if data is not None and data != "":
        if DATA not in known:
            raise DataError(f"task {name} takes no data", hint="leave its path away")
        found[DATA] = _place(name, data, types[DATA])
    elif DATA in known and known[DATA].default is inspect.Parameter.empty:
        raise DataError(f"task {name} needs data", hint=kind.data)
    return found


def read_settings(
    name: str, settings: Mapping[str, Any], types: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of a task as the types that they have.

    Raises:
        RecipeError: one is unknown, or of a wrong type.
    """
    for word in settings:
        if word not in types:
            raise _no_setting(name, word, list(types))
    return {word: _read(name, word, value, types[word]) for word, value in settings.items()}


def _no_setting(name: str, word: str, known: list[str]) -> RecipeError:
    near = nearest(word, known)
    hint = f"did you mean '{near}'?" if near else f"there are {', '.join(known) or 'none'}"
    return RecipeError(f"task {name} has no setting '{word}'", hint=hint)


def _read(name: str, word: str, value: Any, wanted: Any) -> Any:
    try:
        return TypeAdapter(wanted).validate_python(value)
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise RecipeError(f"task {name}: {word} is {value!r}: {what.lower()}") from None


def _place(name: str, data: Any, wanted: Any) -> Any:
    """Where items are, in the form that the task takes: texts, one place, or several."""
    if not isinstance(data, str | Path):
        if Sequence[str] not in get_args(wanted):
            raise DataError(
                f"task {name} is not made of documents", hint="give a path with its items"
            )
        return data
    if str(data).startswith("hub:"):
        if wanted is Path:
            raise DataError(
                f"task {name} reads a file of this machine, not {data}",
                hint="download the set, and give its file",
            )
        place: str | Path = str(data)
    else:
        place = Path(data).expanduser()
    if wanted is str:
        return str(place)
    return (str(place),) if wanted == tuple[str, ...] else place
