"""A stand-in tokenizer: one token per byte."""

from __future__ import annotations

import pytest


class ByteTokenizer:
    """Ids are bytes, EOS is 256; counts the texts of each batch."""

    def __init__(self, vocab_size: int = 257, fingerprint: str = "a" * 64) -> None:
        self.vocab_size, self.fingerprint, self.eos_id = vocab_size, fingerprint, vocab_size - 1

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def wide_tokenizer() -> ByteTokenizer:
    """More pieces than 16 bits can number."""
    return ByteTokenizer(vocab_size=70_000, fingerprint="b" * 64)
