"""Which documents belong together: a union-find whose arrays lie on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.overlap.prepared import Corpus, Numbers

_BLOCK = 2**16  # documents


class Groups:
    """Per document: the one it goes with, its length, and whether it is an exact duplicate.

    The root of a group is its longest document, of equally long ones the first. The arrays are
    mapped from files, 17 bytes per document, so that the operating system can put them away.
    """

    def __init__(self, parents: Any, lengths: Any, is_exact: Any) -> None:
        self.parents = parents
        self.lengths = lengths
        self.is_exact = is_exact

    @classmethod
    def create(cls, folder: Path, corpus: Corpus) -> Self:
        """Each document on its own; the arrays are files in `folder`."""

        def array(name: str, dtype: str) -> Any:
            count = max(1, len(corpus))  # a file of no bytes cannot be mapped
            # Written before it is mapped: a page that the full disk has no room for is an error of
            # `write`, and the end of the process (SIGBUS) in a mapped file.
            with (folder / name).open("wb") as file:
                for start in range(0, count, _BLOCK):
                    file.write(np.zeros(min(_BLOCK, count - start), dtype).tobytes())
            return np.memmap(folder / name, np.dtype(dtype), "r+", shape=(count,))

        groups = cls(array("parents", "i8"), array("lengths", "i8"), array("is_exact", "u1"))
        for shard, start, stop, first in corpus.blocks(_BLOCK):
            last = first + stop - start
            groups.parents[first:last] = np.arange(first, last)
            groups.lengths[first:last] = shard.column("lengths", start, stop)
        return groups

    def close(self) -> None:
        """Let go of the files."""
        del self.parents, self.lengths, self.is_exact

    def roots(self, numbers: Numbers) -> Numbers:
        """The document that is kept of each one's group; shortens the ways there."""
        found = np.asarray(self.parents[numbers])
        while True:
            above = np.asarray(self.parents[found])
            if np.array_equal(above, found):
                return found
            # Written at once: documents further down then climb two steps, four, eight.
            self.parents[numbers] = above
            found = above

    def link(self, first: Numbers, second: Numbers) -> None:
        """Join the groups of first[i] and second[i], for all i."""
        while True:
            one, other = self.roots(first), self.roots(second)
            differ = one != other
            if not differ.any():
                return
            first, second, one, other = (x[differ] for x in (first, second, one, other))
            better, worse = self._in_order(one, other)
            # Of several groups that one could join in this round, it joins the best.
            order = np.lexsort((better, -np.asarray(self.lengths[better]), worse))
            better, worse = better[order], worse[order]
            is_first = np.concatenate([[True], worse[1:] != worse[:-1]])
            self.parents[worse[is_first]] = better[is_first]

    def _in_order(self, one: Numbers, other: Numbers) -> tuple[Numbers, Numbers]:
        """The one to keep of each pair, and the other one."""
        lengths: tuple[NDArray[Any], NDArray[Any]] = (self.lengths[one], self.lengths[other])
        keeps = (lengths[0] > lengths[1]) | ((lengths[0] == lengths[1]) & (one < other))
        return np.where(keeps, one, other), np.where(keeps, other, one)
