"""What SentencePiece learns from: documents, bounded, cut, and cleaned of what it cannot take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from afm_mlx.errors import DataError

_NEVER_IN_A_PIECE = re.compile("[\0\u2581\u2585]")
"""SentencePiece drops a text with a NUL or U+2585 and reads U+2581 as a space: a newline, which
ends every piece, stands in for them while it learns. In use they are spelled in bytes."""

_LONGEST_CHARACTER = 4
"""Bytes of UTF-8."""


class Sentences:
    """Sentences for SentencePiece from documents: bounded, cut, counted.

    An error of the documents is kept in `failure`, since SentencePiece turns it into its own.
    """

    def __init__(self, texts: Iterable[str], *, max_sentence_bytes: int, training_bytes: int):
        self.texts, self.left = texts, training_bytes
        self.longest = max(max_sentence_bytes, _LONGEST_CHARACTER)
        self.documents = self.bytes = 0
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for text in self.texts:
                data = _NEVER_IN_A_PIECE.sub("\n", text).encode("utf-8", "replace")
                data = _whole_characters(data[: self.left])
                yield from _cut(data, self.longest)
                self.documents += 1
                self.bytes += len(data)
                self.left -= len(data)
                if self.left < _LONGEST_CHARACTER:
                    return
        except GeneratorExit:
            raise
        except BaseException as error:
            self.failure = error
            raise


def _cut(data: bytes, longest: int) -> Iterator[bytes]:
    """Parts of at most `longest` bytes, cut after a newline if there is one in reach."""
    start = 0
    while len(data) - start > longest:
        end = data.rfind(b"\n", start, start + longest) + 1
        if not end:
            end = start + len(_whole_characters(data[start : start + longest]))
        yield data[start:end]
        start = end
    yield data[start:]


def _whole_characters(data: bytes) -> bytes:
    """UTF-8 without a character that is cut off at its end."""
    return data.decode("utf-8", "ignore").encode()


def training_error(message: str, read: Sentences, vocab_size: int, reserved: int) -> DataError:
    """Our words for SentencePiece's: it has too little text, or too many characters."""
    text = f"{read.bytes:,} bytes of text"
    if most := re.search(r"value <= (\d+)", message):
        pieces = int(most[1]) + reserved
        return DataError(
            f"{text} give at most {pieces:,} pieces, and the vocabulary is to have {vocab_size:,}",
            hint=f"more text, or --set shape.vocab_size={pieces}",
        )
    if least := re.search(r"required_chars\. \d+ vs (\d+)", message):
        pieces = int(least[1]) + reserved
        return DataError(
            f"{text} need at least {pieces:,} pieces, {reserved} reserved ones included, "
            f"and the vocabulary is to have {vocab_size:,}",
            hint=f"--set shape.vocab_size={2 ** (pieces - 1).bit_length()}, or a lower "
            "tokenizer.character_coverage",
        )
    if not read.bytes or "sentences_.empty()" in message:
        return DataError(f"no text to learn {vocab_size:,} pieces from")
    return DataError(f"SentencePiece cannot learn from {text}: {message}")
