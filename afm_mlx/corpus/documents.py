"""Documents: texts, one by one, from files and folders of several kinds.

What cannot be used is skipped and counted, by reason, and the rest goes on: one broken file among
a million is no reason to stop. Only a path that is not there, or a source without one usable
document, is an error. Memory holds one document, or one batch of rows of a Parquet file.
"""

from __future__ import annotations

import gzip
import importlib
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from afm_mlx.corpus import python_texts, source_code
from afm_mlx.corpus.files import Text, list_files, read_parts
from afm_mlx.errors import DataError
from afm_mlx.settings.sections import Source, SourceKind

# A JSONL line, a Parquet value or an HTML page above this is no document that one model row could
# hold a useful part of; it is skipped, so that memory stays bounded. Ours.
MAX_DOCUMENT_BYTES = 8 * 2**20

# A Parquet file is read in pieces of this many bytes, and rows made at once. Ours.
_PARQUET_BUFFER_BYTES = 2**20
_PARQUET_ROWS = 256

SUFFIXES = {
    SourceKind.TEXT: (".txt", ".text"),
    SourceKind.MARKDOWN: (".md", ".markdown"),
    SourceKind.JSONL: (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz"),
    SourceKind.PARQUET: (".parquet",),
    SourceKind.HTML: (".html", ".htm", ".xhtml"),
    SourceKind.WARC: (".warc", ".warc.gz"),
}
"""Endings of the files of each kind, in lower case; source code has its own list."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and where it is from."""

    text: str
    """Never empty; encodes to UTF-8."""
    source: str
    """Name of its data source."""
    id: str
    """Path below the source's path, or `path:line`, or `path#part`."""
    group: str = ""
    """Documents of one group go to training or validation together, also across sources; without
    a group, equal texts do."""


def read_documents(name: str, source: Source, skipped: Counter[str]) -> Iterator[Document]:
    """Read the documents of a source, files in order of their paths.

    Hidden files and folders, and files with other endings than the kind's, are not part of the
    source. A path that names one file is read whatever its ending.

    Args:
        name: the source's name in the recipe.
        source: its settings. `max_bytes` ends the last document in the middle.
        skipped: gets the number of files, lines or parts left out, by reason: "not UTF-8",
            "binary", "empty", "too long", "unreadable", "broken JSON", ...

    Raises:
        DataError: the path does not exist or holds no such files, a package is missing (all at
            once); or there is no usable document (at the end).
    """
    return _documents(name, source, _texts(name, source, skipped), skipped)


def _documents(
    name: str, source: Source, texts: Iterator[Text], skipped: Counter[str]
) -> Iterator[Document]:
    before = skipped.copy()
    left = source.max_bytes
    usable = 0
    for found in texts:
        if (encoded := _checked(found.text, skipped)) is None:
            continue
        text = found.text
        if left is not None and len(encoded) >= left:
            text = encoded[:left].decode("utf-8", "ignore")
        if text.strip():
            usable += 1
            yield Document(text, name, found.id, found.group)
        if left is not None:
            left -= len(encoded)
            if left <= 0:
                break
    if not usable:
        reasons = [f"{count:,} {reason}" for reason, count in sorted((skipped - before).items())]
        raise DataError(
            f"data.{name}: no usable document in {source.path} (kind {source.kind})"
            + (f"; skipped {', '.join(reasons)}" if reasons else ""),
            hint=f"check data.{name}.path, kind and text_field",
        )


def _checked(text: str, skipped: Counter[str]) -> bytes | None:
    """The text in UTF-8, or None if it is no document, which is counted."""
    if not text.strip():
        reason = "empty"
    elif "\0" in text:
        reason = "binary"
    else:
        try:
            encoded = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, written as \ud800 in JSON
            reason = "not UTF-8"
        else:
            if len(encoded) <= MAX_DOCUMENT_BYTES:
                return encoded
            reason = "too long"
    skipped[reason] += 1
    return None


def _texts(name: str, source: Source, skipped: Counter[str]) -> Iterator[Text]:
    """Check what can be checked before reading, then hand over to the kind's reader."""
    if source.path.startswith("python:"):
        return python_texts.read(name, source.path, skipped)
    path = Path(source.path).expanduser()
    if not source.path or not path.exists():
        raise DataError(
            f"data.{name}: '{source.path}' does not exist", hint=f"check data.{name}.path"
        )
    if source.kind is SourceKind.CODE:
        files = source_code.list_code(path, skipped)
        endings = "files of source code"
    else:
        files = list_files(path, SUFFIXES[source.kind], skipped)
        endings = f"files of kind {source.kind} ({', '.join(SUFFIXES[source.kind])})"
    first = next(files, None)
    if first is None:
        raise DataError(
            f"data.{name}: {path} holds no {endings}", hint=f"check data.{name}.path and kind"
        )
    read = _reader(name, source, skipped)
    return _read_files(path, _chain(first, files), read, skipped)


def _chain(first: Path, rest: Iterator[Path]) -> Iterator[Path]:
    yield first
    yield from rest


def _read_files(
    root: Path,
    files: Iterator[Path],
    read: Callable[[Path, str], Iterator[Text]],
    skipped: Counter[str],
) -> Iterator[Text]:
    for file in files:
        below = file.relative_to(root) if file != root else Path(file.name)
        try:
            # A name need not be UTF-8; an id must be, it goes into logs.
            yield from read(file, below.as_posix().encode("utf-8", "replace").decode())
        except OSError:
            skipped["unreadable"] += 1


def _reader(
    name: str, source: Source, skipped: Counter[str]
) -> Callable[[Path, str], Iterator[Text]]:
    """Function that reads one file, given its path and id."""
    field = source.text_field
    match source.kind:
        case SourceKind.JSONL:
            return lambda path, id: _read_jsonl(path, id, field, skipped)
        case SourceKind.PARQUET:
            _import(name, "pyarrow.parquet", "parquet")
            return lambda path, id: _read_parquet(path, id, field, skipped)
        case SourceKind.HTML:
            trafilatura = _import(name, "trafilatura", "html")
            return lambda path, id: _read_html(path, id, trafilatura, skipped)
        case SourceKind.WARC:
            raise DataError(
                f"data.{name}: kind warc holds pages, and no step makes texts of them",
                hint="add a section [clean.extract]",
            )
        case SourceKind.CODE:
            return lambda path, id: source_code.read_code(path, id, skipped)
        case _:
            return lambda path, id: read_parts(path, id, skipped)


def _read_jsonl(path: Path, id: str, field: str, skipped: Counter[str]) -> Iterator[Text]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        try:
            for number, line in enumerate(_lines(stream, skipped), start=1):
                if (text := _json_text(line, field, skipped)) is not None:
                    yield Text(text, f"{id}:{number}")
        except (EOFError, gzip.BadGzipFile, zlib.error):
            skipped["broken gzip"] += 1


def _lines(stream: BinaryIO, skipped: Counter[str]) -> Iterator[bytes]:
    """Lines; one that is too long is counted, and comes as an empty line."""
    while line := stream.readline(MAX_DOCUMENT_BYTES):
        if len(line) == MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
            skipped["too long"] += 1
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_DOCUMENT_BYTES)
            line = b"\n"
        yield line


