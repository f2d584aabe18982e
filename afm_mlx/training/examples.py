"""Examples in rows: which of them a step sees, and how they are packed.

An epoch draws examples from each source by its weight, in an order that is a function of the seed
and the epoch, and packs them into rows of equal length. The rows of all epochs, one after the
other, are the training: step s reads rows (s - 1) R to s R. So a run that goes on has no position
but its step.

Shapes. R rows of a step, T tokens of a row.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.mixture import permute
from afm_mlx.text.conversations import Rendered


@dataclass(frozen=True)
class Examples:
    """Sequences of ids, end to end: 5 bytes a token."""

    ids: NDArray[np.int32]
    """Ids of all sequences."""
    mask: NDArray[np.bool_]
    """True for those that are learned, from what stands before them in their sequence."""
    starts: NDArray[np.int64]
    """Where each sequence starts, and in the end the number of ids."""

    @classmethod
    def of(cls, sequences: Iterable[Rendered]) -> Examples:
        """Of rendered conversations, in order."""
        ids: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
        masks: list[NDArray[np.bool_]] = [np.empty(0, np.bool_)]
        for sequence in sequences:
            ids.append(np.array(sequence.ids, np.int32))
            mask = np.array(sequence.mask, np.bool_)
            mask[:1] = False  # nothing stands before it
            masks.append(mask)
        starts = np.cumsum([len(each) for each in ids], dtype=np.int64)
        return cls(np.concatenate(ids), np.concatenate(masks), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        lengths: list[int] = np.diff(self.starts).tolist()
        return lengths

    @property
    def learned(self) -> int:
        """Tokens that are learned."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Rows:
    """Rows as a training step reads them."""

    inputs: NDArray[np.int32]
    """[R, T] ids; 0 where a row is not full."""
    targets: NDArray[np.int32]
    """[R, T], the id after each of them."""
    weights: NDArray[np.float32]
    """[R, T], 1 where the target is learned."""
    documents: NDArray[np.int32]
    """[R, T], number of the example in its row, from 1; 0 where a row is not full."""


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Examples of each row: one after the other into the fullest row that has room, else a new one.

    Args:
        lengths: tokens of each example, at most `row_tokens`.
        row_tokens: tokens of a row.

    Returns:
        Numbers of examples. The rows are in the order in which they were begun.
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # free tokens and number, least free first
    shortest = min(lengths, default=0)
    for example, length in enumerate(lengths):
        place = bisect_left(open_rows, (length, -1))
        if place < len(open_rows):
            free, row = open_rows.pop(place)
        else:
            free, row = row_tokens, len(rows)
            rows.append([])
        rows[row].append(example)
        if free - length >= shortest:
            insort(open_rows, (free - length, row))
    return rows


class PackedExamples:
    """Rows of a mixture of examples, step by step."""

    def __init__(
        self,
        sources: Mapping[str, Examples],
        weights: Mapping[str, float],
        *,
        row_tokens: int,
        rows_per_step: int,
        epochs: int,
        seed: int,
    ) -> None:
        """Pack all epochs.

        Args:
            sources: examples by name, none longer than a row.
            weights: how often an epoch goes through each source: 1 is once, 0.5 is through one
                half in one epoch and the other in the next.
            row_tokens: T, tokens of a row.
            rows_per_step: R, rows of an optimizer step.
            epochs: passes over the mixture.
            seed: decides the order.
        """
        self.sources, self.weights, self.seed = dict(sources), dict(weights), seed
        self.epochs = epochs
        self.row_tokens, self.rows_per_step = row_tokens, rows_per_step
        self._lengths = {name: examples.lengths for name, examples in sources.items()}
        plans = [self._plan(epoch) for epoch in range(epochs)]
        self._rows = [row for plan in plans for row in plan]

    @property
    def steps(self) -> int:
        """Optimizer steps; the last one may have empty rows."""
        return -(-len(self._rows) // self.rows_per_step)

    @property
    def tokens(self) -> int:
        """Tokens of all examples of all epochs."""
        return sum(self._lengths[name][number] for row in self._rows for name, number in row)

    @property
    def seen(self) -> dict[str, int]:
        """Examples of each source in all epochs, repeated ones again."""
        counts = Counter(name for row in self._rows for name, _ in row)
        return {name: counts[name] for name in self.sources}

    @property
    def filled(self) -> float:
        """Share of the rows' tokens that are not padding, 0 to 1."""
        return self.tokens / max(1, len(self._rows) * self.row_tokens)

    def rows(self, step: int) -> Rows:
        """Rows of a step, counted from 1."""
        first = (step - 1) * self.rows_per_step
        return fill(
            self.sources,
            self._rows[first : first + self.rows_per_step],
            num_rows=self.rows_per_step,
            row_tokens=self.row_tokens,
        )

    def _plan(self, epoch: int) -> list[list[tuple[str, int]]]:
        """Source and number of the examples of each row of an epoch, counted from 0."""
        drawn = [
            (name, number)
            for name, examples in self.sources.items()
            for number in self._drawn(name, len(examples), epoch)
        ]
        order = _order(f"{self.seed}:{epoch}", len(drawn))
        drawn = [drawn[place] for place in order]
        lengths = [self._lengths[name][number] for name, number in drawn]
        return [[drawn[place] for place in row] for row in pack(lengths, self.row_tokens)]

    def _drawn(self, name: str, count: int, epoch: int) -> list[int]:
        """Examples of a source that an epoch sees: the next ones of an endless shuffled round."""
        share = self.weights[name] * count
        found: list[int] = []
        at, end = round(epoch * share), round((epoch + 1) * share)
        while at < end:
            round_number, first = divmod(at, count)
            order = _order(f"{self.seed}:{name}:{round_number}", count)
            last = min(count, first + end - at)
            found += order[first:last]
            at += last - first
        return found


def fill(
    sources: Mapping[str, Examples],
    plan: Sequence[Sequence[tuple[str, int]]],
    *,
    num_rows: int,
    row_tokens: int,
) -> Rows:
    """Rows with the examples of a plan, by source and number; those beyond the plan are empty."""
    ids = np.zeros((num_rows, row_tokens + 1), np.int32)
    mask = np.zeros((num_rows, row_tokens + 1), np.float32)
    documents = np.zeros((num_rows, row_tokens), np.int32)
    for row, members in enumerate(plan):
        start = 0
        for number, (name, example) in enumerate(members, start=1):
            examples = sources[name]
            place = slice(examples.starts[example], examples.starts[example + 1])
            end = start + len(examples.ids[place])
            ids[row, start:end], mask[row, start:end] = examples.ids[place], examples.mask[place]
            documents[row, start:end] = number
            start = end
    return Rows(ids[:, :-1], ids[:, 1:], mask[:, 1:], documents)


def _order(name: str, count: int) -> list[int]:
    """A shuffled order of `count` things, which `name` decides."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    order: list[int] = permute(np.arange(count), count, key).tolist() if count else []
    return order
