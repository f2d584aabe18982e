"""Which of two answers is better: comparisons from people's files, or made of checked answers.

A line of a file is one comparison:

    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "level": "significantly_better",
     "chosen_grades": {"truthfulness": 2}, "rejected_grades": {"truthfulness": 0}}

`prompt` is a text or a list of messages, an answer is a text, a message or a list of one. TRL's
lines without a prompt, whose answers are whole conversations that begin alike, are read, too.
`level` is "better" where it is missing; grades may be missing, and any of them null. `tools` are
declarations as in a conversation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from afm_mlx.errors import DataError
from afm_mlx.settings.alignment import PreferenceLevels
from afm_mlx.text.conversations import Conversation, read_message

FORMAT = 'a line is {"prompt": ..., "chosen": ..., "rejected": ...}'

LEVELS = tuple(PreferenceLevels.model_fields)
"""Strengths of a preference, the strongest first."""

LEVEL = "better"
"""Strength where a line has none."""

LEVEL_GAPS = (0.75, 0.5, 0.25, 0.0)
"""Least difference of two answers' scores, each 0 to 1, at each of `LEVELS`. Ours."""


@dataclass(frozen=True)
class Preference:
    """Two answers to a prompt, of which the first is preferred."""

    prompt: tuple[dict[str, Any], ...]
    """Messages up to the answer."""
    chosen: dict[str, Any]
    """The preferred answer: a message of the assistant."""
    rejected: dict[str, Any]
    """The other answer."""
    level: str = LEVEL
    """How strong the preference is, one of `LEVELS`."""
    chosen_grades: Mapping[str, int] = field(default_factory=dict)
    """Grades of the preferred answer by quality, from 0; those that were given."""
    rejected_grades: Mapping[str, int] = field(default_factory=dict)
    """Grades of the other answer."""
    tools: tuple[dict[str, Any], ...] = ()
    """Declarations of functions."""
    where: str = field(default="", compare=False)
    """File and line, for messages about it."""

    def conversation(self, answer: Mapping[str, Any]) -> Conversation:
        """The prompt with one of the answers."""
        return Conversation((*self.prompt, dict(answer)), self.tools, where=self.where)

    def line(self) -> dict[str, Any]:
        """The comparison as a line of a file, ready for JSON."""
        facts: dict[str, Any] = {
            "prompt": list(self.prompt),
            "chosen": self.chosen,
            "rejected": self.rejected,
            "level": self.level,
        }
        for name in ("chosen_grades", "rejected_grades", "tools"):
            if value := getattr(self, name):
                facts[name] = list(value) if name == "tools" else dict(value)
        return facts


