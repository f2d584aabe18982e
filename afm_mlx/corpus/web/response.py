"""HTTP responses: their heads, and their bodies without encodings."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from io import BytesIO

from afm_mlx.corpus.web.packages import load

HTML_TYPES = ("text/html", "application/xhtml+xml")
MAX_HEAD_BYTES = 2**17  # HTTP headers, above the longest page; ours

_CHUNK_HEAD = re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]{0,200}\r\n")

Headers = Sequence[tuple[str, str]]
"""Names and values of HTTP headers, in order; names may come twice."""


class Unusable(Exception):
    """A page or record that cannot be used; `str(error)` is the reason to count it under."""


def parse_response(block: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of an HTTP response.

    Raises:
        Unusable: it does not start as HTTP does.
    """
    end = re.search(rb"\r?\n\r?\n", block[:MAX_HEAD_BYTES])
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
    while size := _CHUNK_HEAD.match(body, at):
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
    stream_io = load("fastwarc.stream_io", "reading web archives")
    reader = stream_io.BrotliReader if name == "br" else stream_io.ZstdReader
    try:
        return reader(BytesIO(body)).read(max_bytes + 1)
    except OSError:
        raise Unusable("broken encoding") from None
