"""Scores with their intervals.

Figures are means over items, or ratios of sums where items weigh differently (instructions of a
prompt, bytes of a text). Items are the units that were drawn: a second instruction of one prompt
does not count as another draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afm_mlx.evaluation.items import Mark

Z = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above: intervals are of 95 %."""


@dataclass(frozen=True)
class Score:
    """A figure of many items."""

    value: float
    low: float
    """Of the interval of 95 %."""
    high: float
    n: int
    """Items."""

    def to_json(self) -> dict[str, Any]:
        """As a table of JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def score_of(marks: Sequence[Mark], *, share: bool = True) -> Score:
    """The score of at least one item; `share` where it lies between 0 and 1 if all marks do.

    Shares of equal items, each 0 or 1, have Wilson's interval, which holds for few items and near
    the ends, too. Else the normal one of a ratio of sums, by linearisation; for equal weights that
    is the usual one of a mean.

    Source: Wilson, 1927; Cochran, Sampling Techniques, 2.11 and 6.4.

    >>> print(score_of([Mark(1.0), Mark(1.0), Mark(0.0), Mark(1.0)]))
    0.750 (0.301 to 0.954)
    """
    total = math.fsum(mark.weight for mark in marks)
    if total <= 0:
        return Score(0.0, 0.0, 0.0, len(marks))
    value = math.fsum(mark.value * mark.weight for mark in marks) / total
    n = len(marks)
    if share and all(mark.weight == 1 and mark.value in (0.0, 1.0) for mark in marks):
        return Score(value, *wilson(value, n), n)
    if n < 2:
        return Score(value, value, value, n)
    squares = math.fsum((mark.weight * (mark.value - value)) ** 2 for mark in marks)
    error = Z * math.sqrt(n / (n - 1) * squares) / total
    low, high = value - error, value + error
    if share and all(0 <= mark.value <= 1 for mark in marks):
        low, high = max(low, 0.0), min(high, 1.0)
    return Score(value, low, high, n)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Interval of 95 % of a share among n, above 0."""
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def by_name(rows: Iterable[tuple[str, Mark]], counts: Collection[str] = ()) -> dict[str, Score]:
    """The score of each name's marks, in the order in which they first come.

    Figures of `counts` are no shares. A perplexity is marked in nats; its score, and the ends of
    its interval, are e to those.

    >>> print(by_name([("perplexity", Mark(math.log(8), 2.0))])["perplexity"])
    8.000 (8.000 to 8.000)
    """
    found: dict[str, list[Mark]] = {}
    for name, mark in rows:
        found.setdefault(name, []).append(mark)
    scores = {name: score_of(marks, share=name not in counts) for name, marks in found.items()}
    return {
        name: _exponential(score) if name.endswith("perplexity") else score
        for name, score in scores.items()
    }


def mean_of(scores: Sequence[Score]) -> Score:
    """The mean of independent scores that count alike, at least one, whatever their items.

    Its interval has the sides of the scores' own, added as squares. Source: Zou & Donner, 2008
    (MOVER).

    >>> print(mean_of([Score(0.5, 0.2, 0.8, 10), Score(1.0, 0.6, 1.0, 5)]))
    0.750 (0.500 to 0.900)
    """
    count = len(scores)
    value = math.fsum(score.value for score in scores) / count
    below = math.hypot(*(score.value - score.low for score in scores)) / count
    above = math.hypot(*(score.high - score.value for score in scores)) / count
    return Score(value, value - below, value + above, sum(score.n for score in scores))


def _exponential(score: Score) -> Score:
    value, low, high = (math.exp(each) for each in (score.value, score.low, score.high))
    return Score(value, low, high, score.n)
