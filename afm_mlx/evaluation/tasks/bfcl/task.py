"""BFCL: does a model call the right functions with the right values, and none where none fits?

The Berkeley Function-Calling Leaderboard's single-turn categories, marked by its own rules.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from afm_mlx.corpus.sources.hub import PREFIX, fetch_hub_file, list_hub_files
from afm_mlx.corpus.sources.item_files import ItemRow, read_rows
from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.evaluation.tasks.bfcl.declaring import declared, told_in_text
from afm_mlx.evaluation.tasks.bfcl.matching import (
    JAVA,
    JAVASCRIPT,
    PYTHON,
    Called,
    problem_of_calls,
)
from afm_mlx.evaluation.tasks.bfcl.reading import NoCallsError, read_calls
from afm_mlx.evaluation.tasks.rows import set_of_task
from afm_mlx.inference.calls import JSON_CALLS, ToolFormat

CALLS = "calls"
"""Of a category: the accepted calls must come."""
NO_CALL = "no call"
"""Of a category: no function fits, and no call may come."""
ANY_CALL = "any call"
"""Of a category: some call must come."""

CATEGORIES: Mapping[str, str] = {
    "simple_python": CALLS,
    "multiple": CALLS,
    "parallel": CALLS,
    "parallel_multiple": CALLS,
    "irrelevance": NO_CALL,
    "simple_java": CALLS,
    "simple_javascript": CALLS,
    "live_simple": CALLS,
    "live_multiple": CALLS,
    "live_parallel": CALLS,
    "live_parallel_multiple": CALLS,
    "live_irrelevance": NO_CALL,
    "live_relevance": ANY_CALL,
}
"""What is right in each. Those of several turns, and of the web, need more than a question."""

FIRST_VERSION = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")
"""Of the leaderboard's first version, those with Python's functions."""

LANGUAGES = {"simple_java": JAVA, "simple_javascript": JAVASCRIPT}

_OLDER_NAMES = {
    "simple_python": "simple",
    "simple_java": "java",
    "simple_javascript": "javascript",
}
"""Of files before version 4."""

_ANSWERS = "possible_answer/"
_FILE = re.compile(rf"(?P<folder>{_ANSWERS})?BFCL_v(?P<version>\d+)_(?P<category>\w+)\.json")
_PACKAGE = "bfcl_eval"


@dataclass(frozen=True)
class Bfcl:
    """The benchmark."""

    name: ClassVar[str] = "bfcl"
    figures: ClassVar[Mapping[str, str]] = {
        "average": "share of right answers, each category counting alike",
        "accuracy": "share of right answers",
        "called": "share of answers with a call that can be read",
    }

    averages: ClassVar[Mapping[str, str]] = {"average": "accuracy"}

    data: str = ""
    """Folder with `BFCL_v*_CATEGORY.json` and `possible_answer/`, or `hub:ORG/NAME` of such; "" for
    the data of the package bfcl-eval where it is installed."""
    categories: tuple[str, ...] = FIRST_VERSION
    """Of `CATEGORIES`."""
    first: int | None = None
    """Of each category, the first so many items; None for all."""
    ask: Literal["tools", "text"] = "tools"
    """Whether functions are declared as tools, which the chat template writes, or in a message."""
    format: ToolFormat = field(default=JSON_CALLS, repr=False)
    """How the model marks its calls."""
    max_tokens: int = 512
    """Longest answer. Ours."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {
            "categories": list(self.categories),
            "first": self.first,
            "ask": self.ask,
            "calls_begin_with": self.format.start,
            "max_tokens": self.max_tokens,
        }

    def items(self) -> Sequence[Item]:
        """See `Task`.

        Raises:
            DataError: as of `Task`, or a category is unknown.
        """
        for category in self.categories:
            if category not in CATEGORIES:
                raise DataError(
                    f"BFCL has no category '{category}'", hint=f"one of {', '.join(CATEGORIES)}"
                )
        files = _files(self.data, self.categories)
        rows = {
            category: list(read_rows(file))[: self.first] for category, (file, _) in files.items()
        }
        return [
            item
            for category, some in rows.items()
            for item in self._items(category, some, files[category][1])
        ]

    def _items(
        self, category: str, rows: Sequence[ItemRow], answers: Path | None
    ) -> list[Question]:
        language = LANGUAGES.get(category, PYTHON)
        accepted = {} if answers is None else _accepted(answers)
        found: dict[str, Question] = {}
        for row in rows:
            key, functions = str(row.field("id")), _functions(row)
            if key in found:
                raise row.broken(f"'{key}' is there twice")
            try:
                tools = tuple(declared(function, language) for function in functions)
            except ValueError as error:
                raise row.broken(str(error)) from None
            messages = _messages(row)
            if answers is not None and key not in accepted:
                raise row.broken(f"{_ANSWERS}{answers.name} has no '{key}'")
            facts = {
                "functions": functions,
                "accepted": accepted[key].calls(functions) if answers else [],
                "tools": tools,
            }
            found[key] = Question(
                key,
                told_in_text(messages, tools) if self.ask == "text" else messages,
                self.max_tokens,
                tools=tools if self.ask == "tools" else (),
                group=category,
                facts=facts,
            )
        return list(found.values())

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`. An item that was not asked is wrong in every category."""
        assert isinstance(item, Question)
        calls, problem = self._judged(item, reply)
        right = float(not problem)
        return {
            "accuracy": Mark(right),
            "called": Mark(float(bool(calls))),
        }

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Question)
        calls, problem = self._judged(item, reply)
        return {
            "calls": [{call.name: dict(call.arguments)} for call in calls],
            "accepted": item.facts["accepted"],
            "problem": problem,
        }

    def _judged(self, item: Question, reply: Reply) -> tuple[list[Called], str]:
        """The calls, and what is wrong with them; "" where nothing is."""
        if not isinstance(reply, Answer):
            return [], "not asked"
        unread = ""
        try:
            calls = read_calls(reply.text, item.facts["tools"], self.format)
        except NoCallsError as error:
            calls, unread = [], str(error)
        wanted = CATEGORIES[item.group]
        if wanted == NO_CALL:
            return calls, f"{calls[0].name} called" if calls else ""
        if unread or wanted == ANY_CALL:
            return calls, unread
        language = LANGUAGES.get(item.group, PYTHON)
        return calls, problem_of_calls(
            calls, item.facts["functions"], item.facts["accepted"], language
        )


@dataclass(frozen=True)
class _Accepted:
    """A row of accepted calls."""

    row: ItemRow

    def calls(self, functions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those of the row. Raises DataError where it has none such for these functions."""
        calls = self.row.field("ground_truth")
        if not isinstance(calls, list) or not calls or not all(map(_is_call, calls)):
            raise self.row.broken("'ground_truth' is no list of {NAME: {ARGUMENT: [VALUE, ...]}}")
        known = {function["name"] for function in functions}
        for call in calls:
            if (name := next(iter(call))) not in known:
                raise self.row.broken(f"'{name}' is none of the item's functions")
        return calls


def _accepted(file: Path) -> dict[str, _Accepted]:
    return {str(row.field("id")): _Accepted(row) for row in read_rows(file)}


def _is_call(call: Any) -> bool:
    if not isinstance(call, dict) or len(call) != 1:
        return False
    arguments = next(iter(call.values()))
    return isinstance(arguments, dict) and all(
        isinstance(values, list) for values in arguments.values()
    )


def _functions(row: ItemRow) -> list[Mapping[str, Any]]:
    functions = row.field("function")
    if isinstance(functions, dict):
        return [functions]
    if not isinstance(functions, list):
        raise row.broken("'function' is no list of functions")
    return functions


def _messages(row: ItemRow) -> tuple[dict[str, Any], ...]:
    """The messages of the only turn."""
    turns = row.field("question")
    messages = turns[0] if isinstance(turns, list) and len(turns) == 1 else None
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and {"role", "content"} <= set(message) for message in messages
    ):
        raise row.broken("'question' is not one turn of messages with role and content")
    return tuple(messages)


def _files(data: str, categories: Sequence[str]) -> dict[str, tuple[Path, Path | None]]:
    """Files of items and of accepted calls, by category; of several versions the newest."""
    paths, fetch = _listed(data)
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for path in paths:
        if match := _FILE.fullmatch(path):
            place = (match["folder"] or "", match["category"])
            found[place] = max(found.get(place, (0, "")), (int(match["version"]), path))
    where = data or f"package {_PACKAGE}"
    chosen = {}
    for category in categories:
        names = (category, _OLDER_NAMES.get(category, category))
        name = next((name for name in names if ("", name) in found), None)
        if name is None:
            raise DataError(
                f"{where} has no BFCL_v*_{category}.json",
                hint="give the folder that has it, or pip install --no-deps bfcl-eval",
            )
        answers = None
        if CATEGORIES[category] == CALLS:
            if (_ANSWERS, name) not in found:
                raise DataError(f"{where} has no {_ANSWERS}BFCL_v*_{name}.json")
            answers = fetch(found[_ANSWERS, name][1])
        chosen[category] = (fetch(found["", name][1]), answers)
    return chosen


def _listed(data: str) -> tuple[list[str], Callable[[str], Path]]:
    """Paths below a folder or of a set of the hub, and how to come by their files."""
    if data.startswith(PREFIX):
        wanted = set_of_task("bfcl", data)
        return list_hub_files(wanted), lambda path: fetch_hub_file(wanted, path)
    folder = Path(data) if data else _package_folder()
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder", hint="check the path")
    files = (*folder.glob("*.json"), *(folder / _ANSWERS).glob("*.json"))
    return [file.relative_to(folder).as_posix() for file in files], folder.joinpath


def _package_folder() -> Path:
    """Data of the installed package, which is not imported: it would want a hundred others."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "BFCL's data are not here: the package bfcl-eval is not installed",
            hint="pip install --no-deps bfcl-eval, or give a folder that has the data",
        )
    return Path(spec.submodule_search_locations[0]) / "data"
