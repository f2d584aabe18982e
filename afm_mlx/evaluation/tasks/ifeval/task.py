"""IFEval: prompts with instructions that a program can check.

Data: `key`, `prompt`, `instruction_id_list`, and `kwargs` with one table of parameters for each
instruction. Source: Zhou et al., arXiv:2311.07911.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from afm_mlx.corpus.sources.item_files import ItemRow
from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.evaluation.tasks.ifeval.instructions import (
    KINDS,
    RELATIONS,
    follows,
    follows_loosely,
)
from afm_mlx.evaluation.tasks.rows import task_rows, text_field
from afm_mlx.settings.mistakes import nearest

HUB = "hub:google/IFEval"
HUB_FILES = "*input_data*"

MAX_TOKENS = 1_280
"""Longest answer. Source: lm-evaluation-harness, task ifeval."""

_PATTERNS = ("keywords", "keyword", "forbidden_words", "section_spliter", "postscript_marker")
"""Parameters that are regular expressions, in the official code too."""

Instruction = tuple[str, Mapping[str, Any]]
"""Its kind, and its parameters."""


@dataclass(frozen=True)
class IFEval:
    """The task. A response is checked as it is (strict), and with leave to frame it (loose)."""

    data: str | Path = HUB
    """A file or folder, or `hub:ORG/NAME`."""
    chat: bool = True
    """Put the prompt as a turn of a chat, not as a text that is continued."""
    max_tokens: int = MAX_TOKENS
    """Longest answer."""

    name: ClassVar[str] = "ifeval"
    figures: ClassVar[Mapping[str, str]] = {
        "prompt_strict": "prompts of which all instructions are followed",
        "instruction_strict": "instructions that are followed",
        "prompt_loose": "prompts, when an introduction, a last line and asterisks do not count",
        "instruction_loose": "instructions, likewise",
    }

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {"shots": 0, "chat": self.chat, "max_tokens": self.max_tokens}

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        found: list[Item] = []
        keys: set[str] = set()
        for row in task_rows(self.name, self.data, hub_files=HUB_FILES):
            key, prompt = str(row.field("key")), text_field(row, ["prompt"])
            if key in keys:
                raise row.broken(f"key {key} is there twice", hint="each needs its own")
            keys.add(key)
            instructions = _instructions(row)
            _check_packages(instructions)
            found.append(
                Question(
                    key=key,
                    prompt=({"role": "user", "content": prompt},) if self.chat else prompt,
                    max_tokens=self.max_tokens,
                    facts={"instructions": instructions},
                )
            )
        return found

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        marks = {}
        verdicts = _verdicts(item, reply)
        for how, each in zip(("strict", "loose"), zip(*verdicts, strict=True), strict=True):
            count = float(len(each))
            marks[f"prompt_{how}"] = Mark(float(all(each)))
            marks[f"instruction_{how}"] = Mark(sum(each) / count, count)
        return {name: marks[name] for name in self.figures}

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Question)
        kinds = [kind for kind, _ in item.facts["instructions"]]
        verdicts = _verdicts(item, reply)
        return {
            "instructions": kinds,
            "strict": [strict for strict, _ in verdicts],
            "loose": [loose for _, loose in verdicts],
        }


def _verdicts(item: Item, reply: Reply) -> list[tuple[bool, bool]]:
    """Strict and loose, of each instruction."""
    assert isinstance(item, Question)
    text = reply.text if isinstance(reply, Answer) else ""
    found = []
    for kind, parameters in item.facts["instructions"]:
        strict = follows(kind, text, parameters)
        found.append((strict, strict or follows_loosely(kind, text, parameters)))
    return found


def _instructions(row: ItemRow) -> tuple[Instruction, ...]:
    kinds, tables = row.field("instruction_id_list"), row.field("kwargs")
    if not isinstance(kinds, list) or not isinstance(tables, list) or len(kinds) != len(tables):
        counts = [len(one) if isinstance(one, list) else "no list of" for one in (kinds, tables)]
        raise row.broken(
            f"{counts[0]} instruction_id_list, {counts[1]} kwargs",
            hint="each instruction needs its table, {} where it has no parameters",
        )
    if not kinds:
        raise row.broken("no instruction", hint="each prompt needs one or more")
    return tuple(
        (kind, _parameters(row, kind, table)) for kind, table in zip(kinds, tables, strict=True)
    )


def _parameters(row: ItemRow, kind: Any, table: Any) -> dict[str, Any]:
    """Those of a kind, checked. Tables of the hub have empty cells for those of other kinds."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise row.broken(f"no instruction is called '{kind}'", hint=nearest(str(kind), KINDS) or "")
    if not isinstance(table, dict):
        raise row.broken(f"kwargs of {kind} are no table but {table!r}")
    wanted = KINDS[kind].parameters
    given = {name: value for name, value in table.items() if value is not None}
    for name in wanted:
        if name not in given:
            raise row.broken(f"{kind} lacks '{name}'", hint=f"it needs {', '.join(wanted)}")
    for name, value in given.items():
        if name not in wanted:
            raise row.broken(f"{kind} has no '{name}'",
                             hint=f"it needs {', '.join(wanted) or 'none'}")  # fmt: skip
        if wrong := _mistake(name, value, wanted[name]):
            raise row.broken(f"{kind}: '{name}' is {value!r}, not {wrong}")
    return {name: int(given[name]) if wanted[name] is int else given[name] for name in wanted}


def _mistake(name: str, value: Any, kind: type) -> str:
    """What a parameter should be; "" where it is that."""
    if kind is int:
        # Tables of the hub hold whole numbers as floats where some cells are empty.
        least = 1 if name == "nth_paragraph" else 0
        whole = value.is_integer() if isinstance(value, float) else type(value) is int
        return "" if whole and value >= least else f"a whole number from {least} on"
    texts = value if kind is list else [value]
    if not isinstance(texts, list) or not texts or not all(
        isinstance(text, str) and text.strip() for text in texts
    ):  # fmt: skip
        return "a list of texts" if kind is list else "a text"
    if name.endswith("relation") and value not in RELATIONS:
        return f"'{RELATIONS[0]}' or '{RELATIONS[1]}'"
    if name == "letter" and len(value) != 1:
        return "one letter"
    if name in _PATTERNS:
        for text in texts:
            try:
                re.compile(text)
            except re.error as error:
                return f"a regular expression: {error}"
    return ""


def _check_packages(instructions: Sequence[Instruction]) -> None:
    """Refuse to begin where an instruction could not be checked at the end."""
    needed = {
        "language:response_language": ("langdetect_rs", "langdetect"),
        "change_case:english_capital": ("langdetect_rs", "langdetect"),
        "change_case:english_lowercase": ("langdetect_rs", "langdetect"),
        "length_constraints:number_sentences": ("punkt",),
        "change_case:capital_word_frequency": ("punkt",),
    }
    for kind, _ in instructions:
        packages = needed.get(kind, ())
        if packages and not any(find_spec(package) for package in packages):
            raise DataError(
                f"task ifeval: {kind} needs the package {packages[0]}",
                hint="pip install 'afm-mlx[ifeval]'",
            )
