"""Web archives: pages out of WARC files, plain or compressed, and pages into them.

A damaged file loses what is damaged: reading goes on at the next record that can be found. Written
files have one gzip member per record, so that a file whose last record was cut by a kill can be
cut back to whole records and appended to. Sources: ISO 28500:2017 (WARC 1.1); WHATWG Encoding.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import os
import re
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from afm_mlx.artifact import writing
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.web.robots import page_rules
from afm_mlx.errors import DataError
from afm_mlx.settings.web import Warc

HTML_TYPES = ("text/html", "application/xhtml+xml")

_PIECE_BYTES = 2**20  # read at once while looking for records; ours
_MAX_HEAD_BYTES = 2**17  # HTTP headers above the longest page; ours
_ODD_BYTES = bytes(set(range(32)) - set(b"\t\n\f\r\x1b")) + b"\x7f"  # escape: ISO-2022-JP has it
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_META_CHARSET = re.compile(rb"<meta[^>]{0,1000}charset\s*=\s*[\"']?\s*([\w:.-]+)", re.I)
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.I)
_GROUP_FIELD, _TRAINING_FIELD = "AFM-Robots-Group", "AFM-Training"  # extensions of WARC; ours

Headers = Sequence[tuple[str, str]]
"""Names and values of HTTP headers, in order; names may come twice."""


class Unusable(Exception):
    """A page or record that cannot be used; `str(error)` is the reason to count it under."""


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
    fastwarc_warc = _import("fastwarc.warc")
    _import("resiliparse.parse.encoding")
    if not path.is_file():
        raise DataError(f"{path} is no file", hint="name a .warc or .warc.gz file")
    with path.open("rb") as file:
        start: int | None = 0
        while start is not None:
            at = start
            try:
                file.seek(start)
                for record in fastwarc_warc.ArchiveIterator(file, parse_http=False):
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
    if length > settings.max_page_bytes + _MAX_HEAD_BYTES:
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
    if settings.obey_page_rules and not page_rules(text, values(headers, "x-robots-tag")).train:
        raise Unusable("page forbids training")
    facts: dict[str, Any] = {
        "fetched": record.headers.get("WARC-Date", ""),
        "content_type": media_type(headers),
        "charset": charset,
    }
    if (group := record.headers.get(_GROUP_FIELD)) is not None:
        facts["robots_group"] = group
        facts["train"] = record.headers.get(_TRAINING_FIELD) == "yes"
    return Record(
        id=record.headers.get("WARC-Record-ID", f"{path.name}:{record.stream_pos}").strip("<> "),
        text=text,
        source=source,
        url=record.headers.get("WARC-Target-URI", "").strip("<> "),
        facts=facts,
    )


def parse_response(block: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of an HTTP response.

    Raises:
        Unusable: it does not start as HTTP does.
    """
    end = re.search(rb"\r?\n\r?\n", block[:_MAX_HEAD_BYTES])
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    first, *lines = re.split(r"\r?\n(?![ \t])", head.decode("latin-1"))
    status = re.match(r"HTTP/[\d.]+ +(\d{3})\b", first)
    if status is None:
        raise Unusable("not HTTP")
    pairs = (line.partition(":") for line in lines)
    return int(status[1]), [(name.strip(), value.strip()) for name, _, value in pairs], body


def values(headers: Headers, name: str) -> list[str]:
    """All values of a header."""
    return [value for key, value in headers if key.lower() == name]


def media_type(headers: Headers) -> str:
    """`text/html` and the like, in lower case; empty when the headers do not say."""
    return ",".join(values(headers, "content-type")[:1]).partition(";")[0].strip().lower()


def plain_body(headers: Headers, body: bytes, *, max_bytes: int) -> bytes:
    """A response's body without its transfer and content encodings.

    Archives often hold decoded bodies under the headers of encoded ones: what does not look encoded
    is taken as it is.

    Raises:
        Unusable: "too long" when above `max_bytes`, "broken encoding", "unknown encoding".
    """
    if "chunked" in ",".join(values(headers, "transfer-encoding")).lower():
        body = _unchunked(body)
    named = ",".join(values(headers, "content-encoding")).lower()
    for name in reversed([part.strip() for part in named.split(",")]):
        if name in ("gzip", "x-gzip"):
            body = _inflated(body, 31, max_bytes) if body.startswith(b"\x1f\x8b") else body
        elif name == "deflate":
            zlib_head = len(body) > 1 and body[0] & 15 == 8 and not (body[0] << 8 | body[1]) % 31
            body = _inflated(body, 15 if zlib_head else -15, max_bytes)
        elif name in ("br", "zstd"):
            body = _unpacked(body, name, max_bytes)
        elif name not in ("", "identity"):
            raise Unusable("unknown encoding")
    if len(body) > max_bytes:
        raise Unusable("too long")
    return body


