"""Items of benchmarks, as texts, from files of any usual kind.

Whoever decontaminates must know that all items were read, so unlike a corpus a benchmark may not be
broken: the first bad line is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afm_mlx.corpus.sources.item_files import (
    LETTERS,
    QUESTION_FIELDS,
    SUFFIXES,
    ItemRow,
    is_text,
    read_rows,
)
from afm_mlx.errors import DataError
from afm_mlx.settings.decontamination import Decontaminate

# Usual names of fields, the first one present is taken. Ours, from the benchmarks' own files.
_CHOICES = ("choices", "options", "endings")
_ANSWERS = ("answer", "solution", "canonical_solution", "output", "response", "target")

# GSM8K's calculator notes, such as <<16-3-4=9>>; copies often come without.
_CALCULATOR = re.compile(r"<<[^<>]*>>")

_SHOWN = 40  # characters of a value that is no text; ours
_OTHER_FIELDS = (
    'say what makes up an item: --set \'decontaminate.benchmarks.NAME.fields=["FIELD", "FIELD"]\''
)


@dataclass(frozen=True)
class Item:
    """One item of a benchmark, in the forms in which it may have been copied."""

    text: str
    """All of it: question, and choices or answer, in lines."""
    others: tuple[str, ...] = ()
    """Other forms of all of it."""
    question: str = ""
    """The question alone, where it is not all."""


def read_benchmark(path: Path, fields: Sequence[str] | None = None) -> list[Item]:
    """A benchmark's items in all their forms.

    Args:
        path: JSONL, JSON (a list), CSV, TSV, Parquet, or text with an item on each line, all also
            with .gz; or a folder, whose files of these kinds are read in order of their names,
            hidden ones left out.
        fields: what to take of each item, in this order; None: by usual names. GSM8K gives
            question and answer, MMLU question and choices (also without a header line), IFEval the
            prompt.

    Raises:
        DataError: a file or line is broken, lacks a field, or there is no item; it names file and
            line, or the item where a file has no lines.
    """
    if not path.exists():
        raise DataError(f"benchmark {path} does not exist", hint="check the benchmark's path")
    items = [_item(row, fields) for row in read_rows(path)]
    if not items:
        raise DataError(
            f"benchmark {path} holds no item",
            hint=f"give a file with items, or a folder of them ({', '.join(SUFFIXES)})",
        )
    return items


def benchmark_names(settings: Decontaminate) -> list[str]:
    """Names of the benchmarks, in order. Raises DataError where there is none."""
    if not settings.benchmarks:
        raise DataError(
            "no benchmark to decontaminate against",
            hint="add [decontaminate.benchmarks.NAME] with a path",
        )
    return sorted(settings.benchmarks)


def check_benchmarks(settings: Decontaminate) -> None:
    """Read all benchmarks, so that a broken one is known before work on the corpus begins.

    Raises:
        DataError: there is none, or as `read_benchmark`.
    """
    for name in benchmark_names(settings):
        section = settings.benchmarks[name]
        read_benchmark(Path(section.path).expanduser(), section.fields)


def _item(at: ItemRow, fields: Sequence[str] | None) -> Item:
    if is_text(at.file):
        return Item(at.row["text"])
    if fields:
        return Item("\n".join(_text(at, field) for field in fields))
    asks = next((field for field in QUESTION_FIELDS if field in at.row), None)
    if asks is None:
        names = ", ".join(map(str, at.row)) or "(none)"
        raise at.broken(f"no question among the fields {names}", hint=_OTHER_FIELDS)
    question = _text(at, asks)
    if choices := _choices(at):
        lettered = zip(LETTERS, choices, strict=False)
        return Item(
            "\n".join([question, *choices]),
            ("\n".join([question, *(f"{letter}. {text}" for letter, text in lettered)]),),
            question,
        )
    says = next((field for field in _ANSWERS if isinstance(at.row.get(field), str)), None)
    if says is None:
        return Item(question)
    text = f"{question}\n{at.row[says]}"
    plain = _CALCULATOR.sub("", text)
    return Item(text, (plain,) if plain != text else (), question)


def _text(at: ItemRow, field: str) -> str:
    value = at.field(field)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if not isinstance(value, str):
        found = json.dumps(value, default=repr)[:_SHOWN]
        raise at.broken(f"'{field}' is no text but {found}", hint=_OTHER_FIELDS)
    return value


def _choices(at: ItemRow) -> list[str]:
    """Texts of the choices; none where it is no such question."""
    if "A" in at.row and "B" in at.row:
        return [_text(at, letter) for letter in LETTERS if letter in at.row]
    for field in _CHOICES:
        value = at.row.get(field)
        if isinstance(value, dict):  # ARC: {"text": [...], "label": [...]}
            value = value.get("text")
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            return value
    return []
