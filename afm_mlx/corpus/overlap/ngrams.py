"""Words of texts, and hashes of runs of n words, with NumPy over many texts at once.

Words are the same however a text is cased or punctuated: case is folded, compatible characters
become one (NFKC), apostrophes and invisible characters vanish, and every other character that is no
letter, mark or number ends a word. In scripts without spaces each character is a word.

Letters: C characters, W words, T texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]

# What a character is.
_SEPARATOR, _VANISHES, _LETTER, _WORD = 0, 1, 2, 3

# Blocks of scripts that are written without spaces: Thai, Lao, Myanmar, Khmer, New Tai Lue, Tai
# Tham, CJK with kana, Tai Viet, and the CJK of the planes above. Source: Unicode 16, blocks.
_SPACELESS = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1980, 0x19DF),
    (0x1A20, 0x1AAF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAADF),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x323AF),
)
_APOSTROPHES = "'\u2018\u2019\u02bc"
_ASCII_PUNCTUATION = {
    code: None for code in range(128) if not (chr(code).isspace() or chr(code).isalnum())
}
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
# Letters end here; the rest of Unicode is unassigned, private, or invisible.
_LAST_LETTER = 0x323AF
_INVISIBLE = (0xE0000, 0xE0FFF)

# Stands between texts in one buffer; a separator, so that no word crosses it.
_BETWEEN = "\x1e"

# Neither space, letter nor number; some of them are marks, which stay.
_NO_WORD = re.compile(r"[^\w\s]|_")

# A longer word counts by this many of its first characters; no language has such. Ours.
_WORD_CHARACTERS = 256
# Characters worked on at once, at about 60 bytes each: fewer leave NumPy idle, more leave the
# cache. Measured. Ours.
BATCH_CHARACTERS = 2**16

# Odd numbers without pattern: the finalizer of SplitMix64, and two bases of polynomials.
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_CHARACTER_BASE, _WORD_BASE = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95


@dataclass(frozen=True)
class Words:
    """The words of several texts, one text after the other."""

    characters: NDArray[np.unsignedinteger]
    """[C] code points after normalization."""
    starts: Integers
    """[W] where each word begins in `characters`."""
    ends: Integers
    """[W] where it ends; not included."""
    hashes: Hashes
    """[W] hash of each word."""
    firsts: Integers
    """[T + 1] number of each text's first word; the last is W."""
    spaceless: NDArray[np.bool_]
    """[W] whether the word is a character of a script without spaces."""

    def text(self, word: int, n: int) -> str:
        """`n` words from number `word` on, with single spaces."""
        return " ".join(
            _decode(self.characters[start:end])
            for start, end in zip(
                self.starts[word : word + n].tolist(),
                self.ends[word : word + n].tolist(),
                strict=True,
            )
        )

    def left(self) -> Integers:
        """[W] words from each one to the end of its text, itself counted."""
        counts = np.diff(self.firsts)
        return np.repeat(self.firsts[1:], counts) - np.arange(len(self.hashes))

    def only(self, places: Integers, lengths: Integers) -> tuple[Words, Integers]:
        """The words of some runs, as one text, and where each run then begins.

        Args:
            places: [N] first word of each run.
            lengths: [N] its words.
        """
        edges = np.bincount(places, minlength=len(self.hashes) + 1)
        edges -= np.bincount(places + lengths, minlength=len(self.hashes) + 1)
        used = np.cumsum(edges[:-1]) > 0
        starts, ends = self.starts[used], self.ends[used]
        sizes = ends - starts
        begins = np.cumsum(sizes) - sizes
        total = int(sizes.sum())
        characters = self.characters[np.arange(total) + np.repeat(starts - begins, sizes)]
        hashes = self.hashes[used]
        words = Words(
            characters,
            begins,
            begins + sizes,
            hashes,
            np.array([0, len(hashes)]),
            self.spaceless[used],
        )
        return words, (np.cumsum(used) - 1)[places]


def normalize(text: str) -> str:
    """The words of a text with single spaces between them.

    >>> normalize("Don't PANIC:  it's 3.5!")
    'dont panic its 3 5'
    """
    words = split_words([text])
    return words.text(0, len(words.hashes))


def punctuation_forms(text: str) -> list[str]:
    """The text, and what else becomes of its words where a copy deletes or spaces punctuation.

    >>> punctuation_forms("It's 3.5")
    ["It's 3.5", 'Its 35', 'It s 3.5']
    """
    deleted = text.translate(_ASCII_PUNCTUATION) if text.isascii() else _NO_WORD.sub(_mark, text)
    spaced = text.translate(dict.fromkeys(map(ord, _APOSTROPHES), " "))
    return list(dict.fromkeys([text, deleted, spaced]))


def split_words(texts: Sequence[str]) -> Words:
    """The words of each text. Takes any text; memory is 5 to 10 bytes for each character."""
    batches: list[list[str]] = [[]]
    pieces: list[int] = []  # of each text
    room = BATCH_CHARACTERS
    for text in texts:
        pieces.append(0)
        for piece in _pieces(text):
            if len(piece) > room and batches[-1]:
                batches.append([])
                room = BATCH_CHARACTERS
            batches[-1].append(piece)
            room -= len(piece)
            pieces[-1] += 1
    parts = [_split(batch) for batch in batches]
    if len(parts) == 1 and len(pieces) == len(batches[0]):
        return parts[0]
    joined = join_words(parts)
    return replace(joined, firsts=joined.firsts[np.cumsum([0, *pieces])])


