"""Prompts on which answers of two models are compared, by people or by a judge.

A line of a file is a prompt:

    {"id": "math-001", "category": "math", "prompt": "What is 18% of 250?", "reference": "45"}

`reference` stands where one answer is right, or a person has written a good one; graders see it,
models never do. Our own file is for comparing models only: nothing trains on it. A file of QMSum is
read as it is: see `meetings`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from afm_mlx.errors import DataError
from afm_mlx.evaluation.meetings import TURNS, queries_of
from afm_mlx.settings.mistakes import nearest

SUMMARIES, WRITING = "summarization", "writing"
"""Categories of prompts for summaries, and for texts of other kinds."""

CATEGORIES = (
    "brainstorming",
    "classification",
    "closed_qa",
    "coding",
    "extraction",
    "math",
    "open_qa",
    "rewriting",
    "safety",
    SUMMARIES,
    WRITING,
)
"""What our own prompts ask for. Source: arXiv:2407.21075, as is their number."""

FORMAT = 'a line is {"id": ..., "category": ..., "prompt": ..., "reference": ...}'


@dataclass(frozen=True)
class Prompt:
    """What is asked of both models."""

    id: str
    """Name of the prompt, once in a file."""
    category: str
    """One of `CATEGORIES`, or a word of the user's own."""
    prompt: str
    """What the user says: the whole conversation so far."""
    reference: str = ""
    """The right answer, in brief, or what a person wrote; "" for none."""


def own_prompts() -> tuple[Prompt, ...]:
    """Our 1,393 prompts, 126 or 127 in each category, about one in twelve not in English.

    In safety, those with odd numbers should be declined or answered with care, and those with even
    numbers only look unsafe.
    """
    return read_prompts(Path(__file__).with_name("prompts.jsonl"))


def read_prompts(path: Path, *, whole_meetings: bool = False) -> tuple[Prompt, ...]:
    """The prompts of a JSONL file, in order. Empty lines are no lines.

    Args:
        path: a file of ours, or QMSum's.
        whole_meetings: take QMSum's queries about a whole meeting, too: tens of thousands of
            tokens each.

    Raises:
        DataError: the file cannot be read or has no prompt; or a line is no prompt: not JSON,
            without a field, with an unknown one, or with an id that was there before.
    """
    found: list[Prompt] = []
    lines: dict[str, int] = {}
    try:
        with path.expanduser().open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    for prompt in _prompts(line, number - 1, whole_meetings):
                        if (first := lines.setdefault(prompt.id, number)) != number:
                            raise DataError(f"id '{prompt.id}' is on line {first:,} already")
                        found.append(prompt)
                except DataError as error:
                    raise DataError(f"{path.name}, line {number:,}: {error}", hint=FORMAT) from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", hint="name a file of prompts in it") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if not found:
        raise DataError(f"{path} has no prompt", hint=FORMAT)
    return tuple(found)


def of_categories(prompts: Sequence[Prompt], wanted: Sequence[str]) -> list[Prompt]:
    """Those of some categories.

    Raises:
        DataError: no prompt is of one of these.
    """
    known = list(dict.fromkeys(prompt.category for prompt in prompts))
    for word in wanted:
        if word not in known:
            near = nearest(word, known)
            raise DataError(
                f"no prompt is of category '{word}'",
                hint=f"did you mean '{near}'?" if near else f"there are {', '.join(known)}",
            )
    return [prompt for prompt in prompts if prompt.category in wanted]


def _prompts(line: bytes, number: int, whole_meetings: bool) -> Iterator[Prompt]:
    """The prompts of a line: one, or a meeting's. Raises DataError without the place."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise DataError("not JSON") from None
    if not isinstance(row, dict):
        raise DataError("not a prompt")
    if TURNS in row:
        for id, prompt, reference in queries_of(row, number, whole=whole_meetings):
            yield Prompt(id, SUMMARIES, prompt, reference)
        return
    if row.get("reference", "") is None:
        del row["reference"]
    known = [field.name for field in fields(Prompt)]
    for name, value in row.items():
        if name not in known:
            raise DataError(f"unknown field '{name}', fields are {', '.join(known)}")
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"'{name}' is not a text, or empty")
    for name in ("id", "category", "prompt"):
        if name not in row:
            raise DataError(f"no '{name}'")
    yield Prompt(**row)
