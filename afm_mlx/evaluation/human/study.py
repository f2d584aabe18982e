"""What people are shown: which answers, in which order, and on which side.

All of it is a function of the answers and a seed. So a server that starts again goes on where it
was, and all graders see the same cards in the same order: what several of them have graded is
comparable.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from afm_mlx.errors import DataError
from afm_mlx.evaluation.answers import AnswerFile


class Kind(StrEnum):
    """What people do."""

    PAIRS = "pairs"
    """Say which of two answers is better, and by how much."""
    GRADES = "grades"
    """Grade one answer in each of the five dimensions."""


STRENGTHS = ("about the same", "slightly better", "better", "much better")
"""Of a verdict, by its size: -3 says that the left answer is much better, 3 the right one."""


@dataclass(frozen=True)
class Asked:
    """A prompt that the models have answered."""

    id: str
    category: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class Card:
    """What is shown at once: one prompt, and one answer or two."""

    prompt: str
    """Its id."""
    models: tuple[str, ...]
    """Whose answers: the left one's and the right one's, or the only one's. No grader learns it."""


@dataclass(frozen=True)
class Study:
    """Models to be compared, and what they wrote."""

    kind: Kind
    seed: int
    models: tuple[str, ...]
    prompts: tuple[Asked, ...]
    answers: tuple[tuple[str, ...], ...]
    """Of each prompt, in the order of the models."""

    @cached_property
    def cards(self) -> list[Card]:
        """All cards, in the order in which they are shown.

        Categories and pairs of models are spread evenly: any first part of the cards has each of
        them in about its share of the whole.
        """
        size = 2 if self.kind == Kind.PAIRS else 1
        found: list[tuple[float, int, Card]] = []
        for group in itertools.combinations(sorted(self.models), size):
            by_category: dict[str, list[tuple[int, Card]]] = {}
            for asked in self.prompts:
                draw = _draw(self.seed, asked.id, *group)
                swapped = size == 2 and draw & 1
                card = Card(asked.id, group[::-1] if swapped else group)
                by_category.setdefault(asked.category, []).append((draw >> 1, card))
            for drawn in by_category.values():
                drawn.sort(key=lambda pair: pair[0])
                for rank, (draw, card) in enumerate(drawn):
                    found.append(((rank + 0.5) / len(drawn), draw, card))
        return [card for _, _, card in sorted(found, key=lambda each: each[:2])]

    @cached_property
    def hash(self) -> str:
        """Of the prompts and answers, in whatever order the files came."""
        content = {
            asked.id: (
                asked.category,
                asked.prompt,
                asked.reference,
                dict(zip(self.models, answers, strict=True)),
            )
            for asked, answers in zip(self.prompts, self.answers, strict=True)
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_study(files: Sequence[AnswerFile], *, kind: Kind, seed: int) -> tuple[Study, int]:
    """A study of the prompts that all files have, and how many only some have.

    Raises:
        DataError: there are too few files, one is empty, two are of one model, or have other words
            for one prompt; or no prompt is in all of them.
    """
    least = 2 if kind == Kind.PAIRS else 1
    if len(files) < least:
        raise DataError(
            f"{len(files)} file of answers, and a comparison needs two",
            hint="name another one, or grade single answers: --grades",
        )
    for file in files:
        if not file.answers:
            raise DataError(f"{file.path} has no answer")
    for first, second in itertools.combinations(files, 2):
        if first.model == second.model:
            raise DataError(
                f"{first.path} and {second.path} both have answers of '{first.model}'",
                hint="give one model another name: afm human answers MODEL --name NAME",
            )
    shared = [id for id in files[0].answers if all(id in file.answers for file in files[1:])]
    everything = {id for file in files for id in file.answers}
    if not shared:
        raise DataError(
            f"no prompt is answered in all {len(files)} files",
            hint="answer the same prompts with each model",
        )
    prompts = []
    for id in shared:
        one = files[0].answers[id]
        for file in files[1:]:
            if file.answers[id].prompt != one.prompt:
                raise DataError(
                    f"prompt '{id}' is not the same text in {files[0].path} and {file.path}",
                    hint="answer the same prompts with each model",
                )
        prompts.append(Asked(id, one.category, one.prompt, one.reference))
    study = Study(
        kind,
        seed,
        tuple(file.model for file in files),
        tuple(prompts),
        tuple(tuple(file.answers[id].answer for file in files) for id in shared),
    )
    return study, len(everything) - len(shared)


def _draw(seed: int, *words: str) -> int:
    """A number of 64 bits that seed and words decide."""
    digest = hashlib.sha256(json.dumps([seed, *words]).encode()).digest()
    return int.from_bytes(digest[:8], "big")
