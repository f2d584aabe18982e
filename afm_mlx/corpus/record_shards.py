"""Record shards: files of records, one line of JSON each, gzipped, whole or absent."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from afm_mlx.artifact import writing
from afm_mlx.corpus.record import Drop, Record
from afm_mlx.errors import DataError

# Of 1 to 9. Measured on Python source: level 4 writes 60 MB/s, as level 1 does, and packs 3.8 to 1;
# level 6 writes 25 MB/s and packs 4.0 to 1. Ours.
GZIP_LEVEL = 4


_SHARD_NAME = re.compile(r"\d{5,}\.jsonl\.gz")


def shard_name(number: int) -> str:
    """File name of a record shard, counted from 0."""
    return f"{number:05}.jsonl.gz"


def list_shards(folder: Path) -> list[Path]:
    """The record shards of a folder, in order of their numbers."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _SHARD_NAME.fullmatch(path.name)]
    return sorted(found, key=shard_number)


def read_shard(path: Path) -> Iterator[Record]:
    """The records of a shard, in order; one is in memory at a time.

    Raises:
        DataError: the file is not a whole gzip file of records; it names file and line.
    """
    for number, line in enumerate(_lines(path), start=1):
        try:
            record = Record.from_json(line)
            if not isinstance(record.text, str):
                raise TypeError("text is not a text")
        except (ValueError, TypeError, RecursionError) as error:
            raise broken_shard(path, f"line {number:,} is no record: {first_line(error)}") from None
        yield record


def read_shards(folder: Path) -> Iterator[Record]:
    """The records of all shards of a folder, in order. Raises DataError where there is no shard."""
    if not (shards := list_shards(folder)):
        raise DataError(f"{folder} holds no record shards", hint="make some with `afm data filter`")
    return chain.from_iterable(map(read_shard, shards))


def write_shard(path: Path, records: Iterable[Record]) -> int:
    """Write records beside `path`, then rename: whole or absent. Returns how many there were.

    The same records give the same bytes. Half a surrogate pair, which UTF-8 cannot hold, becomes a
    question mark.
    """
    count = 0
    with writing_lines(path) as file:
        for record in records:
            file.write(to_line(record))
            count += 1
    return count


def read_drops(path: Path) -> Iterator[Drop]:
    """The drops of a shard, in order. Raises as `read_shard`."""
    for number, line in enumerate(_lines(path), start=1):
        try:
            yield Drop(**json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise broken_shard(path, f"line {number:,} is no drop: {first_line(error)}") from None


def to_line(entry: Record | Drop) -> bytes:
    """A record or drop as a line of UTF-8."""
    line = entry.to_json() + "\n"
    try:
        return line.encode()
    except UnicodeEncodeError:
        return line.encode("utf-8", "replace")


@contextmanager
def writing_lines(path: Path) -> Iterator[BinaryIO]:
    """A gzip file to write to, which takes its name at the end; an error deletes it.

    It holds neither name nor time, so that its bytes depend on its content only.
    """
    with whole_file(path) as part, part.open("wb") as raw:
        with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as file:
            yield file  # type: ignore[misc]
        raw.flush()
        os.fsync(raw.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file at, which is renamed at the end; an error deletes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with writing(part):
            yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def shard_number(path: Path) -> int:
    """Number in the name of a shard, or of a file that belongs to one."""
    return int(path.name.partition(".")[0])


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                yield line.decode()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise broken_shard(path, first_line(error)) from None
    except UnicodeDecodeError:
        raise broken_shard(path, "not UTF-8") from None
    except FileNotFoundError:
        raise broken_shard(path, "no such file") from None


def broken_shard(path: Path, what: str) -> DataError:
    """The error for a shard that cannot be read."""
    return DataError(
        f"record shard {path} is broken: {what}",
        hint="delete it, and run the step that wrote it again",
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0].lower()
