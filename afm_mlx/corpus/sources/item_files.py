"""Rows of files of items, such as benchmarks: JSONL, JSON, CSV, TSV, Parquet, text, also with .gz.

Whoever evaluates or decontaminates must know that all items were read, so unlike a corpus such a
file may not be broken: the first bad line is an error.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afm_mlx.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
"""Endings of files that can be read."""

LETTERS = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J")
"""Names of choices."""

QUESTION_FIELDS = (
    "question", "prompt", "problem", "input", "instruction", "query", "goal", "ctx", "sentence",
    "task", "text",
)  # fmt: skip
"""Usual names of what is asked, from the benchmarks' own files; the first one present is taken."""

# A cell of a CSV file whose quotes are not doubled; the last one of a row may be bare.
_CELL = re.compile(
    r"""(?: "(?P<quoted> (?: [^"\n] | \n(?!") | "(?! ,"|,[^",\r\n]*(?:\r?\n|\Z)|\r?\n|\Z) )* )"
          | (?P<bare> [^",\r\n]* ) )
        (?P<end> , | \r?\n | \Z )""",
    re.VERBOSE,
)

_SHOWN = 40  # characters of a line that is no item; ours
_AGAIN = "get the file again, whole"
_NO_TEXT = f"give a file of text, or Parquet, that ends in {', '.join(SUFFIXES)}"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ItemRow:
    """A row, and where it stands."""

    file: Path
    place: str
    """`line 3`, or `item 3` where a file has no lines."""
    row: Row

    def field(self, name: str) -> Any:
        """A value of the row. Raises DataError where there is no such field."""
        if name not in self.row:
            names = ", ".join(map(str, self.row)) or "(none)"
            raise self.broken(f"no '{name}'", hint=f"its fields are {names}")
        return self.row[name]

    def broken(self, what: str, *, hint: str = "") -> DataError:
        """The error that something is wrong with this row."""
        return broken(self.file, self.place, what, hint=hint)


def read_rows(path: Path) -> Iterator[ItemRow]:
    """Rows of a file, or of a folder's files in order of their names, hidden ones left out.

    A line of a text file is a row with a `text`. Tables have a header line, but for MMLU's.

    Raises:
        DataError: there is no such file, it is of no known kind, or a row is broken.
    """
    for file in files_of_items(path, SUFFIXES):
        yield from _read_file(file)


def files_of_items(path: Path, endings: Sequence[str]) -> list[Path]:
    """A file, or a folder's files with these endings in order of their names; no hidden ones.

    Raises:
        DataError: there is no such file or folder.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", hint="check the path")
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file())
    # Archives of macOS leave ._NAME beside NAME.
    seen = (file for file in found if not _is_hidden(file.relative_to(path)))
    return sorted(file for file in seen if ending(file) in endings)


def ending(file: Path) -> str:
    """Ending of a file's name, in lower case, without .gz."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def read_text_file(file: Path) -> str:
    """All of a text, also one with .gz.

    Raises:
        DataError: it cannot be read, or is no text in UTF-8.
    """
    with _explained(file):
        return _read(file)


def is_text(file: Path) -> bool:
    """Whether each line of a file is an item's text."""
    return ending(file) == ".txt"


def broken(file: Path, place: str, what: str, *, hint: str = "") -> DataError:
    """The error that something is wrong at a place of a file."""
    return DataError(f"{file}, {place}: {what}", hint=hint or _AGAIN)


