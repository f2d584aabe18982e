"""Texts as sets of hashed shingles: a few words in a row, lower-cased, spaces collapsed.

A whole batch of texts is hashed with NumPy, because Python's own loop over shingles takes more time
than all other steps of deduplication together. Every hash is a fixed function of the text: the same
on every machine, and with every version of NumPy and Python but for new lower-case letters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Scripts written without spaces between words: each of their characters counts as a word. First and
# last code point. Korean has spaces. Source: block names of the Unicode standard.
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # Chinese radicals and punctuation, kana, bopomofo
    (0x31A0, 0xA4CF),  # kana, Chinese, Yi
    (0xF900, 0xFAFF),  # Chinese, compatibility forms
    (0xFF66, 0xFF9D),  # kana, half width
    (0x20000, 0x3FFFF),  # Chinese, rare
)

PIECE_CHARACTERS = 2**20
"""A longer text is hashed in pieces, because hashing takes 60 bytes per character. Ours."""

_SPACE = 32

# Odd 64-bit numbers without structure: digits of the golden ratio, and Vigna's splitmix64.
_WORD_BASE = 0x9E3779B97F4A7C15
_SHINGLE_BASE = 0xD1342543DE82EF95
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def normalized(text: str) -> str:
    """The text lower-cased, with every run of white space as one space, and none at the ends."""
    text = text.lower()
    if len(text) <= PIECE_CHARACTERS:
        return " ".join(text.split())
    # A list of all words would take ten times the memory of the text.
    pieces = []
    for start in range(0, len(text), PIECE_CHARACTERS):
        piece = text[start : start + PIECE_CHARACTERS]
        before, after = (" " if piece[end].isspace() else "" for end in (0, -1))
        pieces.append(before + " ".join(piece.split()) + after)
    text = "".join(pieces)
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip(" ")


def mix(values: Hashes) -> Hashes:
    """A bijection of 64-bit numbers after which each bit depends on all.

    Source: splitmix64, finalizer (Stafford's variant 13).
    """
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def shingle_hashes(
    texts: Sequence[str], *, words: int, longest_word: int
) -> tuple[Hashes, NDArray[np.int64]]:
    """Hashes of the shingles of normalized texts, one text after the other, and counts per text.

    A text of fewer than `words` words has no shingle. A shingle that occurs twice is there twice.
    Takes about 60 bytes of memory per character of all texts.

    Args:
        texts: as `normalized` makes them.
        words: words in a shingle.
        longest_word: in longer words, in characters, each character counts as a word.
    """
    tokens, counts = _word_hashes(texts, longest_word)
    shingles = np.maximum(counts - (words - 1), 0)
    # Windows that reach from one text into the next are no shingles.
    shifts = (np.cumsum(counts) - counts) - (np.cumsum(shingles) - shingles)
    kept = np.arange(shingles.sum()) + np.repeat(shifts, shingles)
    return _windows(tokens, words)[kept], shingles


def shingle_pieces(text: str, *, words: int, longest_word: int) -> Iterator[Hashes]:
    """The shingles of one normalized text of any length, in parts: memory stays bounded."""
    before = np.zeros(0, np.uint64)
    for start, end in _cuts(text):
        tokens = np.concatenate([before, _word_hashes([text[start:end]], longest_word)[0]])
        yield _windows(tokens, words)
        before = tokens[max(0, len(tokens) - (words - 1)) :]


def _windows(tokens: Hashes, words: int) -> Hashes:
    """Hash of each `words` tokens in a row."""
    sums = np.zeros(max(0, len(tokens) - (words - 1)), np.uint64)
    weight = 1
    for offset in range(words):
        sums += tokens[offset : offset + len(sums)] * np.uint64(weight)
        weight = weight * _SHINGLE_BASE % 2**64
    return mix(sums)


def _cuts(text: str) -> Iterator[tuple[int, int]]:
    """Starts and ends of pieces: each ends before a space where it has one."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = text.rfind(" ", start + 1, start + PIECE_CHARACTERS)
        end = start + PIECE_CHARACTERS if end < 0 else end
        yield start, end
        start = end
    yield start, len(text)


def _word_hashes(texts: Sequence[str], longest_word: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Hash of each word of all texts, and words per text."""
    if not texts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    joined = " ".join(texts) + " "
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    starts, ends = _words(codes, joined.isascii(), longest_word)

    # A word's hash is a polynomial of its characters. Prefix sums of code x base^position give it
    # for all words at once; the inverse powers undo the position. All arithmetic is modulo 2^64.
    powers, inverse_powers = _powers(1 << (len(codes) - 1).bit_length())
    prefix = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes + np.uint64(1)) * powers[: len(codes)], out=prefix[1:])
    hashes = mix((prefix[ends] - prefix[starts]) * inverse_powers[starts])

    lengths = np.fromiter((len(text) + 1 for text in texts), np.int64, len(texts))
    edges = np.concatenate([[0], np.searchsorted(starts, np.cumsum(lengths))])
    return hashes, np.diff(edges).astype(np.int64)


def _words(
    codes: Hashes, is_ascii: bool, longest_word: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end (not included) of each word in code points; the last one is a space."""
    inside = codes != _SPACE
    before = np.concatenate([[False], inside[:-1]])
    is_start = inside & ~before
    is_end = before & ~inside  # at the position after the word
    if not is_ascii:
        single = _alone(codes)
        after_single = np.concatenate([[False], single[:-1]])
        cut = single | (after_single & inside)
        is_start |= cut
        is_end |= cut & before
        is_end |= after_single
    starts, ends = np.flatnonzero(is_start), np.flatnonzero(is_end)
    long = ends - starts > longest_word
    if long.any():
        spread = np.repeat(starts[long], ends[long] - starts[long])
        lengths = ends[long] - starts[long]
        spread += np.arange(len(spread)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        starts = np.sort(np.concatenate([starts[~long], spread]))
        ends = np.sort(np.concatenate([ends[~long], spread + 1]))
    return starts, ends


def _alone(codes: Hashes) -> NDArray[np.bool_]:
    """Which characters are words of their own."""
    found = np.zeros(len(codes), np.bool_)
    for first, last in _WITHOUT_SPACES:
        found |= (codes >= first) & (codes <= last)
    return found


@lru_cache(maxsize=1)
def _powers(size: int) -> tuple[Hashes, Hashes]:
    """Powers 0 to size - 1 of the base and of its inverse, modulo 2^64."""

    def powers(base: int) -> Hashes:
        found = np.full(size, base, np.uint64)
        found[0] = 1
        return np.cumprod(found, dtype=np.uint64)

    return powers(_WORD_BASE), powers(pow(_WORD_BASE, -1, 2**64))
