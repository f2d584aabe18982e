"""Files of answers: one model each, a line per prompt, as `afm human answers` writes them.

    {"id": "math-12", "category": "math", "prompt": "2 + 2?", "reference": "4", "model": "mine",
     "answer": "It is 4.", "finished": "stop", "settings": {"max_tokens": 512, ...}}

A file that was written otherwise needs `id`, `prompt`, `model` and `answer`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from afm_mlx.errors import DataError

FORMAT = 'a line is {"id": ..., "prompt": ..., "model": ..., "answer": ...}'


@dataclass(frozen=True)
class Written:
    """What a model wrote to a prompt: a line of a file."""

    id: str
    """Of the prompt."""
    prompt: str
    model: str
    """Its name."""
    answer: str
    """May be empty, where the model said nothing."""
    category: str = ""
    """Of the prompt; "" for none."""
    reference: str = ""
    """A right answer, or what one must have; "" for none."""
    finished: str = "stop"
    """Why it ended."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was drawn, ready for JSON."""


@dataclass(frozen=True)
class AnswerFile:
    """All answers of a file."""

    path: Path
    model: str
    """Its name; "" where the file is empty."""
    settings: Mapping[str, Any]
    """How the answers were drawn; those of the first line."""
    answers: dict[str, Written]
    """By the prompt's id, in the order of the file."""


def read_answers(path: Path) -> AnswerFile:
    """The answers of a file. Empty lines are no lines.

    Raises:
        DataError: the file cannot be read; a line is no answer, has the prompt or another model
            than a line before it; it names file and line.
    """
    try:
        raw = path.expanduser().read_bytes()
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", hint="name a file in it") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    return _parsed(path, raw)


class Appending:
    """A file of answers that is being written: an answer is there as soon as it is added."""

    def __init__(self, path: Path, model: str, settings: Mapping[str, Any]) -> None:
        """Open a file, or one that is made with its first answer.

        A last line that was cut off is taken out.

        Raises:
            DataError: as `read_answers`; or the answers there are another model's, or were drawn
                otherwise.
        """
        self.path, self._model, self._settings = path, model, settings
        raw = path.read_bytes() if path.exists() else b""
        whole, self.was_cut = _without_cut_line(raw)
        self.there = _parsed(path, whole)
        """Answers that were there before."""
        if self.there.answers:
            self._check()
        self._file: BinaryIO | None = None
        if raw:
            self._file = path.open("r+b")
            self._file.truncate(len(whole))
            self._file.seek(len(whole))
            if whole and not whole.endswith(b"\n"):
                self._file.write(b"\n")

    def __enter__(self) -> Appending:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(
        self, id: str, prompt: str, answer: str, *, category: str, reference: str, finished: str
    ) -> None:
        """Add an answer."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb")
        line = Written(
            id, prompt, self._model, answer, category, reference, finished, self._settings
        )
        self._file.write(json.dumps(asdict(line), ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def _check(self) -> None:
        hint = "name another --out, or delete this one"
        if self.there.model != self._model:
            raise DataError(
                f"{self.path} has answers of '{self.there.model}', and not of '{self._model}'",
                hint=hint,
            )
        old, new = self.there.settings, self._settings
        changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
        if "model" in changed:
            raise DataError(f"'{self._model}' has changed since {self.path} was begun", hint=hint)
        # What only one of them has follows from another one, as a seed from a temperature.
        changed.sort(key=lambda name: name not in old or name not in new)
        for name in changed[:1]:
            raise DataError(
                f"{self.path} has answers with {name} {json.dumps(old.get(name))}, and not "
                f"{json.dumps(new.get(name))}",
                hint=hint,
            )


def _without_cut_line(raw: bytes) -> tuple[bytes, bool]:
    """A file without a last line that was cut off, and whether there was one."""
    end = raw.rfind(b"\n") + 1
    last = raw[end:]
    if not last.strip():
        return raw[:end], False
    try:
        json.loads(last)  # whole: only the line's end is missing
    except ValueError:
        return raw[:end], True
    return raw, False


def _parsed(path: Path, raw: bytes) -> AnswerFile:
    answers: dict[str, Written] = {}
    lines: dict[str, int] = {}
    model, settings = "", {}
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number:,}"
        found = _written(line, where)
        if not answers:
            model, settings = found.model, dict(found.settings)
        if found.model != model:
            raise DataError(
                f"{where}: an answer of '{found.model}', and those before are of '{model}'",
                hint="a file has the answers of one model",
            )
        if found.id in answers:
            raise DataError(
                f"{where}: prompt '{found.id}' is answered in line {lines[found.id]:,} already"
            )
        answers[found.id], lines[found.id] = found, number
    return AnswerFile(path, model, settings, answers)


def _written(line: bytes, where: str) -> Written:
    try:
        table = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8 text", hint=FORMAT) from None
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON", hint=FORMAT) from None
    if not isinstance(table, dict):
        raise DataError(f"{where}: not an answer", hint=FORMAT)
    values: dict[str, Any] = {}
    for name in ("id", "prompt", "model", "answer", "category", "reference", "finished"):
        value = table.get(name)
        if value is None and name in ("category", "reference", "finished"):
            continue
        if value is None:
            raise DataError(f"{where}: no '{name}'", hint=FORMAT)
        if not isinstance(value, str):
            raise DataError(f"{where}: '{name}' is no text", hint=FORMAT)
        if name in ("id", "prompt", "model") and not value.strip():
            raise DataError(f"{where}: '{name}' is empty", hint=FORMAT)
        values[name] = value
    settings = table.get("settings") or {}
    if not isinstance(settings, dict):
        raise DataError(f"{where}: 'settings' is no table", hint=FORMAT)
    return Written(**values, settings=settings)
