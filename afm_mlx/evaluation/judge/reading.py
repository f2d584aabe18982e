"""What a judge said. Forms differ from judge to judge; what has no clear meaning is not guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from afm_mlx.evaluation.dimensions import DIMENSIONS, MARKS
from afm_mlx.evaluation.judge.wording import SCORES

Verdict = Literal["A", "B", "tie"]

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*10)?")
_VERDICTS: Mapping[str, Verdict] = {"a": "A", "b": "B", "tie": "tie"}
_BRACKETS = re.compile(r"\[\[(A|B|tie)\]\]", re.IGNORECASE)  # as MT-bench asks for it
# In JSON that was cut, or a line. "A | B | tie", copied from the question, is none.
_FIELD = re.compile(
    r"""verdict\W{1,6}(?:answer\ )?(A|B|tie)[*_`]* (?= ["'},.\n] | \s*\Z )""",
    re.IGNORECASE | re.VERBOSE,
)
_AROUND = " \t\r\n*_`\"'.,:()[]"  # of a word in Markdown and the like
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Grades:
    """Of one answer."""

    score: float
    """1 to 10."""
    grades: Mapping[str, str]
    """One of `MARKS` for each of `DIMENSIONS`."""

    @property
    def good(self) -> bool:
        """Whether all dimensions are good."""
        return all(grade == "good" for grade in self.grades.values())

    @property
    def poor(self) -> bool:
        """Whether any dimension is poor."""
        return any(grade == "poor" for grade in self.grades.values())


def read_grades(text: str) -> Grades | None:
    """The last complete grades in what a judge said; None where there are none.

    >>> said = {name: "Good" for name in DIMENSIONS} | {"Score": "8/10"}
    >>> read_grades(f"Here you are: {json.dumps(said)}").score
    8.0
    """
    found = [grades for table in _tables(text) if (grades := _grades(table)) is not None]
    return found[-1] if found else None


def read_verdict(text: str) -> Verdict | None:
    """The verdict in what a judge said: the last one in JSON, else the only one; None for none.

    >>> read_verdict('A is longer, but {"reason": "It is true.", "verdict": "B"}')
    'B'
    """
    for table in reversed(list(_tables(text))):
        if (said := _verdict(table.get("verdict"))) is not None:
            return said
    text = _said(text)
    if (whole := _verdict(text)) is not None:
        return whole
    for pattern in (_BRACKETS, _FIELD):
        found = {_verdict(match[1]) for match in pattern.finditer(text)}
        if len(found) == 1:
            return found.pop()
    return None


def _said(text: str) -> str:
    """What is said after thinking aloud."""
    return text.rpartition("</think>")[2]


def _tables(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects in a text, in order, not those inside of others; their keys like `a_b`."""
    text = _said(text)
    place = text.find("{")
    while place >= 0:
        try:
            table, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield {_plain(key): value for key, value in table.items()}
        place = text.find("{", end)


def _plain(key: str) -> str:
    return re.sub(r"[\s_-]+", "_", key.strip().lower())


def _grades(table: Mapping[str, Any]) -> Grades | None:
    score = _score(table.get("score"))
    grades = {name: _grade(table.get(name)) for name in DIMENSIONS}
    known = {name: grade for name, grade in grades.items() if grade}
    return Grades(score, known) if score is not None and len(known) == len(DIMENSIONS) else None


def _grade(said: Any) -> str:
    if isinstance(said, dict):
        said = next((value for key, value in said.items() if _plain(key) == "grade"), "")
    word = said.strip(_AROUND).lower() if isinstance(said, str) else ""
    return word if word in MARKS else ""


def _score(said: Any) -> float | None:
    if isinstance(said, dict):
        said = next((value for key, value in said.items() if _plain(key) == "score"), None)
    if isinstance(said, str):
        match = _NUMBER.fullmatch(said.strip(_AROUND))
        said = float(match[1]) if match else None
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    return float(said) if SCORES[0] <= said <= SCORES[-1] else None


def _verdict(said: Any) -> Verdict | None:
    if not isinstance(said, str):
        return None
    return _VERDICTS.get(said.strip(_AROUND).lower().removeprefix("answer "))
