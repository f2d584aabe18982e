"""The grades of people, in an SQLite file that also holds what they were shown.

A grade is on the disk before anybody is told that it was taken. The file holds the whole study, so
that it alone is enough to go on, to report, and to export.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from afm_mlx.errors import DataError, RunError
from afm_mlx.evaluation.human.study import Asked, Card, Kind, Study

FORMAT = "afm grades 1"
"""What the file is, for later versions."""

BUSY_SECONDS = 10.0
"""For another process to finish its writing. Ours."""

NAME_CHARACTERS = 60
"""Longest name of a grader. Ours."""

TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE models (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE prompts (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, category TEXT NOT NULL,
    prompt TEXT NOT NULL, reference TEXT NOT NULL
);
CREATE TABLE answers (
    prompt INTEGER NOT NULL REFERENCES prompts, model INTEGER NOT NULL REFERENCES models,
    answer TEXT NOT NULL, PRIMARY KEY (prompt, model)
);
CREATE TABLE cards (
    number INTEGER PRIMARY KEY, prompt INTEGER NOT NULL REFERENCES prompts,
    left INTEGER NOT NULL REFERENCES models, right INTEGER REFERENCES models
);
CREATE TABLE grades (
    serial INTEGER PRIMARY KEY AUTOINCREMENT, card INTEGER NOT NULL REFERENCES cards,
    grader TEXT NOT NULL COLLATE NOCASE, verdict TEXT, comment TEXT NOT NULL,
    seconds REAL NOT NULL, at INTEGER NOT NULL, UNIQUE (grader, card)
);
"""
"""All is numbered from 0. A card without `right` shows one answer. A verdict is JSON: -3 to 3, or
marks by dimension; NULL where the card was skipped. `at` is Unix time in seconds."""

Verdict = int | dict[str, int]
"""Of two answers: -3 to 3, see `STRENGTHS`; of one: marks by dimension, see `MARKS`."""


@dataclass(frozen=True)
class Grade:
    """What a person said about a card."""

    card: int
    grader: str
    verdict: Verdict | None
    """None: skipped."""
    comment: str
    seconds: float
    """From showing the card to the verdict."""


@dataclass(frozen=True)
class Place:
    """Where a grader is."""

    card: int | None
    """Number of the next card; None where all are done."""
    graded: int
    skipped: int
    total: int
    """Cards to see."""


