"""Pages out of WARC files, plain or compressed.

A damaged file loses what is damaged: reading goes on at the next record that can be found. Source:
ISO 28500:2017 (WARC 1.1).
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from afm_mlx.corpus.record import Record
from afm_mlx.corpus.web.charset import page_text
from afm_mlx.corpus.web.packages import load
from afm_mlx.corpus.web.page_rules import page_rules
from afm_mlx.corpus.web.response import (
    MAX_HEAD_BYTES,
    Unusable,
    media_type,
    parse_response,
    plain_body,
    values,
)
from afm_mlx.errors import DataError
from afm_mlx.settings.web import APPLEBOT_GROUPS, APPLEBOT_TRAINING_GROUPS, Warc

GROUP_FIELD, TRAINING_FIELD = "AFM-Robots-Group", "AFM-Training"  # extensions of WARC; ours

_PIECE_BYTES = 2**20  # read at once while looking for records; ours
_AGENTS = (*APPLEBOT_GROUPS, *APPLEBOT_TRAINING_GROUPS)


def read_warc(path: Path, source: str, settings: Warc, skipped: Counter[str]) -> Iterator[Record]:
    """Read the HTML pages of an archive; memory holds one page.

    A record's text is its decoded HTML; its facts are `fetched` (ISO 8601), `content_type`,
    `charset` (the one used, by Python's name), and from our crawler `robots_group` and `train`.

    Args:
        path: a WARC file: plain, gzip (per record or not) or zstd.
        source: name of the data source.
        settings: limits.
        skipped: gets the number of records and damaged stretches left out, by reason: "truncated
            record", "broken gzip", "broken record", "not WARC", "too long", "binary", "unknown
            charset", "not HTML", "status not 200", ...

    Raises:
        DataError: the path is no file, or a package is missing.
    """
    archives = load("fastwarc.warc", "reading web archives")
    load("resiliparse.parse.encoding", "reading web archives")
    if not path.is_file():
        raise DataError(f"{path} is no file", hint="name a .warc or .warc.gz file")
    with path.open("rb") as file:
        start: int | None = 0
        while start is not None:
            at = start
            try:
                file.seek(start)
                for record in archives.ArchiveIterator(file, parse_http=False):
                    at = record.stream_pos
                    try:
                        if (page := _read_record(record, path, source, settings)) is not None:
                            yield page
                    except Unusable as reason:
                        skipped[str(reason)] += 1
                        if str(reason) == "truncated record":  # it may have swallowed whole ones
                            raise
                break
            except Unusable:
                start = _next_record(file, at + 1)
            except OSError as error:
                if at != start or start == 0:  # else the same stretch, counted already
                    skipped[_damage(file, error, start=at)] += 1
                start = _next_record(file, at + 1)


def _damage(file: BinaryIO, error: OSError, *, start: int) -> str:
    file.seek(0)
    magic = file.read(5)
    if (
        not (magic.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")) or magic == b"WARC/")
        and not start
    ):
        return "not WARC"
    return "broken gzip" if "gzip" in str(error).lower() else "broken record"


def _next_record(file: BinaryIO, start: int) -> int | None:
    """Offset of the first record at or after `start`; None when there is none."""
    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    mark = b"\x1f\x8b\x08" if packed else b"\nWARC/1."
    file.seek(start)
    held, offset = b"", start
    while piece := file.read(_PIECE_BYTES):
        held += piece
        found = -1
        while (found := held.find(mark, found + 1)) >= 0:
            if not packed:
                return offset + found + 1
            if _opens_record(held[found : found + 1024]):
                return offset + found
        offset += len(held) - min(len(held), 1024)
        held = held[-1024:]
    return None


def _opens_record(packed: bytes) -> bool:
    try:
        return zlib.decompressobj(31).decompress(packed, 5) == b"WARC/"
    except zlib.error:
        return False


def _read_record(record: Any, path: Path, source: str, settings: Warc) -> Record | None:
    """The page of a record; None for a record that is no page, such as a request."""
    kind = record.headers.get("WARC-Type", "").lower()
    if kind not in ("response", "resource"):
        return None
    length = record.content_length
    if length > settings.max_page_bytes + MAX_HEAD_BYTES:
        raise Unusable("too long")
    block = record.reader.read()
    if len(block) < length:
        raise Unusable("truncated record")
    if "WARC-Truncated" in record.headers:  # whole, but its crawler had stopped reading
        raise Unusable("truncated page")
    digest = record.headers.get("WARC-Block-Digest", "")
    if digest.lower().startswith("sha1:") and digest[5:].upper() not in _sha1_forms(block):
        raise Unusable("wrong digest")
    if kind == "response":
        status, headers, body = parse_response(block)
    else:
        content_type = record.headers.get("Content-Type", "")
        status, headers, body = 200, [("Content-Type", content_type)], block
    if status != 200:
        raise Unusable("status not 200")
    body = plain_body(headers, body, max_bytes=settings.max_page_bytes)
    text, charset = page_text(headers, body, settings)
    if settings.obey_page_rules:
        rules = page_rules(text, values(headers, "x-robots-tag"), agents=_AGENTS)
        if not rules.train:
            raise Unusable("page forbids training")
    facts: dict[str, Any] = {
        "fetched": record.headers.get("WARC-Date", ""),
        "content_type": media_type(headers),
        "charset": charset,
    }
    if (group := record.headers.get(GROUP_FIELD)) is not None:
        facts["robots_group"] = group
        facts["train"] = record.headers.get(TRAINING_FIELD) == "yes"
    return Record(
        id=record.headers.get("WARC-Record-ID", f"{path.name}:{record.stream_pos}").strip("<> "),
        text=text,
        source=source,
        url=record.headers.get("WARC-Target-URI", "").strip("<> "),
        facts=facts,
    )


def _sha1_forms(data: bytes) -> tuple[str, str]:
    digest = hashlib.sha1(data)
    return base64.b32encode(digest.digest()).decode(), digest.hexdigest().upper()