def join_words(parts: Sequence[Words]) -> Words:
    """The words of all parts, one part after the other."""
    characters = np.cumsum([0] + [len(part.characters) for part in parts[:-1]])
    counts = np.concatenate([np.diff(part.firsts) for part in parts])  # words of each text
    return Words(
        np.concatenate([part.characters for part in parts]),
        np.concatenate([part.starts + at for part, at in zip(parts, characters, strict=True)]),
        np.concatenate([part.ends + at for part, at in zip(parts, characters, strict=True)]),
        np.concatenate([part.hashes for part in parts]),
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([part.spaceless for part in parts]),
    )


def ngram_hashes(words: Hashes, n: int) -> Hashes:
    """[W - n + 1] hash of the `n` words from each word on; [0] where there are fewer."""
    count = max(0, len(words) - n + 1)
    total = np.zeros(count, np.uint64)
    for place in range(n):
        power = np.uint64(pow(_WORD_BASE, place, 2**64))
        total += words[place : place + count] * power
    return _mix(total)


def _pieces(text: str) -> Iterator[str]:
    """The text, cut after spaces if it is too long for one batch; a text gives at least one."""
    first = 0
    while len(text) - first > BATCH_CHARACTERS:
        last = max(text.rfind(space, first, first + BATCH_CHARACTERS) for space in " \n") + 1
        last = last or first + BATCH_CHARACTERS
        yield text[first:last]
        first = last
    yield text[first:]


def _split(texts: Sequence[str]) -> Words:
    """`split_words` in one piece; memory is about 60 bytes for each character."""
    folded = [_fold(text) for text in texts]
    characters = _encode(_BETWEEN.join(folded))
    kinds = _kinds()[characters]
    # A text takes its own characters and the one that stands behind it.
    ends_of_texts = np.cumsum([0] + [len(text) + 1 for text in folded])
    if (vanishes := kinds == _VANISHES).any():
        kept = ~vanishes
        gone = np.concatenate([[0], np.cumsum(vanishes)])
        ends_of_texts -= gone[np.minimum(ends_of_texts, len(kinds))]
        characters, kinds = characters[kept], kinds[kept]
    letter, alone = kinds == _LETTER, kinds == _WORD
    edges = np.diff(letter.astype(np.int8), prepend=np.int8(0), append=np.int8(0))
    starts = np.flatnonzero((edges[:-1] == 1) | alone)
    ends = np.minimum(np.flatnonzero((edges[1:] == -1) | alone) + 1, starts + _WORD_CHARACTERS)
    return Words(
        characters,
        starts,
        ends,
        _word_hashes(characters, starts, ends),
        np.searchsorted(starts, ends_of_texts),
        alone[starts],
    )


def _mark(found: re.Match[str]) -> str:
    """The character if it is a mark, part of a letter; else nothing."""
    return found[0] if unicodedata.category(found[0])[0] == "M" else ""


def _fold(text: str) -> str:
    """The text without differences of case and of compatible characters, and without `_BETWEEN`."""
    if text.isascii():
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.replace(_BETWEEN, " ")


def _encode(text: str) -> NDArray[np.unsignedinteger]:
    """Code points: a byte each where all are ASCII, else four."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _decode(characters: NDArray[np.unsignedinteger]) -> str:
    encoding = "ascii" if characters.dtype.itemsize == 1 else "utf-32-le"
    return characters.tobytes().decode(encoding)


@lru_cache(maxsize=1)
def _kinds() -> NDArray[np.uint8]:
    """[0x110000] what each code point is."""
    kinds = np.zeros(0x110000, np.uint8)
    spaceless = np.zeros(_LAST_LETTER + 1, bool)
    for first, last in _SPACELESS:
        spaceless[first : last + 1] = True
    for code in range(_LAST_LETTER + 1):
        category = unicodedata.category(chr(code))
        if category in ("Cf", "Me"):
            kinds[code] = _VANISHES
        elif category[0] in "LM":
            kinds[code] = _WORD if spaceless[code] else _LETTER
        elif category[0] == "N":
            kinds[code] = _LETTER
    kinds[[ord(apostrophe) for apostrophe in _APOSTROPHES]] = _VANISHES
    kinds[_VARIATION_SELECTORS] = _VANISHES
    kinds[_INVISIBLE[0] : _INVISIBLE[1] + 1] = _VANISHES
    return kinds


def _word_hashes(
    characters: NDArray[np.unsignedinteger], starts: Integers, ends: Integers
) -> Hashes:
    """[W] polynomial of each word's code points, from differences of running sums."""
    hashes = np.empty(len(starts), np.uint64)
    powers, inverse = _powers()
    first = 0
    while first < len(starts):
        begin = starts[first]
        last = int(np.searchsorted(ends, begin + BATCH_CHARACTERS, side="right"))
        stop = ends[last - 1]
        piece = characters[begin:stop].astype(np.uint64) + np.uint64(1)
        sums = np.zeros(len(piece) + 1, np.uint64)
        np.cumsum(piece * powers[: len(piece)], out=sums[1:])
        at, end = starts[first:last] - begin, ends[first:last] - begin
        hashes[first:last] = (sums[end] - sums[at]) * inverse[at]
        first = last
    return _mix(hashes)


@lru_cache(maxsize=1)
def _powers() -> tuple[Hashes, Hashes]:
    """Powers of the base modulo 2^64, from 0 on, and their inverses."""
    bases = (_CHARACTER_BASE, pow(_CHARACTER_BASE, -1, 2**64))
    powers = np.full((2, BATCH_CHARACTERS), 1, np.uint64)
    for row, base in zip(powers, bases, strict=True):
        row[1:] = np.uint64(base)
        np.multiply.accumulate(row, out=row)
    return powers[0], powers[1]


def _mix(values: Hashes) -> Hashes:
    """Spread every bit over all others, in place. Source: SplitMix64's finalizer."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(_MIX_1)
    values ^= values >> np.uint64(27)
    values *= np.uint64(_MIX_2)
    values ^= values >> np.uint64(31)
    return values
