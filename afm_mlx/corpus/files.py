"""Finding files in a folder, and reading text from them in bounded memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from afm_mlx.settings.sections import SourceKind

SUFFIXES = {
    SourceKind.TEXT: (".txt", ".text"),
    SourceKind.MARKDOWN: (".md", ".markdown"),
    SourceKind.JSONL: (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz"),
    SourceKind.PARQUET: (".parquet",),
    SourceKind.HTML: (".html", ".htm", ".xhtml"),
    SourceKind.WARC: (".warc", ".warc.gz"),
}
"""Endings of the files of each kind, in lower case; source code has its own list."""

# A JSONL line, a Parquet value or an HTML page above this is no document that one model row could
# hold a useful part of; it is skipped, so that memory stays bounded. Ours.
MAX_DOCUMENT_BYTES = 8 * 2**20

# A longer text file becomes several documents of at most this many bytes, so that one book or log
# of many gigabytes is neither held in memory nor one single document for the held-out split. Ours.
PART_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Text:
    """A text as a reader found it, not yet checked."""

    text: str
    id: str
    group: str = ""
    url: str = ""
    license: str = ""
    """As the text or its row states it; empty where it states none."""
    code_language: str = ""


def list_files(
    path: Path,
    suffixes: tuple[str, ...],
    skipped: Counter[str],
    *,
    left_out: Collection[str] = (),
) -> Iterator[Path]:
    """Files below a folder whose names end in one of `suffixes`, in a fixed order.

    A path that is a file is itself the only one. Hidden files and folders are left out, and folders
    called as one of `left_out`. Links to folders are not followed. A folder that cannot be opened
    is counted as one "unreadable".
    """
    if path.is_file():
        yield path
        return

    def unreadable(_: OSError) -> None:
        skipped["unreadable"] += 1

    for folder, folders, names in os.walk(path, onerror=unreadable):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in left_out
        )
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                file = Path(folder, name)
                if file.is_file():  # no pipes or sockets, which would wait for a writer
                    yield file


def read_parts(path: Path, id: str, skipped: Counter[str]) -> Iterator[Text]:
    """Text of a file; a long one in parts that end at a blank line, else a line, else anywhere.

    A part that is not UTF-8 text is skipped and counted, and the other parts of its file are kept.
    """
    with path.open("rb") as stream:
        number, rest = 0, b""
        while block := stream.read(PART_BYTES - len(rest)):
            rest += block
            if len(rest) < PART_BYTES:
                continue
            end = _cut(rest)
            number += 1
            yield from _part(rest[:end], f"{id}#{number}", skipped)
            rest = rest[end:]
        if rest or not number:
            yield from _part(rest, f"{id}#{number + 1}" if number else id, skipped)


def plain_text(data: bytes, skipped: Counter[str]) -> str | None:
    """Decode UTF-8, without a byte order mark and with line ends as LF; None is counted."""
    if b"\0" in data:
        skipped["binary"] += 1
        return None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        skipped["not UTF-8"] += 1
        return None


def _part(data: bytes, id: str, skipped: Counter[str]) -> Iterator[Text]:
    if (text := plain_text(data, skipped)) is not None:
        yield Text(text, id)


def _cut(data: bytes) -> int:
    """Where to end a part of a long text: best after a blank line, never inside a character."""
    for separator in (b"\n\n", b"\n\r\n", b"\n"):
        if (found := data.rfind(separator)) > 0:
            return found + len(separator)
    end = len(data)
    while end > len(data) - 4 and data[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if data[end - 1] >= 0xC0 else len(data)
