"""The texts that `corpus.py` measures on: Python's own, articles of annotated pages, and copies.

A copy has every sixth word in another place, so that it is no duplicate.
"""

from __future__ import annotations

import gzip
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from afm_mlx.corpus.documents import Document, read_documents
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.web.extract import Extractor
from afm_mlx.settings.extraction import Extract, ExtractMode
from afm_mlx.settings.sections import Source, SourceKind

CODE_SHARE = 0.25  # of the text

Texts = Sequence[str]


@dataclass(frozen=True)
class Corpus:
    """What rows run on."""

    folder: Path
    prose: list[Record]
    code: list[Record]
    pages: list[str]

    @property
    def texts(self) -> list[Record]:
        """Prose and code."""
        return self.prose + self.code


def read_pages(data: Path) -> list[str]:
    """The annotated pages, as HTML; none where they are not there."""
    files = sorted((data / "extraction" / "html").glob("*.html.gz"))
    return [gzip.decompress(file.read_bytes()).decode("utf-8", "replace") for file in files]


def make_corpus(folder: Path, pages: list[str], size: int) -> Corpus:
    """Prose and code of about `size` bytes together."""
    extractor = Extractor(Extract(mode=ExtractMode.FAST))
    articles = [extractor(Record(f"page/{number}", page)) for number, page in enumerate(pages)]
    prose = [document.text for document in python_texts("docs")]
    prose += [article.text for article in articles if isinstance(article, Record)]
    code = [document.text for document in python_texts("library")]
    random.Random(0).shuffle(prose)
    return Corpus(
        folder,
        list(repeated("prose", prose, size * (1 - CODE_SHARE))),
        list(repeated("code", code, size * CODE_SHARE)),
        pages,
    )


def python_texts(name: str) -> Iterator[Document]:
    """Texts that come with Python."""
    source = Source(kind=SourceKind.TEXT, path=f"python:{name}")
    return read_documents(name, source, Counter())


def repeated(source: str, texts: Texts, size: float) -> Iterator[Record]:
    """Texts, then copies of them, until they have `size` bytes."""
    for number, text in enumerate(cycle(texts)):
        if size <= 0:
            return
        copy = moved(text, number) if number >= len(texts) else text
        size -= len(copy.encode())
        yield Record(f"{source}/{number}", copy, source)


def moved(text: str, seed: int) -> str:
    """The text with every sixth word exchanged with any other one; lines stay about as long."""
    draw = random.Random(seed)
    words = text.split(" ")
    for place in range(seed % 6, len(words), 6):
        other = draw.randrange(len(words))
        words[place], words[other] = words[other], words[place]
    return " ".join(words)
