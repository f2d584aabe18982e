"""Prose of given documents, for texts to summarize and to hide facts in."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from afm_mlx.corpus.clean import kind_of
from afm_mlx.corpus.documents import read_documents
from afm_mlx.errors import DataError
from afm_mlx.settings.sections import Source, SourceKind

MOST_BYTES = 4_000_000
"""Of the documents, this many bytes are read. Ours."""

_LEAST_WORDS = 15
_PROSE = re.compile(r"[A-Z][^\n]*[.!?]\Z")
_NOT_PROSE = re.compile(r"::|[<>{}=|_*`\\]|\(\)|https?:")
_LEAST = 20  # paragraphs


@dataclass(frozen=True)
class Prose:
    """Paragraphs of documents, in order."""

    paragraphs: tuple[str, ...]
    checksum: str
    """Of all of them."""


def read_prose(path: str) -> Prose:
    """The paragraphs of running text in a file, a folder, `python:docs` or `python:library`.

    Raises:
        DataError: there is no such path, or it holds hardly any prose.
    """
    kind = SourceKind.TEXT if path.startswith("python:") else kind_of(Path(path).expanduser())
    source = Source(kind=kind, path=path, max_bytes=MOST_BYTES)
    found: dict[str, None] = {}
    for document in read_documents("documents", source, Counter()):
        for block in re.split(r"\n\s*\n", document.text):
            if block[:1].isspace():
                continue  # code, in the documentation of Python
            text = " ".join(block.split())
            prose = _PROSE.match(text) and not _NOT_PROSE.search(text)
            if prose and len(text.split()) >= _LEAST_WORDS:
                found[text] = None
    if len(found) < _LEAST:
        raise DataError(
            f"{path} holds {len(found)} paragraphs of prose, and {_LEAST} are needed",
            hint="name other texts: --set documents=FOLDER",
        )
    paragraphs = tuple(found)
    checksum = hashlib.sha256("\n".join(paragraphs).encode()).hexdigest()[:16]
    return Prose(paragraphs, checksum)
