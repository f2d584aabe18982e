"""How a model is cut: layers among packages, and the embedding into pieces."""

from __future__ import annotations

from dataclasses import dataclass

HEAD_ROWS = 16_384
"""Most rows of the embedding in one piece: wider outputs are reported to leave the Neural Engine.
Source: reports of others, not seen by us."""


@dataclass(frozen=True)
class Part:
    """Blocks that are in one package; the first has the embedding, too, and what scores with it."""

    number: int
    """From 0."""
    count: int
    """Parts of the model."""
    layers: range

    @property
    def is_first(self) -> bool:
        """Whether it takes ids."""
        return self.number == 0

    @property
    def is_last(self) -> bool:
        """Whether it gives the state of the last token that counts, or its logits."""
        return self.number == self.count - 1


def pieces(rows: int) -> list[tuple[int, int]]:
    """First row and end of each piece of an embedding: few pieces, nearly alike in size."""
    count = -(-rows // HEAD_ROWS)
    ends = [rows * (number + 1) // count for number in range(count)]
    return list(zip([0, *ends[:-1]], ends, strict=True))
