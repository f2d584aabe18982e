"""Rows with a text and what is known of it: JSONL and Parquet files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from afm_mlx.corpus.files import MAX_DOCUMENT_BYTES, Text
from afm_mlx.settings.licenses import both, stated
from afm_mlx.settings.sections import Source

# A Parquet file is read in pieces of this many bytes, and rows made at once. Ours.
_PARQUET_BUFFER_BYTES = 2**20
_PARQUET_ROWS = 256


def read_jsonl(path: Path, id: str, source: Source, skipped: Counter[str]) -> Iterator[Text]:
    """A text from each line; bad lines are skipped and counted."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        try:
            for number, line in enumerate(_lines(stream, skipped), start=1):
                if (row := _json_row(line, skipped)) is not None:
                    yield from _text_of(row, f"{id}:{number}", source, skipped)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            skipped["broken gzip"] += 1


def read_parquet(path: Path, id: str, source: Source, skipped: Counter[str]) -> Iterator[Text]:
    """A text from each row; a file that is damaged or lacks a column is skipped and counted."""
    import pyarrow
    import pyarrow.parquet

    fields = source.text_field, source.id_field, source.url_field, source.license_field
    wanted = list(dict.fromkeys(filter(None, fields)))
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=_PARQUET_BUFFER_BYTES) as file:
            names = file.schema_arrow.names
            for field in wanted:
                if field not in names and field.partition(".")[0] not in names:
                    skipped[f"without column '{field}'"] += 1
                    return
            for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield from _text_of(row, f"{id}:{number}", source, skipped)
    except (pyarrow.ArrowException, UnicodeDecodeError):
        skipped["broken Parquet"] += 1


def _text_of(row: Any, id: str, source: Source, skipped: Counter[str]) -> Iterator[Text]:
    text = _value(row, source.text_field)
    if not isinstance(text, str):
        skipped[f"without text in '{source.text_field}'"] += 1
        return
    named, url = _value(row, source.id_field), _value(row, source.url_field)
    own_id = str(named).strip() if isinstance(named, str | int) else ""
    yield Text(
        text,
        own_id.encode("utf-8", "replace").decode() or id,
        url=url.encode("utf-8", "replace").decode() if isinstance(url, str) else "",
        license=_license(_value(row, source.license_field)),
    )


def _value(row: Any, field: str) -> Any:
    """The field of a row; `a.b` is b inside a, unless a field is called so. None if absent."""
    if not isinstance(row, Mapping) or not field:
        return None
    if field in row:
        return row[field]
    outer, _, inner = field.partition(".")
    return _value(row.get(outer), inner)


def _license(value: Any) -> str:
    """One license, or several that all hold."""
    each = value if isinstance(value, list) else [value]
    named = [found for one in each if isinstance(one, str) and (found := stated(one))]
    return both(named) if named else ""


def _lines(stream: BinaryIO, skipped: Counter[str]) -> Iterator[bytes]:
    """Lines; one that is too long is counted, and comes as an empty line."""
    while line := stream.readline(MAX_DOCUMENT_BYTES):
        if len(line) == MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
            skipped["too long"] += 1
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_DOCUMENT_BYTES)
            line = b"\n"
        yield line


def _json_row(line: bytes, skipped: Counter[str]) -> Any:
    """What one line holds; None for a blank line, and for a bad one, which is counted."""
    try:
        decoded = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        skipped["not UTF-8"] += 1
        return None
    if not decoded.strip():
        return None
    try:
        return json.loads(decoded) or {}  # null is a row without fields
    except (ValueError, RecursionError):
        skipped["broken JSON"] += 1
        return None