def _unchunked(body: bytes) -> bytes:
    """The chunks' content; the body itself when it is not in chunks."""
    parts: list[bytes] = []
    at = 0
    while size := re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]{0,200}\r\n").match(body, at):
        length = int(size[1], 16)
        if not length:
            return b"".join(parts)
        parts.append(body[size.end() : size.end() + length])
        at = size.end() + length + 2
    return b"".join(parts) if parts else body


def _inflated(body: bytes, window: int, max_bytes: int) -> bytes:
    unpack = zlib.decompressobj(window)
    try:
        text = unpack.decompress(body, max_bytes + 1)
    except zlib.error:
        raise Unusable("broken encoding") from None
    if len(text) <= max_bytes and not unpack.eof:
        raise Unusable("broken encoding")
    return text


def _unpacked(body: bytes, name: str, max_bytes: int) -> bytes:
    stream_io = _import("fastwarc.stream_io")
    reader = stream_io.BrotliReader if name == "br" else stream_io.ZstdReader
    try:
        return reader(BytesIO(body)).read(max_bytes + 1)
    except OSError:
        raise Unusable("broken encoding") from None


def page_text(headers: Headers, body: bytes, settings: Warc) -> tuple[str, str]:
    """The HTML of a page as text, and the charset that it was decoded with.

    The charset is that of the byte order mark, else of the header, else of the meta tag; where none
    of them fits the bytes, UTF-8 if it fits, else what the bytes look like.

    Raises:
        Unusable: "not HTML", "empty", "binary", "unknown charset", "undecodable".
    """
    kind = media_type(headers)
    opening = body[:1024].lower()
    if kind not in HTML_TYPES and (kind or not (b"<html" in opening or b"<!doctype" in opening)):
        raise Unusable("not HTML")
    if not body.strip():
        raise Unusable("empty")
    header = _HEADER_CHARSET.search(",".join(values(headers, "content-type")))
    meta = _META_CHARSET.search(body[:4096])
    declared = [header[1]] if header else []
    if meta:  # what could be read as ASCII is not UTF-16; WHATWG, prescan
        name = meta[1].decode("ascii", "replace")
        declared.append("utf-8" if name.lower().startswith("utf-16") else name)
    marked = [name for mark, name in _BOMS if body.startswith(mark)]
    known = marked + [codec for label in declared if (codec := _codec(label))]
    wide = bool(known) and known[0].startswith("utf-16")
    if not wide:
        _refuse_binary(body, settings)
    text, charset = _decode(body, known, bool(declared), settings)
    if wide:
        _refuse_binary(text.encode("utf-8", "replace"), settings)
    return text, charset


def _refuse_binary(body: bytes, settings: Warc) -> None:
    odd = len(body) - len(body.translate(None, _ODD_BYTES))
    if odd > settings.max_odd_fraction * len(body):
        raise Unusable("binary")


def _decode(body: bytes, known: list[str], declared: bool, settings: Warc) -> tuple[str, str]:
    for codec in (*known, "utf-8"):
        try:
            return body.decode(codec), codec
        except UnicodeDecodeError:
            continue
    if declared and not known:
        raise Unusable("unknown charset")
    detected = _codec(_import("resiliparse.parse.encoding").detect_encoding(body) or "")
    for codec in (*known[:1], *([detected] if detected else [])):
        text = body.decode(codec, "replace")
        if text.count("\ufffd") <= settings.max_undecodable_fraction * len(text):
            return text, codec
    raise Unusable("undecodable")


def _codec(label: str) -> str | None:
    """Python's name for the charset that browsers take `label` for."""
    name = _import("resiliparse.parse.encoding").map_encoding_to_html5(label, fallback_utf8=False)
    try:
        return codecs.lookup(name).name if name else None
    except LookupError:
        return None


