"""Section of near-duplicate removal.

R24 (arXiv:2407.21075) says that AFM's corpus went through "locality-sensitive n-gram hashing", and
gives no number. All numbers here are ours; `usual` are those that many published corpora share.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from afm_mlx.settings.sections import Count, Fraction, Section


class Dedup(Section):
    """Exact, then fuzzy deduplication over the whole corpus: MinHash signatures, LSH bands."""

    shingle_words: Count = 5
    """Words in a row that make a shingle; characters, in scripts without spaces. Usual."""
    bands: Count = 16
    """Parts of a signature; documents that agree in all of one part are candidates. Usual."""
    rows: Count = 8
    """Hashes in a band. With 16 bands, half of the pairs of Jaccard 0.67 are found. Usual."""
    threshold: Fraction = 0.8
    """Least Jaccard similarity of near-duplicates, estimated from all hashes. Usual."""
    neighbors: Count = 8
    """Documents that each one of a bucket is compared with, at most: those before it. Ours."""
    longest_word: Count = 256
    """In longer runs without a space, such as encoded data, characters count as words. Ours."""
    memory_bytes: Annotated[int, Field(ge=2**24)] = 1_000_000_000
    """Most that the global step holds in memory, in bytes; more goes to disk in parts. Ours."""

    @property
    def hashes(self) -> int:
        """Hashes in a signature."""
        return self.bands * self.rows
