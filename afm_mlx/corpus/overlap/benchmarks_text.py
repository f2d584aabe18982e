"""Items of benchmarks, as texts, from files of any usual kind.

Whoever decontaminates must know that all items were read, so unlike a corpus a benchmark may not be
broken: the first bad line is an error.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afm_mlx.errors import DataError

# Usual names of fields, the first one present is taken. Ours, from the benchmarks' own files.
_QUESTIONS = (
    "question", "prompt", "problem", "input", "instruction", "query", "goal", "ctx", "sentence",
    "task", "text",
)  # fmt: skip
_CHOICES = ("choices", "options", "endings")
_ANSWERS = ("answer", "solution", "canonical_solution", "output", "response", "target")
_LETTERS = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J")

_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")

# GSM8K's calculator notes, such as <<16-3-4=9>>; copies often come without.
_CALCULATOR = re.compile(r"<<[^<>]*>>")

# A cell of a CSV file whose quotes are not doubled; the last one of a row may be bare.
_CELL = re.compile(
    r"""(?: "(?P<quoted> (?: [^"\n] | \n(?!") | "(?! ,"|,[^",\r\n]*(?:\r?\n|\Z)|\r?\n|\Z) )* )"
          | (?P<bare> [^",\r\n]* ) )
        (?P<end> , | \r?\n | \Z )""",
    re.VERBOSE,
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One item of a benchmark, in the forms in which it may have been copied."""

    text: str
    """All of it: question, and choices or answer, in lines."""
    others: tuple[str, ...] = ()
    """Other forms of all of it."""
    question: str = ""
    """The question alone, where it is not all."""


def read_items(path: Path, fields: Sequence[str] | None = None) -> list[str]:
    """Texts of a benchmark's items.

    Args:
        path: JSONL, JSON (a list), CSV, TSV, Parquet, or text with an item on each line, all also
            with .gz; or a folder, whose files of these kinds are read in order of their names.
        fields: what to take of each item, in this order; None: by usual names. GSM8K gives
            question and answer, MMLU question and choices (also without a header line), IFEval the
            prompt.

    Raises:
        DataError: a file or line is broken, lacks a field, or there is no item; it names file and
            line.
    """
    return [item.text for item in read_benchmark(path, fields)]


def read_benchmark(path: Path, fields: Sequence[str] | None = None) -> list[Item]:
    """A benchmark's items in all their forms. Arguments and errors as for `read_items`."""
    if not path.exists():
        raise DataError(f"benchmark {path} does not exist", hint="check the benchmark's path")
    files = [path]
    if path.is_dir():
        found = (file for file in path.rglob("*") if file.is_file())
        files = sorted(file for file in found if _kind(file) in _SUFFIXES)
    items = [item for file in files for item in _read_file(file, fields)]
    if not items:
        raise DataError(
            f"benchmark {path} holds no item",
            hint=f"give a file with items, or a folder of them ({', '.join(_SUFFIXES)})",
        )
    return items


def _read_file(file: Path, fields: Sequence[str] | None) -> Iterator[Item]:
    kind = _kind(file)
    try:
        if kind == ".txt":
            for _, line in _lines(file):
                yield Item(line.strip())
            return
        for number, row in _READERS.get(kind, _no_reader)(file):
            yield _item(file, number, row, fields)
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise _broken(file, number, "not UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file} is a broken gzip file: {error}", hint="get it again") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _item(file: Path, number: int, row: Row, fields: Sequence[str] | None) -> Item:
    if fields:
        return Item("\n".join(_text(file, number, row, field) for field in fields))
    asks = next((field for field in _QUESTIONS if field in row), None)
    if asks is None:
        raise DataError(
            f"{file}, line {number:,}: no question among the fields {', '.join(row) or '(none)'}",
            hint="name the fields that make up an item in the benchmark's `fields`",
        )
    question = _text(file, number, row, asks)
    if choices := _choices(file, number, row):
        lettered = zip(_LETTERS, choices, strict=False)
        return Item(
            "\n".join([question, *choices]),
            ("\n".join([question, *(f"{letter}. {text}" for letter, text in lettered)]),),
            question,
        )
    says = next((field for field in _ANSWERS if isinstance(row.get(field), str)), None)
    if says is None:
        return Item(question)
    text = f"{question}\n{row[says]}"
    plain = _CALCULATOR.sub("", text)
    return Item(text, (plain,) if plain != text else (), question)


def _text(file: Path, number: int, row: Row, field: str) -> str:
    if field not in row:
        raise _broken(file, number, f"no '{field}'", hint=f"its fields are {', '.join(row)}")
    value = row[field]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise _broken(file, number, f"'{field}' is no text but {json.dumps(value)[:40]}")
    return value


def _choices(file: Path, number: int, row: Row) -> list[str]:
    """Texts of the choices; none where it is no such question."""
    if "A" in row and "B" in row:
        letters = [letter for letter in _LETTERS if letter in row]
        return [_text(file, number, row, letter) for letter in letters]
    for field in _CHOICES:
        value = row.get(field)
        if isinstance(value, dict):  # ARC: {"text": [...], "label": [...]}
            value = value.get("text")
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            return value
    return []


def _json_lines(file: Path) -> Iterator[tuple[int, Row]]:
    for number, line in _lines(file):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _broken(file, number, f"no JSON: {error}") from None
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise _broken(file, number, f"no JSON object but {line.strip()[:40]}")
        yield number, row


def _json(file: Path) -> Iterator[tuple[int, Row]]:
    """A list of objects, or JSON lines, which often have this ending too. Items count as lines."""
    content = _read(file)
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError):
        yield from _json_lines(file)
        return
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise _broken(file, number, "the item is no JSON object")
        yield number, row


def _table(file: Path) -> Iterator[tuple[int, Row]]:
    content = _read(file)
    if _kind(file) == ".tsv":
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
    if len(names) == 6 and names[0] not in _QUESTIONS and names[5] in _LETTERS:
        names = ["question", *_LETTERS[:4], "answer"]
    else:
        del rows[0]
    for number, cells in rows:
        if len(cells) != len(names):
            what = f"{len(cells)} columns where there should be {len(names)}"
            raise _broken(file, number, what)
        yield number, dict(zip(names, cells, strict=True))


def _csv(file: Path, content: str) -> list[tuple[int, list[str]]]:
    """Rows with the numbers of their last lines."""
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        if rows := _csv_with_bare_quotes(content):
            return rows
        raise _broken(file, reader.line_num, f"no CSV: {error}") from None


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


def _parquet(file: Path) -> Iterator[tuple[int, Row]]:
    """Rows count as lines."""
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
                    yield number, row
    except pyarrow.ArrowException as error:
        what = str(error).splitlines()[0]
        raise _broken(file, number + 1, f"no Parquet: {what}") from None


def _no_reader(file: Path) -> Iterator[tuple[int, Row]]:
    raise DataError(
        f"{file}: no benchmark ends in '{_kind(file)}'",
        hint=f"give a file that ends in {', '.join(_SUFFIXES)}",
    )


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}


def _kind(file: Path) -> str:
    """Ending of a file, in lower case, without .gz."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _read(file: Path) -> str:
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return data.decode("utf-8-sig")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1."""
    for number, line in enumerate(_read(file).split("\n"), start=1):
        if line.strip():
            yield number, line


def _broken(file: Path, line: int, what: str, *, hint: str = "") -> DataError:
    return DataError(f"{file}, line {line:,}: {what}", hint=hint or "get the file again, whole")
