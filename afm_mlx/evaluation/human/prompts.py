"""Prompts that people compare answers to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from afm_mlx.errors import DataError

CATEGORIES = (
    "brainstorming",
    "classification",
    "closed QA",
    "coding",
    "extraction",
    "math",
    "open QA",
    "rewriting",
    "safety",
    "summarization",
    "writing",
)


@dataclass(frozen=True)
class Prompt:
    """A prompt with its category."""

    id: str
    category: str
    prompt: str
    reference: str = ""


def own_prompts() -> list[Prompt]:
    """The prompts that come with the toolkit."""
    return read_prompts(Path(__file__).with_name("prompts.jsonl"))


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(Prompt(**json.loads(line)))
        except (ValueError, TypeError):
            raise DataError(f"{path.name}, line {number:,}: not a prompt") from None
    return found
