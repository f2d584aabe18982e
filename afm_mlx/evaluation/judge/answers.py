"""What models wrote to prompts: a task that asks them, and files of their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afm_mlx.corpus.sources.item_files import ItemRow, read_rows
from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.evaluation.judge.prompts import Prompt
from afm_mlx.evaluation.run import RESULT, SAMPLES

ANSWER_TOKENS = 512
"""Longest answer, unless told. Ours."""

_FORMAT = 'a line is {"key": ..., "answer": ...}'


class Answering:
    """A task: write answers, which a judge or people grade later. Nothing is right or wrong here.

    Its `samples.jsonl` is a file of answers.
    """

    name = "answers"
    figures: Mapping[str, str] = {
        "ended": "share of answers that were not cut",
        "empty": "share of prompts without an answer",
        "characters": "mean length of answers",
    }

    def __init__(self, prompts: Sequence[Prompt], *, max_tokens: int = ANSWER_TOKENS) -> None:
        """Ask `prompts`, for answers of at most `max_tokens`."""
        self.prompts, self.max_tokens = prompts, max_tokens

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {"max_tokens": self.max_tokens}

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        return [
            Question(
                prompt.key,
                ({"role": "user", "content": prompt.text},),
                self.max_tokens,
                group=prompt.kind,
            )
            for prompt in self.prompts
        ]

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        text = reply.text if isinstance(reply, Answer) else ""
        ended = isinstance(reply, Answer) and reply.finished == "stop"
        return {
            "ended": Mark(float(ended)),
            "empty": Mark(float(not text.strip())),
            "characters": Mark(float(len(text))),
        }

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        return {}


@dataclass(frozen=True)
class Answers:
    """What one model wrote."""

    model: str
    """Its name."""
    texts: Mapping[str, str]
    """By the prompts' keys; empty where it gave none."""


def read_answers(path: Path, *, model: str = "") -> Answers:
    """Answers of a file, or of the folder of an `Answering` run.

    A line has `key` or `id`, and `answer`; or is a sample of a run, whose refused prompts count as
    empty answers.

    Args:
        path: the file or the folder.
        model: name of the model; "" for the one that the lines, the run's result or the path give.

    Raises:
        DataError: there is no answer, a line has none, or two have one key.
    """
    file = path / SAMPLES if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise DataError(
            f"{path} has no {SAMPLES}", hint="give a file of answers, or a run's folder"
        )
    texts: dict[str, str] = {}
    named = model
    for row in read_rows(file):
        key = row.field("key" if "key" in row.row else "id")
        if key in texts:
            raise row.broken(f"'{key}' has an answer in an earlier line", hint="leave one of them")
        texts[key] = _answer(row)
        named = named or str(row.row.get("model") or "")
    if not texts:
        raise DataError(f"{file} has no answer", hint=_FORMAT)
    return Answers(named or _model_of_run(file) or _word(file), texts)


def _answer(row: ItemRow) -> str:
    sample = row.row.get("kept")
    found = sample.get("answer", "") if isinstance(sample, dict) else row.field("answer")
    if not isinstance(found, str):
        raise row.broken("'answer' is no text", hint=_FORMAT)
    return found


def _model_of_run(file: Path) -> str:
    """Name of the model whose run a file is part of; "" for none."""
    try:
        return str(json.loads((file.parent / RESULT).read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _word(file: Path) -> str:
    return file.parent.resolve().name if file.name == SAMPLES else file.name.partition(".")[0]
