"""What one shard contributes to deduplication: a file of columns, and all such files as a corpus.

    signatures    documents x hashes, uint32       written as they come
    keys          bands x documents, uint64        the rest once all are known
    exact         documents x 2, uint64
    lengths       documents, int64                 characters
    comparable    documents, uint8                 1 where a document has shingles
    id_ends       documents, int64                 where each id ends in `ids`
    ids           UTF-8
    footer        JSON; its length, uint64; the magic

All numbers are little-endian. A column is read in slices, so that no file has to fit in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from afm_mlx.errors import DataError

_MAGIC = b"AFMDUP1\n"
_TYPES = {
    "signatures": "<u4",
    "keys": "<u8",
    "exact": "<u8",
    "lengths": "<i8",
    "comparable": "<u1",
    "id_ends": "<i8",
}
_END_BYTES = 8 + len(_MAGIC)

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Settings that decide what a prepared file holds."""

    bands: int
    rows: int
    shingle_words: int
    longest_word: int

    @property
    def hashes(self) -> int:
        """Hashes in a signature."""
        return self.bands * self.rows


class PreparedWriter:
    """Writes a prepared file, batch by batch; holds all columns but the signatures in memory."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._file = path.open("wb")
        self._layout = layout
        self._count = self._id_bytes = 0
        self._keys = [bytearray() for _ in range(layout.bands)]
        self._columns = {
            name: bytearray() for name in ("exact", "lengths", "comparable", "id_ends")
        }
        self._ids = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is None:
                self._finish()

    def add(
        self,
        ids: Sequence[str],
        *,
        exact: NDArray[np.uint64],
        lengths: Numbers,
        comparable: NDArray[np.bool_],
        signatures: NDArray[np.uint32],
        keys: NDArray[np.uint64],
    ) -> None:
        """Append documents: exact [N, 2], signatures [N, hashes], keys [bands, N], others [N]."""
        self._file.write(_bytes("signatures", signatures))
        for column, band in zip(self._keys, keys, strict=True):
            column += _bytes("keys", band)
        for id in ids:
            self._ids += id.encode("utf-8", "surrogatepass")
            self._columns["id_ends"] += len(self._ids).to_bytes(8, "little")
        for name, values in (("exact", exact), ("lengths", lengths), ("comparable", comparable)):
            self._columns[name] += _bytes(name, values)
        self._count += len(ids)

    def _finish(self) -> None:
        offsets = {"signatures": 0}
        for name, parts in (
            ("keys", self._keys),
            *((name, [column]) for name, column in self._columns.items()),
            ("ids", [self._ids]),
        ):
            offsets[name] = self._file.tell()
            for part in parts:
                self._file.write(part)
        offsets["footer"] = self._file.tell()
        facts = {"count": self._count, "offsets": offsets, **asdict(self._layout)}
        footer = json.dumps(facts, sort_keys=True).encode()
        self._file.write(footer + len(footer).to_bytes(8, "little") + _MAGIC)


@dataclass(frozen=True)
class Prepared:
    """One prepared file."""

    path: Path
    count: int
    layout: Layout
    offsets: dict[str, int]

    @classmethod
    def open(cls, path: Path, layout: Layout) -> Self:
        """Read the footer.

        Raises:
            DataError: the file is damaged, or was prepared with other settings.
        """
        try:
            facts = _read_footer(path)
            offsets, count = facts.pop("offsets"), facts.pop("count")
        except (OSError, ValueError, KeyError):
            raise DataError(
                f"{path} is not a whole file of signatures", hint="delete it and prepare it again"
            ) from None
        if facts != asdict(layout):
            other = ", ".join(f"{name} = {value}" for name, value in sorted(facts.items()))
            raise DataError(
                f"{path} was prepared with other settings: {other}",
                hint="delete it and prepare it again",
            )
        return cls(path, count, layout, offsets)

    @property
    def name(self) -> str:
        """The shard's number, as its file has it."""
        return self.path.name.partition(".")[0]

    def column(self, name: str, start: int, stop: int, *, band: int = 0) -> NDArray[Any]:
        """Rows `start` to `stop` (not included) of a column; of `keys`, of one band."""
        width = {"signatures": self.layout.hashes, "exact": 2}.get(name, 1)
        dtype = np.dtype(_TYPES[name])
        first = (band * self.count + start) * width * dtype.itemsize
        values = np.fromfile(
            self.path, dtype, (stop - start) * width, offset=self.offsets[name] + first
        )
        return values.reshape(-1, width) if width > 1 else values

    def signatures(self, lines: Numbers) -> NDArray[np.uint32]:
        """Signatures [N, hashes] of some documents."""
        width = self.layout.hashes
        found = np.empty((len(lines), width), "<u4")
        with self.path.open("rb", buffering=0) as file:
            for row, line in enumerate(lines.tolist()):
                file.seek(self.offsets["signatures"] + 4 * width * line)
                file.readinto(found[row].data)
        return found

    def ids(self, lines: Numbers) -> list[str]:
        """Ids of some documents."""
        found = []
        with self.path.open("rb") as file:
            for line in lines.tolist():
                file.seek(self.offsets["id_ends"] + 8 * max(0, line - 1))
                ends = np.frombuffer(file.read(16 if line else 8), "<i8").tolist()
                start, end = ends if line else (0, ends[0])
                file.seek(self.offsets["ids"] + start)
                found.append(file.read(end - start).decode("utf-8", "surrogatepass"))
        return found


class Corpus:
    """All prepared files: documents are numbered through them, from 0."""

    def __init__(self, shards: Sequence[Prepared], layout: Layout) -> None:
        self.shards = shards
        self.layout = layout
        self.starts = np.cumsum([0, *(shard.count for shard in shards)])

    @classmethod
    def open(cls, paths: Sequence[Path], layout: Layout) -> Self:
        """The files in the order given; raises as `Prepared.open`."""
        return cls([Prepared.open(path, layout) for path in paths], layout)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def blocks(self, rows: int) -> Iterator[tuple[Prepared, int, int, int]]:
        """Shard, its first and last line (not included), and the first one's number, in order."""
        for shard, first in zip(self.shards, self.starts[:-1].tolist(), strict=True):
            for start in range(0, shard.count, rows):
                yield shard, start, min(start + rows, shard.count), first + start

    def signatures(self, numbers: Numbers) -> NDArray[np.uint32]:
        """Signatures [N, hashes] of documents by number, in ascending order."""
        parts = [shard.signatures(lines) for shard, lines in self._by_shard(numbers)]
        return np.concatenate(parts)

    def ids(self, numbers: Numbers) -> list[str]:
        """Ids of documents by number, in ascending order."""
        return [id for shard, lines in self._by_shard(numbers) for id in shard.ids(lines)]

    def _by_shard(self, numbers: Numbers) -> Iterator[tuple[Prepared, Numbers]]:
        edges = np.searchsorted(numbers, self.starts)
        for index in np.flatnonzero(np.diff(edges)).tolist():
            lines = numbers[edges[index] : edges[index + 1]] - self.starts[index]
            yield self.shards[index], lines


def _bytes(name: str, values: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(values, _TYPES[name]).tobytes()


def _read_footer(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < _END_BYTES:
            raise ValueError("too short")
        file.seek(size - _END_BYTES)
        length = int.from_bytes(file.read(8), "little")
        if file.read() != _MAGIC:
            raise ValueError("no magic")
        file.seek(size - _END_BYTES - length)
        facts: dict[str, Any] = json.loads(file.read(length))
        if facts["offsets"]["footer"] + length + _END_BYTES != size:
            raise ValueError("of another size")
        return facts
