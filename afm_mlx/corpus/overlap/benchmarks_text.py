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
from afm_mlx.settings.decontamination import Decontaminate

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

_SHOWN = 40  # characters of a value that is no item; ours
_AGAIN = "get the file again, whole"
_NO_TEXT = f"give a file of text, or Parquet, that ends in {', '.join(_SUFFIXES)}"
_OTHER_FIELDS = (
    'say what makes up an item: --set \'decontaminate.benchmarks.NAME.fields=["FIELD", "FIELD"]\''
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


def read_benchmark(path: Path, fields: Sequence[str] | None = None) -> list[Item]:
    """A benchmark's items in all their forms.

    Args:
        path: JSONL, JSON (a list), CSV, TSV, Parquet, or text with an item on each line, all also
            with .gz; or a folder, whose files of these kinds are read in order of their names,
            hidden ones left out.
        fields: what to take of each item, in this order; None: by usual names. GSM8K gives
            question and answer, MMLU question and choices (also without a header line), IFEval the
            prompt.

    Raises:
        DataError: a file or line is broken, lacks a field, or there is no item; it names file and
            line, or the item where a file has no lines.
    """
    if not path.exists():
        raise DataError(f"benchmark {path} does not exist", hint="check the benchmark's path")
    files = [path]
    if path.is_dir():
        found = (file for file in path.rglob("*") if file.is_file())
        # Archives of macOS leave ._NAME beside NAME.
        seen = (file for file in found if not _is_hidden(file.relative_to(path)))
        files = sorted(file for file in seen if _kind(file) in _SUFFIXES)
    items = [item for file in files for item in _read_file(file, fields)]
    if not items:
        raise DataError(
            f"benchmark {path} holds no item",
            hint=f"give a file with items, or a folder of them ({', '.join(_SUFFIXES)})",
        )
    return items


def benchmark_names(settings: Decontaminate) -> list[str]:
    """Names of the benchmarks, in order. Raises DataError where there is none."""
    if not settings.benchmarks:
        raise DataError(
            "no benchmark to decontaminate against",
            hint="add [decontaminate.benchmarks.NAME] with a path",
        )
    return sorted(settings.benchmarks)


def check_benchmarks(settings: Decontaminate) -> None:
    """Read all benchmarks, so that a broken one is known before work on the corpus begins.

    Raises:
        DataError: there is none, or as `read_benchmark`.
    """
    for name in benchmark_names(settings):
        section = settings.benchmarks[name]
        read_benchmark(Path(section.path).expanduser(), section.fields)


def _read_file(file: Path, fields: Sequence[str] | None) -> Iterator[Item]:
    kind = _kind(file)
    try:
        if kind == ".txt":
            for _, line in _lines(file):
                yield Item(line.strip())
            return
        for place, row in _READERS.get(kind, _no_reader)(file):
            yield _item(file, place, row, fields)
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise _broken(file, _line(number), "not UTF-8", hint=_NO_TEXT) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file} is a broken gzip file: {error}", hint=_AGAIN) from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _item(file: Path, place: str, row: Row, fields: Sequence[str] | None) -> Item:
    if fields:
        return Item("\n".join(_text(file, place, row, field) for field in fields))
    asks = next((field for field in _QUESTIONS if field in row), None)
    if asks is None:
        raise DataError(
            f"{file}, {place}: no question among the fields {_names(row)}",
            hint=_OTHER_FIELDS,
        )
    question = _text(file, place, row, asks)
    if choices := _choices(file, place, row):
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


def _text(file: Path, place: str, row: Row, field: str) -> str:
    if field not in row:
        raise _broken(file, place, f"no '{field}'", hint=f"its fields are {_names(row)}")
    value = row[field]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if not isinstance(value, str):
        found = json.dumps(value, default=repr)[:_SHOWN]
        raise _broken(file, place, f"'{field}' is no text but {found}", hint=_OTHER_FIELDS)
    return value


def _choices(file: Path, place: str, row: Row) -> list[str]:
    """Texts of the choices; none where it is no such question."""
    if "A" in row and "B" in row:
        letters = [letter for letter in _LETTERS if letter in row]
        return [_text(file, place, row, letter) for letter in letters]
    for field in _CHOICES:
        value = row.get(field)
        if isinstance(value, dict):  # ARC: {"text": [...], "label": [...]}
            value = value.get("text")
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            return value
    return []


def _json_lines(file: Path) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(file):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _broken(file, _line(number), f"no JSON: {_without_place(error)}") from None
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise _broken(file, _line(number), f"no JSON object but {line.strip()[:_SHOWN]}")
        yield _line(number), row


def _json(file: Path) -> Iterator[tuple[str, Row]]:
    """A list of objects, or JSON lines, which often have this ending too."""
    content = _read(file)
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith("["):
            number = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise _broken(file, _line(number), f"no JSON: {_without_place(error)}") from None
        yield from _json_lines(file)
        return
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            found = json.dumps(row)[:_SHOWN]
            raise _broken(file, f"item {number:,}", f"no JSON object but {found}")
        yield f"item {number:,}", row


def _table(file: Path) -> Iterator[tuple[str, Row]]:
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
            raise _broken(file, _line(number), what)
        yield _line(number), dict(zip(names, cells, strict=True))


def _csv(file: Path, content: str) -> list[tuple[int, list[str]]]:
    """Rows with the numbers of their last lines."""
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        if rows := _csv_with_bare_quotes(content):
            return rows
        raise _broken(file, _line(reader.line_num), f"no CSV: {error}") from None


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
    kind = _kind(file)
    raise DataError(
        f"{file}: no benchmark ends in '{kind}'" if kind else f"{file} has no ending for its kind",
        hint=f"give a file that ends in {', '.join(_SUFFIXES)}",
    )


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
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
    content = data.decode("utf-8-sig")
    if (at := content.find("\0")) >= 0:
        number = content.count("\n", 0, at) + 1
        raise _broken(file, _line(number), "binary, not text", hint=_NO_TEXT)
    return content


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1."""
    for number, line in enumerate(_read(file).split("\n"), start=1):
        if line.strip():
            yield number, line


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _names(row: Row) -> str:
    return ", ".join(map(str, row)) or "(none)"


def _without_place(error: Exception) -> str:
    """What is wrong with JSON; where is said before it."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _line(number: int) -> str:
    return f"line {number:,}"


def _broken(file: Path, place: str, what: str, *, hint: str = "") -> DataError:
    return DataError(f"{file}, {place}: {what}", hint=hint or _AGAIN)