class Store:
    """A file of grades. May be used from several threads, and by several processes."""

    def __init__(self, path: Path, line: sqlite3.Connection) -> None:
        """A file that is one of ours."""
        self.path, self._line, self._lock = path, line, threading.Lock()
        self.study = self._read_study()
        self.cards = self._read_cards()
        """All cards, in the order in which they are shown."""

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the grades in a file.

        Raises:
            DataError: it is not there, or not one of ours.
        """
        if not path.is_file():
            raise DataError(
                f"there are no grades at {path}",
                hint=f"collect some: afm human serve a.jsonl b.jsonl --db {path.name}",
            )
        return _opened(path)

    @classmethod
    def of_study(cls, path: Path, study: Study) -> Store:
        """Open the grades of a study, or begin a file for them.

        Raises:
            DataError: the file has grades of other models, prompts or answers, or is not one of
                ours.
            RunError: it cannot be opened or written, or its folder is not there.
        """
        if not path.exists():
            _begin(path, study)
        store = _opened(path)
        try:
            store._check(study)
        except DataError:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._line.close()

    def place(self, grader: str, *, most: int | None = None) -> Place:
        """Where a grader is among the first `most` cards; None for all of them."""
        total = len(self.cards) if most is None else min(len(self.cards), most)
        with self._lock:
            rows = self._line.execute(
                "SELECT card, verdict IS NULL FROM grades WHERE grader = ? AND card < ?",
                (grader, total),
            ).fetchall()
        seen = {card for card, _ in rows}
        skipped = sum(skip for _, skip in rows)
        following = next((card for card in range(total) if card not in seen), None)
        return Place(following, len(rows) - skipped, skipped, total)

    def put(self, grade: Grade) -> None:
        """Keep a grade; it is on the disk when this returns. The last one of a card counts."""
        verdict = None if grade.verdict is None else json.dumps(grade.verdict, sort_keys=True)
        with self._lock, self._line:
            self._line.execute(
                "INSERT INTO grades (card, grader, verdict, comment, seconds, at) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (grader, card) DO UPDATE SET "
                "verdict = excluded.verdict, comment = excluded.comment",
                (
                    grade.card,
                    grade.grader,
                    verdict,
                    grade.comment,
                    grade.seconds,
                    int(time.time()),
                ),
            )

    def undo(self, grader: str) -> Grade | None:
        """Take back what a grader said last, and return it; None where there is nothing."""
        with self._lock, self._line:
            rows = self._line.execute(
                "DELETE FROM grades WHERE serial = (SELECT MAX(serial) FROM grades WHERE "
                "grader = ?) RETURNING card, grader, verdict, comment, seconds",
                (grader,),
            ).fetchall()
        return _grade(rows[0]) if rows else None

    def show_skipped_again(self, grader: str) -> int:
        """Forget what a grader skipped, so that it comes again; how many cards that are."""
        with self._lock, self._line:
            return self._line.execute(
                "DELETE FROM grades WHERE grader = ? AND verdict IS NULL", (grader,)
            ).rowcount

    def grades(self) -> list[Grade]:
        """All grades, in the order in which they came."""
        with self._lock:
            rows = self._line.execute(
                "SELECT card, grader, verdict, comment, seconds FROM grades ORDER BY serial"
            ).fetchall()
        found = [_grade(row) for row in rows]
        spelled: dict[str, str] = {}  # as each grader was spelled first
        for grade in found:
            spelled.setdefault(grade.grader.lower(), grade.grader)
        return [replace(grade, grader=spelled[grade.grader.lower()]) for grade in found]

    def shown(self, card: int) -> tuple[Asked, tuple[str, ...]]:
        """The prompt and the answers of a card, the left one first."""
        found, study = self.cards[card], self.study
        answers = study.answers[self._places[found.prompt]]
        by_model = dict(zip(study.models, answers, strict=True))
        return self.asked(found), tuple(by_model[model] for model in found.models)

    def asked(self, card: Card) -> Asked:
        """The prompt of a card."""
        return self.study.prompts[self._places[card.prompt]]

    def _read_study(self) -> Study:
        facts = dict(self._line.execute("SELECT name, value FROM facts"))
        if facts.get("format") != FORMAT:
            raise DataError(f"{self.path} is '{facts.get('format')}', and not '{FORMAT}'")
        models = [name for (name,) in self._line.execute("SELECT name FROM models ORDER BY number")]
        prompts = [
            Asked(*row)
            for row in self._line.execute(
                "SELECT id, category, prompt, reference FROM prompts ORDER BY number"
            )
        ]
        answers: list[list[str]] = [[] for _ in prompts]
        for number, answer in self._line.execute(
            "SELECT prompt, answer FROM answers ORDER BY prompt, model"
        ):
            answers[number].append(answer)
        self._places = {asked.id: place for place, asked in enumerate(prompts)}
        return Study(
            Kind(facts["kind"]),
            int(facts["seed"]),
            tuple(models),
            tuple(prompts),
            tuple(map(tuple, answers)),
        )

    def _read_cards(self) -> list[Card]:
        prompts, models = self.study.prompts, self.study.models
        rows = self._line.execute("SELECT prompt, left, right FROM cards ORDER BY number")
        return [
            Card(prompts[prompt].id, tuple(models[at] for at in sides if at is not None))
            for prompt, *sides in rows
        ]

    def _check(self, study: Study) -> None:
        """Raise DataError where the file is of another study."""
        mine, hint = self.study, "name another --db"
        if mine.kind != study.kind:
            raise DataError(f"{self.path} has {_KINDS[mine.kind]}", hint=hint)
        if sorted(mine.models) != sorted(study.models):
            raise DataError(
                f"{self.path} is of {', '.join(mine.models)}, and the files are of "
                f"{', '.join(study.models)}",
                hint=hint,
            )
        if mine.hash != study.hash:
            raise DataError(
                f"{self.path} is of other prompts or answers of {', '.join(mine.models)}",
                hint=f"{hint}, or go on with what is in it: afm human serve --db {self.path}",
            )
        if mine.seed != study.seed:
            raise DataError(
                f"{self.path} was begun with --seed {mine.seed}, and not {study.seed}",
                hint=f"--seed {mine.seed}, or name another --db",
            )


_KINDS: Mapping[Kind, str] = {
    Kind.PAIRS: "comparisons, and not --grades",
    Kind.GRADES: "grades of single answers: --grades",
}


def clean_name(text: str) -> str:
    """A grader's name, without spaces around it and one between its words; "" for none."""
    return " ".join(text.split())[:NAME_CHARACTERS].strip()


