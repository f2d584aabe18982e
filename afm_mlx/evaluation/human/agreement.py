"""How far graders agree."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

Distance = Callable[[float, float], float]
"""Between two values; 0 where they are equal."""


def nominal(one: float, other: float) -> float:
    """Distance of values that are equal, or are not."""
    return float(one != other)


def interval(one: float, other: float) -> float:
    """Distance of values on a scale of even steps."""
    return (one - other) ** 2


def share_equal(units: Sequence[Sequence[float]]) -> float | None:
    """Share of pairs of graders that said the same of one unit, 0 to 1; units count alike.

    None where no unit has two values.
    """
    shares = []
    for unit in units:
        pairs = list(itertools.combinations(unit, 2))
        if pairs:
            shares.append(sum(one == other for one, other in pairs) / len(pairs))
    return math.fsum(shares) / len(shares) if shares else None


def krippendorff_alpha(units: Sequence[Sequence[float]], distance: Distance) -> float | None:
    """Krippendorff's alpha: 1 for full agreement, 0 for what chance would give, below 0 for less.

    None where no unit has two values, or all values are equal: then chance agrees, too.

    Args:
        units: what graders said of each; those of fewer than two graders do not count.
        distance: of two values.

    Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011: one less the observed
    disagreement, over the pairs in units, divided by that of all pairs of values.
    """
    kept = [unit for unit in units if len(unit) > 1]
    pooled = Counter(value for unit in kept for value in unit)
    total = pooled.total()
    observed = math.fsum(
        distance(one, other) / (len(unit) - 1)
        for unit in kept
        for one, other in itertools.permutations(unit, 2)
    )
    expected = math.fsum(
        distance(one, other) * pooled[one] * pooled[other] for one in pooled for other in pooled
    )
    if not expected:
        return None
    return 1 - (total - 1) * observed / expected
