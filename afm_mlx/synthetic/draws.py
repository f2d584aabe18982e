"""Random choices as a function of a key: the same record draws the same, whatever came before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

_BITS = 64


class Draw:
    """Choices of one record. Two of the same key make the same choices, on every machine.

    Python's own `random` promises this between its versions for `random()` alone, so choices are
    made from BLAKE2b of the key and the number of the choice.
    """

    def __init__(self, *key: object) -> None:
        self._key = "\x1f".join(map(str, key)).encode()
        self._choices = 0

    def below(self, end: int) -> int:
        """A whole number from 0 to `end`, which is not included and above 0."""
        self._choices += 1
        text = self._key + b"\x1f%d" % self._choices
        value = int.from_bytes(hashlib.blake2b(text, digest_size=_BITS // 8).digest(), "big")
        return value * end >> _BITS

    def between(self, first: int, last: int, step: int = 1) -> int:
        """A whole number from `first` to `last`, both included, in steps."""
        return first + step * self.below((last - first) // step + 1)

    def chance(self, fraction: float) -> bool:
        """True in this share of all draws, 0 to 1."""
        return self.below(2**32) < fraction * 2**32

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """Different items, `count` of them or all there are, in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """All items, in random order."""
        return self.some(items, len(items))


def share_of(name: str) -> float:
    """A number from 0 to 1 that belongs to a name: the same in every run."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") / 2**32
