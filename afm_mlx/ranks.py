"""Processes that work on one model together: who they are, and what they tell each other.

`mlx.launch` starts them, on one machine or several; MLX carries the messages. A rank is the number
of a process. Alone, there is one rank, and nothing here costs anything or changes a bit.

Every rank must ask for every exchange, in the same order: one that does not leaves the others
waiting. So nothing here may depend on what only one of them knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

MESSAGE_BYTES = 32 * 2**20
"""Arrays are added up in messages of about this size, as in `nn.average_gradients`."""


@dataclass(frozen=True)
class Ranks:
    """The processes that work together, seen from one of them."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """How many there are."""
    group: Any = None
    """MLX's group; None for one process alone."""

    @property
    def speaks(self) -> bool:
        """Whether this process tells the user how things go."""
        return self.rank == 0

    def total(self, tree: Any) -> Any:
        """The sum over all ranks of a tree of arrays; every rank gets the same bits. Lazy."""
        if self.size == 1:
            return tree
        flat: Any = tree_flatten(tree)
        summed: list[tuple[str, mx.array]] = []
        for part in _messages(flat):
            message = mx.concatenate([array.reshape(-1) for _, array in part])
            whole = mx.distributed.all_sum(message, group=self.group)
            start = 0
            for name, array in part:
                summed.append((name, whole[start : start + array.size].reshape(array.shape)))
                start += array.size
        return tree_unflatten(summed)

    def own_sum(self, rows: mx.array) -> mx.array:
        """Row [1, n] of this rank in the sum over all ranks of `rows` [size, n]. Lazy."""
        if self.size == 1:
            return rows
        if _scatters(self.group):
            own = mx.distributed.sum_scatter(rows.reshape(-1), group=self.group)
        else:
            # Without the copy, the sums of all rows would stay in memory.
            own = mx.contiguous(mx.distributed.all_sum(rows, group=self.group)[self.rank])
        return own.reshape(1, -1)

    def gathered(self, row: mx.array) -> mx.array:
        """Rows [size, ...] of all ranks, from one [1, ...] of each. Lazy."""
        return row if self.size == 1 else mx.distributed.all_gather(row, group=self.group)

    def share(self, count: int) -> slice:
        """Which of `count` things are this rank's: as many as the others', or one more or less."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def most(self, values: Sequence[int]) -> list[int]:
        """The largest that any rank has, of each of some integers."""
        if self.size == 1:
            return list(values)
        largest = mx.distributed.all_max(mx.array([*values], mx.int64), group=self.group)
        return [int(value) for value in np.array(largest)]

    def any(self, value: bool) -> bool:
        """Whether it is so on any rank."""
        if self.size == 1:
            return value
        return bool(mx.distributed.all_sum(mx.array(int(value)), group=self.group).item())

    def all_texts(self, text: str) -> list[str]:
        """What each rank has to say, by rank."""
        if self.size == 1:
            return [text]
        data = np.frombuffer(text.encode(), np.uint8)
        lengths = np.array(self.gathered(mx.array([len(data)], mx.int32)))
        padded = np.zeros(int(lengths.max()), np.uint8)
        padded[: len(data)] = data
        rows = np.array(self.gathered(mx.array(padded))).reshape(self.size, -1)
        return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]

    def wait(self) -> None:
        """Go on when every rank has come here."""
        self.any(False)


ALONE = Ranks()


@cache
def joined() -> Ranks:
    """The ranks that `mlx.launch` has started this process with; alone where nothing did."""
    group = mx.distributed.init()
    return Ranks(group.rank(), group.size(), group) if group.size() > 1 else ALONE


@cache
def _scatters(group: Any) -> bool:
    """Whether MLX can sum and scatter in one: not with its ring (MLX 0.32.4)."""
    try:
        mx.eval(mx.distributed.sum_scatter(mx.zeros(group.size()), group=group))
    except RuntimeError:
        return False
    return True


def _messages(flat: list[tuple[str, mx.array]]) -> list[list[tuple[str, mx.array]]]:
    """Arrays in groups of one number format, each of about `MESSAGE_BYTES`, in their order."""
    groups: list[list[tuple[str, mx.array]]] = []
    room = 0
    for name, array in flat:
        if not groups or room < array.nbytes or groups[-1][0][1].dtype != array.dtype:
            groups.append([])
            room = MESSAGE_BYTES
        groups[-1].append((name, array))
        room -= array.nbytes
    return groups
