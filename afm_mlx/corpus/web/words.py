"""Words of a text, and how much of another text it holds."""

from __future__ import annotations

import re

# Scripts without spaces between words (Thai to Khmer, kana, Han): each character counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_GRAM = 4  # words that a voter must have in a row for them to count as kept; as in the benchmark


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text)


class Words:
    """Words of a text, for asking whether it holds another one."""

    def __init__(self, text: str) -> None:
        words = words_of(text)
        self.count = len(words)
        self.line = f" {' '.join(words)} "
        self.grams = set(grams(words))

    def holds(self, text: str) -> float:
        """Share of a text's 4-grams that occur here; of a shorter text, 1 if it does."""
        words = words_of(text)
        found = grams(words)
        if not found:
            return float(f" {' '.join(words)} " in self.line)
        return sum(gram in self.grams for gram in found) / len(found)

    def covers(self, grams: set[tuple[str, ...]]) -> float:
        """Share of the 4-grams that occur here; 1 if there are none."""
        return len(self.grams & grams) / len(grams) if grams else 1.0


def grams(words: list[str]) -> list[tuple[str, ...]]:
    """All runs of four words; none if there are fewer."""
    return list(zip(*(words[start:] for start in range(_GRAM)), strict=False))
