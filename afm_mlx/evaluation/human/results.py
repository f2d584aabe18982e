"""What the grades of people say about the models: ready for JSON.

The unit is the card, since prompts are what was drawn. Where several graders saw one, each has an
equal part in it: a card that two found won and one a tie counts as 2/3 won and 1/3 tie.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from afm_mlx.evaluation.dimensions import DIMENSIONS, MARKS
from afm_mlx.evaluation.human.agreement import interval, krippendorff_alpha, nominal, share_equal
from afm_mlx.evaluation.human.store import Grade, Store
from afm_mlx.evaluation.human.study import Card, Kind
from afm_mlx.evaluation.scores import Score, wilson

POOR, GOOD = MARKS.index("poor"), MARKS.index("good")


def share_of(parts: Sequence[float]) -> Score:
    """Mean of each card's part, 0 to 1, with Wilson's interval.

    Of cards that are split between graders the interval is wider than it had to be: their parts
    vary less than those that are 0 or 1.
    """
    n = len(parts)
    if not n:
        return Score(0.0, 0.0, 1.0, 0)
    value = math.fsum(parts) / n
    return Score(value, *wilson(value, n), n)


def results(store: Store) -> dict[str, Any]:
    """All figures of a file of grades; empty lists where nobody has graded."""
    grades = store.grades()
    given = [grade for grade in grades if grade.verdict is not None]
    by_card: dict[int, list[Grade]] = {}
    for grade in given:
        by_card.setdefault(grade.card, []).append(grade)
    study = store.study
    found: dict[str, Any] = {
        "kind": str(study.kind),
        "models": list(study.models),
        "prompts": len(study.prompts),
        "cards": len(store.cards),
        "graded_cards": len(by_card),
        "grades": len(given),
        "graders": _graders(grades, study.kind),
    }
    if study.kind == Kind.PAIRS:
        found["pairs"] = [
            _pair(store, by_card, pair) for pair in itertools.combinations(study.models, 2)
        ]
        found["left_won"] = asdict(share_of(_left_parts(by_card.values())))
        verdicts = [[_number(grade) for grade in each] for each in by_card.values()]
        found["agreement"] = {
            "cards": sum(len(each) > 1 for each in verdicts),
            "equal": share_equal([[_sign(value) for value in each] for each in verdicts]),
            "alpha": krippendorff_alpha(
                [[_sign(value) for value in each] for each in verdicts], nominal
            ),
            "alpha_strength": krippendorff_alpha(verdicts, interval),
        }
    else:
        found["answers"] = [_answers_of(store, by_card, model) for model in study.models]
        found["agreement"] = {
            dimension: _dimension_agreement(by_card.values(), dimension) for dimension in DIMENSIONS
        }
    found["comments"] = [_comment(store, grade) for grade in grades if grade.comment]
    return found


def seen_from(model: str, card: Card, verdict: int) -> int:
    """A verdict as a model sees it: 3 where its answer is much better, -3 where the other is."""
    return -verdict if card.models[0] == model else verdict


def _pair(
    store: Store, by_card: Mapping[int, list[Grade]], pair: tuple[str, str]
) -> dict[str, Any]:
    """Win, tie and lose of the first of two models."""
    rows: dict[str, list[list[int]]] = {}
    for number, grades in by_card.items():
        card = store.cards[number]
        if set(card.models) == set(pair):
            signs = [_sign(seen_from(pair[0], card, _number(grade))) for grade in grades]
            rows.setdefault(_category(store, card), []).append(signs)
    everything = [signs for each in rows.values() for signs in each]
    return {
        "models": list(pair),
        "cards": len(everything),
        "scores": _outcomes(everything),
        "groups": {name: _outcomes(rows[name]) for name in _categories(store) if name in rows},
    }


def _outcomes(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    return {
        name: asdict(share_of([row.count(sign) / len(row) for row in rows]))
        for name, sign in (("win", 1), ("tie", 0), ("lose", -1))
    }


def _left_parts(cards: Iterable[Sequence[Grade]]) -> list[float]:
    """Of each card that somebody decided, the part that the left answer won."""
    parts = []
    for grades in cards:
        signs = [_sign(_number(grade)) for grade in grades]
        decided = [sign for sign in signs if sign]
        if decided:
            parts.append(decided.count(-1) / len(decided))
    return parts


def _answers_of(store: Store, by_card: Mapping[int, list[Grade]], model: str) -> dict[str, Any]:
    """How good the answers of a model are."""
    rows: dict[str, list[list[dict[str, int]]]] = {}
    for number, grades in by_card.items():
        card = store.cards[number]
        if card.models[0] == model:
            marks = [grade.verdict for grade in grades if isinstance(grade.verdict, dict)]
            rows.setdefault(_category(store, card), []).append(marks)
    everything = [marks for each in rows.values() for marks in each]
    return {
        "model": model,
        "cards": len(everything),
        "scores": _quality(everything),
        "dimensions": {
            name: {
                mark: asdict(share_of([_part(row, [name], all, wanted) for row in everything]))
                for mark, wanted in (("good", GOOD), ("poor", POOR))
            }
            for name in DIMENSIONS
        },
        "groups": {name: _quality(rows[name]) for name in _categories(store) if name in rows},
    }


def _quality(rows: Sequence[Sequence[Mapping[str, int]]]) -> dict[str, Any]:
    """Good: all dimensions are. Poor: any is. Source: arXiv:2407.21075, summaries."""
    return {
        "good": asdict(share_of([_part(row, list(DIMENSIONS), all, GOOD) for row in rows])),
        "poor": asdict(share_of([_part(row, list(DIMENSIONS), any, POOR) for row in rows])),
    }


def _part(row: Sequence[Mapping[str, int]], names: Sequence[str], which: Any, wanted: int) -> float:
    """Part of the graders of an answer for whom all, or any, of some dimensions have a mark."""
    return sum(which(marks[name] == wanted for name in names) for marks in row) / len(row)


def _dimension_agreement(cards: Iterable[Sequence[Grade]], dimension: str) -> dict[str, Any]:
    units = [
        [grade.verdict[dimension] for grade in grades if isinstance(grade.verdict, dict)]
        for grades in cards
    ]
    return {
        "cards": sum(len(unit) > 1 for unit in units),
        "equal": share_equal(units),
        "alpha": krippendorff_alpha(units, interval),
    }


def _graders(grades: Sequence[Grade], kind: Kind) -> list[dict[str, Any]]:
    """What each grader did: somebody who always takes the left answer shows here."""
    rows = []
    for name in dict.fromkeys(grade.grader for grade in grades):
        mine = [grade for grade in grades if grade.grader == name]
        given = [grade for grade in mine if grade.verdict is not None]
        row: dict[str, Any] = {
            "name": name,
            "graded": len(given),
            "skipped": len(mine) - len(given),
            "median_seconds": statistics.median(g.seconds for g in given) if given else None,
        }
        if kind == Kind.PAIRS:
            signs = [_sign(_number(grade)) for grade in given]
            row |= {"left": signs.count(-1), "tie": signs.count(0), "right": signs.count(1)}
        rows.append(row)
    return rows


def _comment(store: Store, grade: Grade) -> dict[str, Any]:
    card = store.cards[grade.card]
    return {
        "prompt": card.prompt,
        "models": list(card.models),
        "grader": grade.grader,
        "verdict": grade.verdict,
        "comment": grade.comment,
    }


def _categories(store: Store) -> list[str]:
    return sorted({asked.category for asked in store.study.prompts})


def _category(store: Store, card: Card) -> str:
    return store.asked(card).category


def _number(grade: Grade) -> int:
    assert isinstance(grade.verdict, int)
    return grade.verdict


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
