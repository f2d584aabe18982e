"""Prompts on which answers of two models are compared, by people or by a judge.

A line of a file is a prompt:

    {"id": "math-001", "category": "math", "prompt": "What is 18% of 250?", "reference": "45"}

`reference` stands only where one answer is right; graders see it, models never do. Our own file is
for comparing models only: nothing trains on it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from afm_mlx.errors import DataError

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
    "summarization",
    "writing",
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
    """The right answer, in brief, where there is only one; for those who grade."""


def own_prompts() -> tuple[Prompt, ...]:
    """Our 1,393 prompts, 126 or 127 in each category, about one in twelve not in English.

    In safety, those with odd numbers should be declined or answered with care, and those with even
    numbers only look unsafe.
    """
    return read_prompts(Path(__file__).with_name("prompts.jsonl"))


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a JSONL file, in order. Empty lines are no lines.

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
                    prompt = _prompt(line)
                    if (first := lines.setdefault(prompt.id, number)) != number:
                        raise DataError(f"id '{prompt.id}' is on line {first:,} already")
                except DataError as error:
                    raise DataError(f"{path.name}, line {number:,}: {error}", hint=FORMAT) from None
                found.append(prompt)
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", hint="name a file of prompts in it") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if not found:
        raise DataError(f"{path} has no prompt", hint=FORMAT)
    return tuple(found)


def _prompt(line: bytes) -> Prompt:
    """The prompt that a line is. Raises DataError without the place."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise DataError("not JSON") from None
    if not isinstance(row, dict):
        raise DataError("not a prompt")
    known = [field.name for field in fields(Prompt)]
    for name, value in row.items():
        if name not in known:
            raise DataError(f"unknown field '{name}', fields are {', '.join(known)}")
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"'{name}' is not a text, or empty")
    for name in ("id", "category", "prompt"):
        if name not in row:
            raise DataError(f"no '{name}'")
    return Prompt(**row)