def _read_file(file: Path) -> Iterator[ItemRow]:
    with _explained(file):
        for place, row in _READERS.get(ending(file), _no_reader)(file):
            yield ItemRow(file, place, row)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Make errors of reading a file ours."""
    try:
        yield
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise broken(file, _line(number), "not UTF-8", hint=_NO_TEXT) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file} is a broken gzip file: {error}", hint=_AGAIN) from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _text_lines(file: Path) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(file):
        yield _line(number), {"text": line.strip()}


def _json_lines(file: Path) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(file):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise broken(file, _line(number), f"no JSON: {_without_place(error)}") from None
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise broken(file, _line(number), f"no JSON object but {line.strip()[:_SHOWN]}")
        yield _line(number), row


def _json(file: Path) -> Iterator[tuple[str, Row]]:
    """A list of objects, or JSON lines, which often have this ending too."""
    content = _read(file)
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith("["):
            number = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise broken(file, _line(number), f"no JSON: {_without_place(error)}") from None
        yield from _json_lines(file)
        return
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            found = json.dumps(row)[:_SHOWN]
            raise broken(file, f"item {number:,}", f"no JSON object but {found}")
        yield f"item {number:,}", row


def _table(file: Path) -> Iterator[tuple[str, Row]]:
    content = _read(file)
    if ending(file) == ".tsv":
        rows = [
            (number, line.rstrip("\r").split("\t"))
            for number, line in enumerate(content.split("\n"), start=1)
            if line.strip()
        ]
    else:
        rows = _csv(file, content)
    if not rows:
        return
    names = [name.strip() for name in rows[0][1]]
    # MMLU as published: six columns, the last a letter, and no header.
    if len(names) == 6 and names[0] not in QUESTION_FIELDS and names[5] in LETTERS:
        names = ["question", *LETTERS[:4], "answer"]
    else:
        del rows[0]
    for number, cells in rows:
        if len(cells) != len(names):
            what = f"{len(cells)} columns where there should be {len(names)}"
            raise broken(file, _line(number), what)
        yield _line(number), dict(zip(names, cells, strict=True))


def _csv(file: Path, content: str) -> list[tuple[int, list[str]]]:
    """Rows with the numbers of their last lines."""
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        if rows := _csv_with_bare_quotes(content):
            return rows
        raise broken(file, _line(reader.line_num), f"no CSV: {error}") from None


def _csv_with_bare_quotes(content: str) -> list[tuple[int, list[str]]]:
    """As `_csv` where quotes within quoted cells are not doubled, as in many files of MMLU.

    A cell ends where another begins or its row does. A line that begins with a quote begins a row.
    None where that is not enough to tell the cells.
    """
    rows = []
    place = columns = 0
    line = 1
    while place < len(content):
        cells: list[str] = []
        start = place
        while cell := _CELL.match(content, place):
            cells.append(cell["bare"] if cell["quoted"] is None else cell["quoted"])
            place = cell.end()
            if cell["end"] != ",":
                break
        columns = columns or len(cells)
        if cell is None or len(cells) != columns:
            return []
        rows.append((line + content.count("\n", start, place - 1), cells))
        line += content.count("\n", start, place)
    return rows


def _parquet(file: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{file} needs the package pyarrow", hint="pip install 'afm-mlx[parquet]'"
        ) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"item {number:,}", row
    except pyarrow.ArrowException as error:
        what = str(error).splitlines()[0]
        raise DataError(f"{file}: no Parquet after {number:,} items: {what}", hint=_AGAIN) from None


def _no_reader(file: Path) -> Iterator[tuple[str, Row]]:
    kind = ending(file)
    raise DataError(
        f"{file}: no benchmark ends in '{kind}'" if kind else f"{file} has no ending for its kind",
        hint=f"give a file that ends in {', '.join(SUFFIXES)}",
    )


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
    ".txt": _text_lines,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}


def _read(file: Path) -> str:
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    content = data.decode("utf-8-sig")
    if (at := content.find("\0")) >= 0:
        number = content.count("\n", 0, at) + 1
        raise broken(file, _line(number), "binary, not text", hint=_NO_TEXT)
    return content


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1."""
    for number, line in enumerate(_read(file).split("\n"), start=1):
        if line.strip():
            yield number, line


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _without_place(error: Exception) -> str:
    """What is wrong with JSON; where is said before it."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _line(number: int) -> str:
    return f"line {number:,}"
