"""The order of training rows: which source, and which row of it, at each place of a run.

Nothing here is drawn from a stream of random numbers. The row at a place is a function of the seed
and the place, so a run's position in its data is one integer, and a resumed run reads exactly what
the unbroken one would have read.

- Places come in blocks of 1,024. In each block every source has a fixed number of slots, its weight
  rounded, in an order of the block's own.
- The rows of a source are numbered. Each pass over the source visits all of them, in an order of
  the pass's own, before the next pass starts.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.shards import Shards
from afm_mlx.errors import DataError

# Rows in a block: shares of the mixture are exact to 1/1,024 in every block. Ours.
BLOCK_ROWS = 1_024

# Rounds of the Feistel network; even, so that halves of unequal width end up in their places.
# Four make a strong permutation of large domains, small ones need more. Ours.
_ROUNDS = 8
# Smaller ranges are sorted by hash: faster, and every permutation is possible. Ours.
_SORTED_SIZE = 1_024
_64_BITS = 2**64 - 1


class Rows:
    """The endless sequence of training rows of a mixture, readable at any place."""

    def __init__(
        self,
        shards: Mapping[str, Shards],
        weights: Mapping[str, float],
        *,
        row_tokens: int,
        seed: int,
    ) -> None:
        """Prepare a mixture; reads no tokens yet.

        Args:
            shards: open shards by source name; more than `weights` names is fine.
            weights: share of rows from each source, above 0; normalized to 1.
            row_tokens: tokens in a row.
            seed: decides the order.

        Raises:
            DataError: a source has no shards or less than one row, or two sources were written
                with different tokenizers.
        """
        self.names = sorted(weights)
        self.row_tokens, self.seed = row_tokens, seed
        for name in self.names:
            _check_source(name, shards, row_tokens)
        self._shards = {name: shards[name] for name in self.names}
        prints = {opened.tokenizer_fingerprint for opened in self._shards.values()}
        if len(prints) > 1:
            raise DataError(
                f"sources {', '.join(self.names)} were written with {len(prints)} different "
                f"tokenizers: {', '.join(sorted(short[:8] for short in prints))}",
                hint="build their shards again with one tokenizer",
            )
        self.source_rows = {
            name: opened.num_tokens // row_tokens for name, opened in self._shards.items()
        }
        """Whole rows in each source; what is left at the end of a source is never read."""
        self.slots = _slots({name: weights[name] for name in self.names})
        """Rows of each source in a block."""
        self._blocks = functools.lru_cache(maxsize=2)(self._block)

    def rows(self, start: int, count: int) -> NDArray[np.int32]:
        """Targets of `count` rows from place `start` on.

        Returns:
            [count, row_tokens] int32.
        """
        out = np.empty((count, self.row_tokens), dtype=np.int32)
        for place, (name, row) in enumerate(self.places(start, count)):
            first = row * self.row_tokens
            out[place] = self._shards[name].read(first, first + self.row_tokens)
        return out

    def places(self, start: int, count: int) -> list[tuple[str, int]]:
        """Source and number of the row at each of `count` places from `start` on."""
        found: list[tuple[str, int]] = [("", 0)] * count
        place = start
        while place < start + count:
            block, offset = divmod(place, BLOCK_ROWS)
            taken = min(BLOCK_ROWS - offset, start + count - place)
            sources, ranks = self._blocks(block)
            sources, ranks = sources[offset : offset + taken], ranks[offset : offset + taken]
            for number, name in enumerate(self.names):
                here = np.flatnonzero(sources == number)
                rows = self._rows_of(name, block * self.slots[name] + ranks[here])
                for at, row in zip(here.tolist(), rows.tolist(), strict=True):
                    found[place - start + at] = (name, row)
            place += taken
        return found

    def epochs(self, num_rows: int) -> dict[str, float]:
        """Passes over each source in the first `num_rows` rows; 1.5 is one and a half."""
        blocks, rest = divmod(num_rows, BLOCK_ROWS)
        tail = np.bincount(self._blocks(blocks)[0][:rest], minlength=len(self.names)).tolist()
        return {
            name: (blocks * self.slots[name] + tail[number]) / self.source_rows[name]
            for number, name in enumerate(self.names)
        }

    def _block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number of the source at each place of a block, and how many of it came before there."""
        slots = np.array([self.slots[name] for name in self.names])
        of_slot = np.repeat(np.arange(len(slots)), slots)
        sources = of_slot[permute(np.arange(BLOCK_ROWS), BLOCK_ROWS, _key(self.seed, "", block))]
        ranks = np.empty(BLOCK_ROWS, dtype=np.int64)
        # A stable sort lists the places of source 0 in their order, then those of source 1, ...
        ranks[np.argsort(sources, kind="stable")] = np.concatenate([np.arange(n) for n in slots])
        return sources, ranks

    def _rows_of(self, name: str, visits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row that each visit reads; visits of a source are counted from 0 over the whole run."""
        size = self.source_rows[name]
        epochs = visits // size
        rows = np.empty_like(visits)
        for epoch in np.unique(epochs).tolist():
            inside = epochs == epoch
            rows[inside] = permute(visits[inside] % size, size, _key(self.seed, name, epoch))
        return rows


@dataclass(frozen=True)
class HeldOutRows:
    """Rows for validation. R rows, T tokens of a row."""

    targets: NDArray[np.int32]
    """[R, T] tokens to predict; 0 where nothing counts."""
    counts: NDArray[np.float32]
    """[R, T], 1 for a token that counts, 0 for padding."""
    text_bytes: float
    """UTF-8 bytes of the text behind the tokens that count."""


def held_out_rows(
    shards: Shards, *, row_tokens: int, span_tokens: int, most_tokens: int
) -> HeldOutRows:
    """Evenly spaced spans of a held-out split, cut into rows. The same text for any `row_tokens`.

    So stages with rows of different lengths are measured on the same text: bits per byte are
    summed nats / (ln 2 x bytes).

    Args:
        shards: an open held-out split.
        row_tokens: tokens in a row; the last row of a span is padded.
        span_tokens: tokens of a span; a shorter split is one span.
        most_tokens: most tokens wanted; at least one span is taken.

    Raises:
        DataError: the split is empty.
    """
    span = min(span_tokens, shards.num_tokens)
    if span == 0:
        raise DataError(
            f"{shards.folder}: the split '{shards.split}' is empty",
            hint=f"--set data.{shards.folder.name}.held_out_fraction=... with a larger share",
        )
    available = shards.num_tokens // span
    count = min(max(1, most_tokens // span), available)
    starts = [number * available // count * span for number in range(count)]
    rows = -(-span // row_tokens)
    targets = np.zeros((count, rows * row_tokens), np.int32)
    counts = np.zeros(targets.shape, np.float32)
    for number, start in enumerate(starts):
        targets[number, :span] = shards.read(start, start + span)
    counts[:, :span] = 1
    return HeldOutRows(
        targets.reshape(-1, row_tokens),
        counts.reshape(-1, row_tokens),
        sum(shards.text_bytes_between(start, start + span) for start in starts),
    )


def permute(index: int | NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Where each index goes in a permutation of 0 .. size - 1 that `key` chooses.

    A Feistel network on the next power of two, walked until it lands inside: nothing is stored, so
    a source may have any number of rows. Source: Black and Rogaway, Ciphers with Arbitrary Finite
    Domains, 2002, method 3.

    Args:
        index: integers from 0 to size - 1, any shape.
        size: 1 to 2**40.
        key: chooses the permutation; its lowest 64 bits count.

    Returns:
        int64, shape of `index`.
    """
    places = np.asarray(index, dtype=np.uint64)
    if size <= _SORTED_SIZE:
        return np.argsort(_stream(key, size), kind="stable")[places]
    bits = (size - 1).bit_length()
    keys = _stream(key, _ROUNDS)
    walked = _feistel(places.ravel(), bits, keys)
    # The network's domain is below twice the size, so walks are short.
    while (outside := np.flatnonzero(walked >= size)).size:
        walked[outside] = _feistel(walked[outside], bits, keys)
    return walked.reshape(places.shape).astype(np.int64)


def _feistel(values: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Permutation of 0 .. 2**bits - 1, element by element."""
    left_bits = bits // 2
    right_bits = bits - left_bits
    left, right = values >> np.uint64(right_bits), values & np.uint64(2**right_bits - 1)
    for key in keys:
        mask = np.uint64(2**left_bits - 1)
        left, right = right, (left ^ _mixed(right + key)) & mask
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def _stream(key: int, count: int) -> NDArray[np.uint64]:
    """First `count` numbers of SplitMix64 seeded with `key`. Source: Steele et al., 2014."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return _mixed(steps + np.uint64(key & _64_BITS))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix all bits of each value: SplitMix64's output function."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _key(seed: int, source: str, number: int) -> int:
    """Key of one epoch of a source, or of one block (the source without a name)."""
    digest = hashlib.sha256(f"{seed}/{number}/{source}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _slots(weights: Mapping[str, float]) -> dict[str, int]:
    """Split a block by weight: largest remainders round up, and each source gets at least 1."""
    if len(weights) > BLOCK_ROWS:
        raise DataError(f"a mixture of {len(weights):,} sources; {BLOCK_ROWS:,} are the most")
    total = sum(weights.values())
    exact = {name: weight / total * BLOCK_ROWS for name, weight in weights.items()}
    slots = {name: max(1, int(share)) for name, share in exact.items()}
    # Ties go by name, so that the order of a recipe's lines does not matter.
    while (missing := BLOCK_ROWS - sum(slots.values())) != 0:
        step = 1 if missing > 0 else -1
        allowed = sorted(name for name in slots if slots[name] + step >= 1)
        slots[max(allowed, key=lambda name: step * (exact[name] - slots[name]))] += step
    return slots


def _check_source(name: str, shards: Mapping[str, Shards], row_tokens: int) -> None:
    """Raise DataError unless the source is there and fills a row."""
    if name not in shards:
        raise DataError(
            f"the mixture names '{name}', and there are no shards of it",
            hint=f"there are shards of {', '.join(sorted(shards)) or 'nothing'}",
        )
    if shards[name].num_tokens < row_tokens:
        raise DataError(
            f"source '{name}' has {shards[name].num_tokens:,} tokens to train on, "
            f"one row needs {row_tokens:,}",
            hint="add text to the source, or use a smaller row_tokens",
        )
