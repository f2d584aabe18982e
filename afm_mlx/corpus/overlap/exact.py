"""Exact deduplication: texts that are equal but for case and white space."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from afm_mlx.corpus.overlap.groups import Groups
from afm_mlx.corpus.overlap.prepared import Corpus
from afm_mlx.corpus.overlap.spill import Spill

_BLOCK = 2**16  # documents
_EMPTY = (0, 0)


def text_hash(text: str) -> tuple[int, int]:
    """128-bit hash of a normalized text, as two numbers; (0, 0) for an empty one."""
    if not text:
        return _EMPTY
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def mark_exact(corpus: Corpus, groups: Groups, working: Path, *, memory_bytes: int) -> int:
    """Mark every document whose text came before; returns how many.

    The first one is kept. Empty documents are equal to nothing: other rules drop them.
    """
    spill = Spill(
        working / "exact", ("high", "low", "number"), rows=len(corpus), memory_bytes=memory_bytes
    )
    for shard, start, stop, first in corpus.blocks(_BLOCK):
        hashes = shard.column("exact", start, stop)
        numbers = np.arange(first, first + stop - start)
        some = (hashes != _EMPTY).any(axis=1)
        high, low, numbers = hashes[some, 0], hashes[some, 1], numbers[some]
        spill.add(high % np.uint64(spill.parts), high=high, low=low, number=numbers)
    spill.flush()
    count = 0
    for part in range(spill.parts):
        for rows, same in spill.buckets(part, ("high", "low")):
            numbers = rows["number"].astype(np.int64)
            firsts = numbers[~same][np.cumsum(~same) - 1]
            groups.parents[numbers[same]] = firsts[same]
            groups.is_exact[numbers[same]] = 1
            count += int(same.sum())
    spill.delete()
    return count