class WarcWriter:
    """Appends records to a WARC 1.1 file, each in its own gzip member."""

    def __init__(self, path: Path, *, length: int | None = None) -> None:
        """Open or make a file; what is behind its whole records is cut off.

        Args:
            path: the file, ending in .warc.gz.
            length: bytes to keep of the file, when they are known; else all whole records.

        Raises:
            DataError: the file is shorter than `length`.
        """
        self.path = path
        found = path.stat().st_size if path.exists() else 0
        self.size = whole_length(path) if length is None and found else length or 0
        if found < self.size:
            raise DataError(
                f"{path} has {found:,} bytes, and {self.size:,} were written",
                hint=f"restore it, or start again in another folder than {path.parent}",
            )
        self._file = path.open("r+b" if path.exists() else "xb")
        self._file.truncate(self.size)
        self._file.seek(self.size)

    def write_info(self, fields: Mapping[str, str], *, date: str) -> None:
        """Append a warcinfo record: how this file was made.

        Args:
            fields: such as software, operator, robots.
            date: ISO 8601, ending in Z.
        """
        block = "".join(f"{name}: {_line(text)}\r\n" for name, text in fields.items()).encode()
        head = {"WARC-Filename": self.path.name, "Content-Type": "application/warc-fields"}
        self._write("warcinfo", self.path.name, date, head, block)

    def write_response(
        self,
        url: str,
        *,
        date: str,
        status_line: str,
        headers: Headers,
        body: bytes,
        group: str,
        train: bool,
    ) -> tuple[int, int]:
        """Append a page, and return the offset and length of its record in bytes.

        Args:
            url: its address.
            date: when it was fetched, ISO 8601, ending in Z.
            status_line: such as `HTTP/1.1 200 OK`.
            headers: as received; those about encodings and length get the prefix `X-Crawl-`, as in
                Common Crawl's archives.
            body: without encodings.
            group: the group of robots.txt that allowed it.
            train: whether it may be trained on.
        """
        lines = [status_line]
        for name, value in headers:
            old = name.lower() in ("content-encoding", "content-length", "transfer-encoding")
            lines.append(f"{'X-Crawl-' if old else ''}{name}: {_line(value)}")
        lines += [f"Content-Length: {len(body)}", "", ""]
        fields = {
            "WARC-Target-URI": url,
            "WARC-Payload-Digest": _sha1(body),
            "Content-Type": "application/http; msgtype=response",
            _GROUP_FIELD: group,
            _TRAINING_FIELD: "yes" if train else "no",
        }
        block = "\r\n".join(lines).encode("latin-1", "replace") + body
        return self._write("response", url, date, fields, block)

    def sync(self) -> None:
        """Make what was written survive a power failure."""
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(
        self, kind: str, name: str, date: str, fields: Mapping[str, str], block: bytes
    ) -> tuple[int, int]:
        head = {
            "WARC-Type": kind,
            "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{date} {name}')}>",
            "WARC-Date": date,
            **fields,
            "WARC-Block-Digest": _sha1(block),
            "Content-Length": str(len(block)),
        }
        lines = "".join(f"{key}: {_line(value)}\r\n" for key, value in head.items())
        pack = zlib.compressobj(9, zlib.DEFLATED, 31)
        record = b"WARC/1.1\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n"
        packed = pack.compress(record) + pack.flush()
        offset = self.size
        with writing(self.path):
            self._file.write(packed)
            self._file.flush()
        self.size += len(packed)
        return offset, len(packed)


def whole_length(path: Path) -> int:
    """Bytes of the whole gzip members that a file starts with; reads it once."""
    whole = read = 0
    unpack = zlib.decompressobj(31)
    with path.open("rb") as file:
        while data := file.read(_PIECE_BYTES):
            read += len(data)
            while data:
                try:
                    unpack.decompress(data, _PIECE_BYTES)
                except zlib.error:
                    return whole
                data = unpack.unconsumed_tail
                if unpack.eof:
                    data = unpack.unused_data
                    whole = read - len(data)
                    unpack = zlib.decompressobj(31)
    return whole


def _line(value: str) -> str:
    return re.sub(r"[\r\n\0]+", " ", value)


def _sha1(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()


def _sha1_forms(data: bytes) -> tuple[str, str]:
    digest = hashlib.sha1(data)
    return base64.b32encode(digest.digest()).decode(), digest.hexdigest().upper()


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise DataError(
            f"reading web archives needs the package {package}",
            hint="pip install 'afm-mlx[corpus]'",
        ) from None
