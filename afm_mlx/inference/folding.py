"""Text as patterns see it: what looks alike, or cannot be seen, makes no difference.

Characters are folded one at a time, so a text in pieces folds as the whole text does.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

SAME = {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u2800": " "}
"""Typographic apostrophes, and the Braille blank."""

UNSEEN = "\u115f\u1160"
"""Letters that show nothing: what is left of Hangul fillers. (The rest has category Cf.)"""

UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x11FF),  # Myanmar, Georgian (which has spaces, and loses little), Hangul Jamo
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x31BF),  # Hiragana, Katakana, Bopomofo
    (0x3400, 0x9FFF),  # Han
    (0x20000, 0x3FFFF),  # Han
)
"""Scripts whose words are not set apart by spaces, or, as in Korean, take endings."""


@lru_cache(maxsize=2**16)
def fold(character: str) -> str:
    """What one character counts as: none, one or more characters.

    Compatibility forms (full width, circled, mathematical letters) become the plain letter, upper
    case lower case, accents and what takes no space fall away, and all white space is a space.
    """
    if character.isspace():
        return " "
    plain = unicodedata.normalize("NFKD", character).casefold()
    kept = (SAME.get(one, one) for one in unicodedata.normalize("NFKD", plain) if not _unseen(one))
    return "".join(kept)


def is_word(folded: str) -> bool:
    """Whether a folded character is part of a word: a letter, a digit, a vowel sign."""
    return folded.isalnum() or unicodedata.category(folded)[0] == "M"


def joins(folded: str) -> bool:
    """Whether a folded character makes one word with its neighbor, so that no word ends there."""
    code = ord(folded)
    return is_word(folded) and not any(first <= code <= last for first, last in UNSPACED)


def _unseen(one: str) -> bool:
    """Controls, formats (zero width, direction), accents, variation selectors."""
    if one in UNSEEN or "\u0300" <= one <= "\u036f" or "\ufe00" <= one <= "\ufe0f":
        return True
    if "\u20d0" <= one <= "\u20ff" or "\U000e0100" <= one <= "\U000e01ef":
        return True
    return unicodedata.category(one) in ("Cc", "Cf")