def _json_text(line: bytes, field: str, skipped: Counter[str]) -> str | None:
    """The text of one line; None for a blank line, and for a bad one, which is counted."""
    try:
        decoded = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        skipped["not UTF-8"] += 1
        return None
    if not decoded.strip():
        return None
    try:
        row = json.loads(decoded)
    except (ValueError, RecursionError):
        skipped["broken JSON"] += 1
        return None
    text = row.get(field) if isinstance(row, dict) else None
    if isinstance(text, str):
        return text
    skipped[f"without text in '{field}'"] += 1
    return None


def _read_parquet(path: Path, id: str, field: str, skipped: Counter[str]) -> Iterator[Text]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=_PARQUET_BUFFER_BYTES) as file:
            if field not in file.schema_arrow.names:
                skipped[f"without column '{field}'"] += 1
                return
            for batch in file.iter_batches(_PARQUET_ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    if isinstance(value, str):
                        yield Text(value, f"{id}:{row}")
                    else:
                        skipped[f"without text in '{field}'"] += 1
    except (pyarrow.ArrowException, UnicodeDecodeError):
        skipped["broken Parquet"] += 1


def _read_html(
    path: Path, id: str, trafilatura: ModuleType, skipped: Counter[str]
) -> Iterator[Text]:
    with path.open("rb") as stream:
        data = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        skipped["too long"] += 1
        return
    # It finds the encoding itself: a page need not be UTF-8.
    text = trafilatura.extract(data, fast=True, include_comments=False)
    if text is None:
        skipped["without main text"] += 1
    else:
        yield Text(text, id)


def _import(name: str, module: str, extra: str) -> ModuleType:
    """Import an optional package."""
    package = module.partition(".")[0]
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"data.{name}: kind {extra} needs the package {package}: "
            + str(error).splitlines()[0].lower(),
            hint=f"pip install 'afm-mlx[{extra}]'",
        ) from None
    # Without a handler of its own, its warnings about single pages would go to the terminal.
    logging.getLogger(package).addHandler(logging.NullHandler())
    return imported
