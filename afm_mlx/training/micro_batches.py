"""A step's rows as micro-batches, shared out among the ranks that read them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import mlx.core as mx

from afm_mlx.ranks import Ranks

Batch = tuple[mx.array, ...]
"""Arguments of a loss, after the model."""


class Idle(Batch):
    """A micro-batch of another rank, in the place of one that this rank has not.

    Ranks may exchange weights and gradients in each micro-batch. So all compute equally many, and
    what comes of this one does not count.
    """


def rows_read(num_rows: int, ranks: Ranks) -> slice:
    """The rows of a step that this rank reads: its share, or one of another's where it has none."""
    mine = ranks.share(num_rows)
    return slice(mine.start, max(mine.stop, mine.start + 1))


def micro_batches(
    build: Callable[[slice], Batch], num_rows: int, most_rows: int, ranks: Ranks
) -> list[Batch]:
    """This rank's micro-batches of a step: of nearly even size, as many on every rank.

    Args:
        build: makes a micro-batch of some of the step's rows, those that `rows_read` names; not of
            none.
        num_rows: rows of the step, whoever reads them; or pairs, or whatever is shared out.
        most_rows: of one micro-batch; at least 1.
        ranks: who shares the rows.
    """
    mine = ranks.share(num_rows)
    most_of_a_rank = -(-num_rows // ranks.size)
    count = -(-most_of_a_rank // most_rows)
    ends = [mine.start + number * (mine.stop - mine.start) // count for number in range(count + 1)]
    return [
        build(slice(start, end)) if start < end else Idle(build(slice(mine.start, mine.start + 1)))
        for start, end in pairwise(ends)
    ]