def _opened(path: Path) -> Store:
    line = _connect(path, "rw")
    try:
        # Also a loss of power loses nothing that was answered to. On macOS, fsync alone leaves it
        # in the drive's own memory.
        line.execute("PRAGMA synchronous = FULL")
        line.execute("PRAGMA fullfsync = ON")
        return Store(path, line)
    except sqlite3.DatabaseError as error:
        line.close()
        if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
            raise RunError(f"cannot open {path}: {error}", hint="name another --db") from None
        raise DataError(f"{path} is no file of grades", hint="name another --db") from None
    except BaseException:
        line.close()
        raise


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise RunError(f"cannot open {path}: {error}", hint="name another --db") from None


def _begin(path: Path, study: Study) -> None:
    """Make a file for a study: it is whole, or not there."""
    if not path.parent.is_dir():
        raise RunError(
            f"cannot write {path}: there is no folder {path.parent}", hint="name another --db"
        )
    part = path.with_name(path.name + ".part")
    # A server that was killed leaves a log, and SQLite takes the log beside a file for its own,
    # also where the file has been deleted and made again.
    part.unlink(missing_ok=True)
    for owner in (part, path):
        for ending in ("-wal", "-shm", "-journal"):
            owner.with_name(owner.name + ending).unlink(missing_ok=True)
    try:
        with contextlib.closing(_connect(part, "rwc")) as line:
            for table in filter(str.strip, TABLES.split(";")):
                line.execute(table)
            with line:
                _fill(line, study)
            line.execute("PRAGMA journal_mode = WAL")  # stays with the file
        part.rename(path)
    except sqlite3.Error as error:
        raise RunError(f"cannot write {path}: {error}", hint="name another --db") from None


def _fill(line: sqlite3.Connection, study: Study) -> None:
    facts = {"format": FORMAT, "kind": str(study.kind), "seed": str(study.seed)}
    line.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
    line.executemany("INSERT INTO models VALUES (?, ?)", enumerate(study.models))
    line.executemany(
        "INSERT INTO prompts VALUES (?, ?, ?, ?, ?)",
        (
            (number, asked.id, asked.category, asked.prompt, asked.reference)
            for number, asked in enumerate(study.prompts)
        ),
    )
    line.executemany(
        "INSERT INTO answers VALUES (?, ?, ?)",
        (
            (prompt, model, answer)
            for prompt, each in enumerate(study.answers)
            for model, answer in enumerate(each)
        ),
    )
    prompts = {asked.id: number for number, asked in enumerate(study.prompts)}
    models = {name: number for number, name in enumerate(study.models)}
    line.executemany(
        "INSERT INTO cards VALUES (?, ?, ?, ?)",
        (
            (number, prompts[card.prompt], *[models[name] for name in card.models], None)[:4]
            for number, card in enumerate(study.cards)
        ),
    )


def _grade(row: tuple[Any, ...]) -> Grade:
    card, grader, verdict, comment, seconds = row
    return Grade(card, grader, None if verdict is None else json.loads(verdict), comment, seconds)
