"""The text of a page: which charset its bytes are in, and whether they are text at all.

Source: WHATWG, Encoding.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from afm_mlx.corpus.web.packages import load
from afm_mlx.corpus.web.response import HTML_TYPES, Headers, Unusable, media_type, values
from afm_mlx.settings.web import Warc

_ODD_BYTES = bytes(set(range(32)) - set(b"\t\n\f\r\x1b")) + b"\x7f"  # escape: ISO-2022-JP has it
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_META_CHARSET = re.compile(rb"<meta[^>]{0,1000}charset\s*=\s*[\"']?\s*([\w:.-]+)", re.I)
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.I)


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
    detected = _codec(_encodings().detect_encoding(body) or "")
    for codec in (*known[:1], *([detected] if detected else [])):
        text = body.decode(codec, "replace")
        if text.count("\ufffd") <= settings.max_undecodable_fraction * len(text):
            return text, codec
    raise Unusable("undecodable")


def _codec(label: str) -> str | None:
    """Python's name for the charset that browsers take `label` for."""
    name = _encodings().map_encoding_to_html5(label, fallback_utf8=False)
    try:
        return codecs.lookup(name).name if name else None
    except LookupError:
        return None


def _encodings() -> Any:
    return load("resiliparse.parse.encoding", "decoding web pages")
