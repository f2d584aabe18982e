"""Comparisons by people as training data: what `afm prefer` and `afm reward` read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from afm_mlx.alignment.preferences import LEVELS, Preference
from afm_mlx.errors import DataError
from afm_mlx.evaluation.human.store import Store
from afm_mlx.evaluation.human.study import Kind


@dataclass(frozen=True)
class Preferences:
    """Comparisons that can be learned from, and how many cannot."""

    found: list[Preference]
    ties: int
    """Nobody's answer is better, on the whole."""
    unusable: int
    """One answer is empty, or both are equal."""


def preferences_of(store: Store) -> Preferences:
    """A comparison of each card that was graded, in the order of the cards.

    The level is the graders' mean verdict, from -3 to 3, rounded: 3 is `significantly_better`, 2
    `better`, 1 `slightly_better`, and less than a half `negligibly_better`.

    Raises:
        DataError: single answers were graded.
    """
    if store.study.kind != Kind.PAIRS:
        raise DataError(
            f"{store.path} has grades of single answers, and no comparisons",
            hint="compare two models: afm human serve a.jsonl b.jsonl",
        )
    verdicts: dict[int, list[int]] = {}
    for grade in store.grades():
        if isinstance(grade.verdict, int):
            verdicts.setdefault(grade.card, []).append(grade.verdict)
    found, ties, unusable = [], 0, 0
    for card in sorted(verdicts):
        mean = math.fsum(verdicts[card]) / len(verdicts[card])
        asked, (left, right) = store.shown(card)
        if not left.strip() or not right.strip() or left == right:
            unusable += 1
        elif not mean:
            ties += 1
        else:
            better, worse = (right, left) if mean > 0 else (left, right)
            found.append(
                Preference(
                    ({"role": "user", "content": asked.prompt},),
                    {"role": "assistant", "content": better},
                    {"role": "assistant", "content": worse},
                    level_of(mean),
                )
            )
    return Preferences(found, ties, unusable)


def level_of(mean: float) -> str:
    """Strength of a preference from a mean verdict that is not 0."""
    return LEVELS[len(LEVELS) - 1 - math.floor(abs(mean) + 0.5)]
