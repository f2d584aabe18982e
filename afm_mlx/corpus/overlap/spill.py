"""Rows sorted into parts on disk, so that each part fits in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Memory for a row of a part that is being sorted: the row as read and as sorted, its columns, and
# the order. An upper bound for rows of three numbers.
_BYTES_PER_SORTED_ROW = 128

Rows = NDArray[Any]


class Spill:
    """Rows of 64-bit columns, appended to one file per part.

    Rows wait in memory until a quarter of the budget is full. No file stays open, since a process
    on macOS may have only 256.
    """

    def __init__(
        self, folder: Path, columns: Sequence[str], *, rows: int, memory_bytes: int
    ) -> None:
        """A new folder of parts, for about `rows` rows."""
        folder.mkdir()
        self._folder = folder
        self._dtype = np.dtype([(name, "<u8") for name in columns])
        self._part_rows = max(1, memory_bytes // 2 // _BYTES_PER_SORTED_ROW)
        self._waiting_bytes = memory_bytes // 4
        # Hashes do not fill parts evenly; a fifth stays free.
        self.parts = rows * 5 // (self._part_rows * 4) + 1
        self._waiting: list[list[Rows]] = [[] for _ in range(self.parts)]
        self._bytes = 0

    def add(self, part: NDArray[Any], **columns: NDArray[Any]) -> None:
        """Append rows; `part` [N] says where each belongs."""
        rows = np.empty(len(part), self._dtype)
        for name, values in columns.items():
            rows[name] = values
        if self.parts == 1:
            self._waiting[0].append(rows)
        else:
            order = np.argsort(part, kind="stable")
            edges = np.searchsorted(part[order], np.arange(self.parts + 1))
            rows = rows[order]
            for index in np.flatnonzero(np.diff(edges)).tolist():
                # A copy, lest a small slice keeps the whole array alive.
                self._waiting[index].append(rows[edges[index] : edges[index + 1]].copy())
        self._bytes += rows.nbytes
        if self._bytes > self._waiting_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        for index, waiting in enumerate(self._waiting):
            if waiting:
                with (self._folder / str(index)).open("ab") as file:
                    for rows in waiting:
                        file.write(rows.tobytes())
                waiting.clear()
        self._bytes = 0

    def slices(self, part: int) -> Iterator[Rows]:
        """The rows of a part, in the order they came; several slices where it is too large."""
        path = self._folder / str(part)
        count = path.stat().st_size // self._dtype.itemsize if path.exists() else 0
        for start in range(0, count, self._part_rows):
            yield np.fromfile(
                path, self._dtype, self._part_rows, offset=start * self._dtype.itemsize
            )

    def buckets(self, part: int, keys: Sequence[str]) -> Iterator[tuple[Rows, NDArray[np.bool_]]]:
        """Rows sorted by `keys` then as they came, and which of them equal the one before.

        Where one key is so frequent that its part exceeds the memory, rows come in several slices;
        the first of each bucket comes again with the next one.
        """
        carried = np.empty(0, self._dtype)
        for rows in self.slices(part):
            rows = np.concatenate([carried, rows])
            rows = rows[np.lexsort([rows[name] for name in reversed(keys)])]
            same = np.zeros(len(rows), np.bool_)
            same[1:] = True
            for name in keys:
                same[1:] &= rows[name][1:] == rows[name][:-1]
            yield rows, same
            carried = rows[~same]

    def delete(self) -> None:
        """Remove the files."""
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()
