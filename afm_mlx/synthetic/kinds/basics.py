"""One-step tasks with short answers: what a model of a few million parameters can learn.

What a task is about, such as two numbers to add, is drawn apart from how it is said. Families are
tasks, cut into parts by what they are about: so held-out numbers and words stand in no task of
training, however it is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from afm_mlx.settings.synthetic import SynthBasics
from afm_mlx.synthetic.draws import Draw, share_of
from afm_mlx.synthetic.records import Candidate, Kind, assistant, user

PARTS = 20
"""Families of one task. Ours."""

_TRIES = 40 * PARTS  # draws until one belongs to the family; ours

_WORDS = {
    "animal": ("dog", "cat", "horse", "fox", "cow", "bird", "fish", "bee", "duck", "goat"),
    "color": ("red", "blue", "green", "black", "white", "yellow", "gray", "brown", "pink"),
    "food": ("bread", "milk", "rice", "soup", "cake", "apple", "egg", "salt", "tea", "corn"),
    "thing": ("table", "door", "lamp", "book", "key", "cup", "box", "pen", "chair", "clock"),
}
_OPPOSITES = (
    ("hot", "cold"), ("old", "new"), ("big", "small"), ("fast", "slow"), ("high", "low"),
    ("open", "closed"), ("full", "empty"), ("hard", "soft"), ("long", "short"), ("early", "late"),
    ("light", "dark"), ("up", "down"),
)  # fmt: skip
_OPPOSITE = dict(_OPPOSITES) | {other: one for one, other in _OPPOSITES}
_ALL_WORDS = tuple(word for words in _WORDS.values() for word in words)


@dataclass(frozen=True)
class _Task:
    """A task before it is said."""

    about: str
    """What decides the answer; tasks that are the same but for their words share it."""
    said: Sequence[str]
    """Ways to say it."""
    answer: str
    check: str = "exact"
    """Kind of the check."""


def _sum(draw: Draw) -> _Task:
    a, b = draw.between(1, 12), draw.between(1, 12)
    said = (
        f"How much is {a} + {b}?", f"Add {a} and {b}.", f"What is {a} plus {b}?", f"{a} + {b} = ?",
    )  # fmt: skip
    return _Task(f"{min(a, b)} {max(a, b)}", said, str(a + b), "number")


def _larger(draw: Draw) -> _Task:
    a, b = draw.some(range(1, 100), 2)
    said = (
        f"Which number is larger, {a} or {b}?", f"What is the larger one of {a} and {b}?",
        f"{a} or {b}: which is more?", f"Name the larger number: {a}, {b}.",
    )  # fmt: skip
    return _Task(f"{min(a, b)} {max(a, b)}", said, str(max(a, b)), "number")


def _next(draw: Draw) -> _Task:
    a = draw.between(1, 199)
    said = (
        f"Which number comes after {a}?", f"What follows {a}?", f"Count on from {a} by one.",
        f"Say the number after {a}.",
    )  # fmt: skip
    return _Task(str(a), said, str(a + 1), "number")


def _count(draw: Draw) -> _Task:
    words = draw.some(_ALL_WORDS, draw.between(1, 6))
    text = " ".join(words)
    said = (
        f"How many words are there: {text}", f"Count these words: {text}",
        f"Tell me the number of words here: {text}", f"{text} - how many words is that?",
    )  # fmt: skip
    return _Task(" ".join(sorted(words)), said, str(len(words)), "number")


def _range(draw: Draw) -> _Task:
    first = draw.between(1, 40)
    last = first + draw.between(1, 5)
    said = (
        f"Count from {first} to {last}.", f"Write the numbers from {first} to {last}.",
        f"{first} to {last}, number by number, please.", f"List all numbers from {first} to {last}.",
    )  # fmt: skip
    return _Task(f"{first} {last}", said, " ".join(map(str, range(first, last + 1))))


def _kinds(draw: Draw) -> _Task:
    kinds = [draw.pick(tuple(_WORDS)) for _ in range(2)]
    one, other = (draw.pick(_WORDS[kind]) for kind in kinds)
    said = (
        f"Animal, color, food or thing: what are {one} and {other}?", f"What kind of words are {one} and {other}?",
        f"Name the kind of each word: {one}, {other}.", f"Say what {one} is, and what {other} is.",
    )  # fmt: skip
    return _Task(f"{one} {other}", said, ", ".join(kinds))


def _opposites(draw: Draw) -> _Task:
    one, other = draw.some(tuple(_OPPOSITE), 2)
    said = (
        f"What are the opposites of {one} and {other}?", f"Name the opposites: {one}, {other}.",
        f"Say the opposite of {one}, then of {other}.", f"{one} and {other}: turn both round.",
    )  # fmt: skip
    return _Task(f"{one} {other}", said, f"{_OPPOSITE[one]}, {_OPPOSITE[other]}")


def _capitals(draw: Draw) -> _Task:
    text = " ".join(words := draw.some(_ALL_WORDS, 2))
    said = (
        f"Write '{text}' in capital letters.", f"Say '{text}' in upper case.",
        f"Put this in capitals: {text}", f"{text} - all letters large, please.",
    )  # fmt: skip
    return _Task(" ".join(sorted(words)), said, text.upper())


def _repeat(draw: Draw) -> _Task:
    text, times = " ".join(draw.some(_ALL_WORDS, draw.between(1, 2))), draw.between(2, 4)
    said = (
        f"Say '{text}' {times} times.", f"Repeat '{text}' {times} times.",
        f"Write {text} {times} times, with spaces.", f"{times} times '{text}', please.",
    )  # fmt: skip
    return _Task(f"{text} {times}", said, " ".join([text] * times))


def _which(draw: Draw) -> _Task:
    kinds = draw.some(tuple(_WORDS), 3)
    words = [draw.pick(_WORDS[kind]) for kind in kinds]
    text = ", ".join(draw.shuffled(words))
    kind = f"an {kinds[0]}" if kinds[0] == "animal" else f"a {kinds[0]}"
    said = (
        f"Which of these is {kind}: {text}?", f"Find the {kinds[0]}: {text}.",
        f"One of these is {kind}. Which one? {text}", f"Name the {kinds[0]} among {text}.",
    )  # fmt: skip
    return _Task(" ".join(sorted(words)), said, words[0])


def _member(draw: Draw) -> _Task:
    words, inside = draw.some(_ALL_WORDS, 4), draw.chance(0.5)
    text, asked = ", ".join(words[:3]), words[draw.below(3)] if inside else words[3]
    said = (
        f"Is '{asked}' one of these: {text}?", f"Does the list {text} contain '{asked}'?",
        f"Answer yes or no. Is {asked} among {text}?", f"{text}. Is {asked} there?",
    )  # fmt: skip
    return _Task(f"{asked} {' '.join(sorted(words[:3]))}", said, "yes" if inside else "no")


def _end(draw: Draw) -> _Task:
    words, first = draw.some(_ALL_WORDS, draw.between(2, 4)), draw.chance(0.5)
    text, place = ", ".join(words), "first" if first else "last"
    said = (
        f"What is the {place} word of {text}?", f"Say the {place} word: {text}.",
        f"{text}: which word is {place}?", f"Give me the {place} one of {text}.",
    )  # fmt: skip
    return _Task(" ".join(sorted(words)), said, words[0 if first else -1])


def _json(draw: Draw) -> _Task:
    word, number = draw.pick(_ALL_WORDS), draw.between(1, 30)
    said = (
        f"JSON with name {word} and count {number}.", f"As JSON: the name is {word}, the count {number}.",
        f"Make JSON of name={word}, count={number}.", f"{number} of {word}, as JSON with name and count.",
    )  # fmt: skip
    return _Task(f"{word} {number}", said, json.dumps({"name": word, "count": number}))


_TASKS: dict[str, Callable[[Draw], _Task]] = {
    "sum": _sum,
    "larger": _larger,
    "next": _next,
    "count": _count,
    "range": _range,
    "kinds": _kinds,
    "opposites": _opposites,
    "capitals": _capitals,
    "repeat": _repeat,
    "which": _which,
    "member": _member,
    "end": _end,
    "json": _json,
}
"""By name; names never change, since they decide the split."""


def basics_kind(settings: SynthBasics) -> Kind:
    """The generator of one-step tasks."""
    families = tuple(f"{task}.{part}" for task in settings.tasks for part in range(PARTS))

    def make(draw: Draw, family: str, _: Sequence[str]) -> Candidate | str:
        name, _, part = family.rpartition(".")
        for _try in range(_TRIES):
            task = _TASKS[name](draw)
            if int(PARTS * share_of(f"{name}/{task.about}")) == int(part):
                check: dict[str, Any] = {"kind": task.check, "answer": task.answer}
                return Candidate([user(draw.pick(task.said)), assistant(task.answer)], check)
        return "no such task"

    return Kind("basics", families, make, compare_near=False)