def read_preferences(
    path: Path,
    *,
    grades: Sequence[str] = (),
    grade_classes: int = 0,
    skip_bad: bool = False,
    skipped: list[str] | None = None,
) -> Iterator[Preference]:
    """Comparisons of a JSONL file, in order. Empty lines are no lines.

    Args:
        path: the file.
        grades: qualities that answers may be graded in; none: grades are not looked at.
        grade_classes: a grade is 0 to this less 1.
        skip_bad: leave out lines that are no comparison, instead of stopping at the first.
        skipped: what was wrong with each line that is left out is added here, with its place.

    Raises:
        DataError: the file cannot be read, or without `skip_bad` a line is no comparison: it is
            not JSON, lacks an answer, has two equal ones, an unknown role, level or grade, or a
            grade out of range.
    """
    try:
        with path.expanduser().open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path.name}, line {number:,}"
                try:
                    yield _preference(line, where, grades, grade_classes)
                except DataError as error:
                    note_or_raise(error, where, skip_bad=skip_bad, skipped=skipped)
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", hint="name a file in it") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def write_preferences(path: Path, preferences: Iterable[Preference]) -> int:
    """Write a JSONL file that `read_preferences` reads, and return the number of lines."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for preference in preferences:
            file.write(json.dumps(preference.line(), ensure_ascii=False) + "\n")
            count += 1
    return count


def preferences_of_scores(
    prompt: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]],
    scores: Sequence[float],
    *,
    most_pairs: int,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[Preference]:
    """Comparisons of answers that a program has scored: best with worst, second with second last.

    Answers of equal score, and equal answers, are not compared. The level follows from the gap.

    Args:
        prompt: messages up to the answer.
        answers: messages of the assistant.
        scores: of each answer, 0 to 1.
        most_pairs: stop after this many.
        tools: declarations of functions.
    """
    order = sorted(range(len(answers)), key=lambda number: -scores[number])
    found: list[Preference] = []
    for best, worst in zip(order, reversed(order), strict=True):
        gap = scores[best] - scores[worst]
        if gap <= 0 or len(found) == most_pairs:
            break
        if answers[best] != answers[worst]:
            found.append(
                Preference(
                    tuple(map(dict, prompt)),
                    dict(answers[best]),
                    dict(answers[worst]),
                    level_of_gap(gap),
                    tools=tuple(map(dict, tools)),
                )
            )
    return found


def level_of_gap(gap: float) -> str:
    """Strength of a preference from the difference of two scores, above 0, to 1."""
    return next(level for level, least in zip(LEVELS, LEVEL_GAPS, strict=True) if gap >= least)


def level_of_reward_gap(gap: float) -> str:
    """The level whose probability is nearest to the one that a difference of rewards stands for."""
    probability = 1 / (1 + math.exp(-min(abs(gap), 50.0)))
    levels = PreferenceLevels()
    return min(LEVELS, key=lambda level: abs(getattr(levels, level) - probability))


def note_or_raise(
    error: DataError, where: str, *, skip_bad: bool, skipped: list[str] | None
) -> None:
    """Add a bad line to `skipped` with its place; without `skip_bad` raise a DataError of it."""
    message = f"{where}: {error}"
    if not skip_bad:
        hint = error.hint or "mend the line, or leave such lines out: --skip-bad"
        raise DataError(message, hint=hint) from None
    if skipped is not None:
        skipped.append(message)


def _preference(line: bytes, where: str, grades: Sequence[str], grade_classes: int) -> Preference:
    """The comparison that a line is. Raises DataError without the place."""
    try:
        table = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text", hint=FORMAT) from None
    except (ValueError, RecursionError):
        raise DataError("not JSON", hint=FORMAT) from None
    if not isinstance(table, dict):
        raise DataError("not a comparison", hint=FORMAT)
    prompt, chosen, rejected = _sides(table)
    messages = tuple(_message(value, "prompt", at) for at, value in enumerate(prompt, start=1))
    if not messages:
        raise DataError("'prompt' is empty")
    if messages[-1]["role"] == "assistant":
        raise DataError("'prompt' ends with a turn of the assistant: there is nothing to answer")
    better, worse = _answer(chosen, "chosen"), _answer(rejected, "rejected")
    if better == worse:
        raise DataError("'chosen' and 'rejected' are equal")
    tools = table.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("'tools' is not a list of declarations")
    return Preference(
        messages,
        better,
        worse,
        level=_level(table.get("level")),
        chosen_grades=_grades(table, "chosen_grades", grades, grade_classes),
        rejected_grades=_grades(table, "rejected_grades", grades, grade_classes),
        tools=tuple(tools),
        where=where,
    )


def _sides(table: Mapping[str, Any]) -> tuple[list[Any], Any, Any]:
    """Prompt, preferred answer and the other one, as they are written."""
    for name in ("chosen", "rejected"):
        if table.get(name) is None:
            raise DataError(f"no '{name}'", hint=FORMAT)
    chosen, rejected = table["chosen"], table["rejected"]
    if "prompt" in table:
        prompt = table["prompt"]
        if isinstance(prompt, str):
            return [{"role": "user", "content": prompt}] if prompt.strip() else [], chosen, rejected
        if not isinstance(prompt, list):
            raise DataError("'prompt' is neither a text nor a list of messages", hint=FORMAT)
        return prompt, chosen, rejected
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise DataError("no 'prompt'", hint=FORMAT)
    if not chosen or not rejected or chosen[:-1] != rejected[:-1]:
        raise DataError("no 'prompt', and the conversations do not begin alike", hint=FORMAT)
    return chosen[:-1], chosen[-1], rejected[-1]


def _answer(value: Any, name: str) -> dict[str, Any]:
    """An answer as a message."""
    if isinstance(value, list):
        if len(value) != 1:
            raise DataError(f"'{name}' has {len(value)} messages: an answer is one")
        (value,) = value
    if isinstance(value, str):
        value = {"role": "assistant", "content": value}
    if isinstance(value, dict) and value.get("role") == "assistant":
        if not value.get("tool_calls") and not str(value.get("content") or "").strip():
            raise DataError(f"'{name}' is empty")
        return _message(value, name)
    raise DataError(f"'{name}' is neither a text nor a message of the assistant", hint=FORMAT)


def _message(value: Any, name: str, number: int = 1) -> dict[str, Any]:
    try:
        return read_message(value, number)
    except DataError as error:
        raise DataError(f"in '{name}': {error}", hint=error.hint) from None


def _level(value: Any) -> str:
    if value is None:
        return LEVEL
    if value not in LEVELS:
        near = get_close_matches(str(value), LEVELS, n=1)
        raise DataError(
            f"no level is called '{value}'",
            hint=f"did you mean '{near[0]}'?" if near else f"there are {', '.join(LEVELS)}",
        )
    return str(value)


def _grades(
    table: Mapping[str, Any], name: str, qualities: Sequence[str], classes: int
) -> dict[str, int]:
    """The grades of one answer that were given."""
    given = table.get(name)
    if given is None or not qualities:
        return {}
    if not isinstance(given, dict):
        raise DataError(f"'{name}' is not a table of grades")
    found = {}
    for quality, grade in given.items():
        if quality not in qualities:
            raise DataError(
                f"'{name}' grades '{quality}'", hint=f"qualities are {', '.join(qualities)}"
            )
        if grade is None:
            continue
        if isinstance(grade, bool) or not isinstance(grade, int) or not 0 <= grade < classes:
            raise DataError(
                f"'{name}' has {json.dumps(grade)} for {quality}: a grade is 0 to {classes - 1}, "
                "or null"
            )
        found[quality] = grade
    return found
