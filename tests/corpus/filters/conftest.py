"""Texts that filters must survive."""

import random

import pytest

PIECES = ["the", "...", "::", "2001:", "192.168.", "4111", "lorem ipsum", "a@b.co", "GB82"]
MARKS = "0-#{}@+( \n\t\r\x00\ud800\udfff\u200b\ufeff\u0301\u4f60\u0e2a\U0010ffff"


@pytest.fixture
def strange_texts() -> list[str]:
    """Empty, huge, without a line end, with lone surrogates, and random, the same every time."""
    generator = random.Random(7)
    texts = ["", "\x00", "\n", "a" * 1_000_000, "a " * 60_000, "1" * 50_000, "\ud800" * 1_000]
    for _ in range(200):
        size = generator.randint(0, 300)
        anything = [chr(generator.randrange(0x110000)) for _ in range(size // 3)]
        texts.append("".join(generator.choices([*PIECES, *MARKS, *anything], k=size)))
    return texts
