"""Words and runs of words of many texts at once, as hashed features, in NumPy.

A feature is the hash of a word or of a run of words; its value is how often it occurs in a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Odd constants with well-mixed bits: the golden ratio, and those of SplitMix64's last step.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# Characters of a word that have a weight of their own in its hash; later ones share the last.
_PLACES = 64


_GAP, _LETTER, _ALONE = 0, 1, 2


def _character_kinds() -> NDArray[np.uint8]:
    """For each code point of the basic plane, and one for all others, how it forms words.

    Fixed ranges, so that scores do not depend on the Unicode version of the running Python.
    """
    kinds = np.full(0x10001, _LETTER, np.uint8)
    gaps = [(0, 0x30), (0x7F, 0xAA), (0xAB, 0xB5), (0xB6, 0xBA), (0xBB, 0xC0), (0xD7, 0xD8)]
    gaps += [(0xF7, 0xF8), (0x2000, 0x2C00), (0x3000, 0x3040), (0xD800, 0xF900)]
    for start, stop in gaps:
        kinds[start:stop] = _GAP
    # Punctuation is a word of its own: bars and arrows say much about a text.
    alone = [(0x21, 0x30), (0x3A, 0x41), (0x5B, 0x61), (0x7B, 0x7F), (0xA1, 0xAA), (0xAB, 0xAD)]
    alone += [(0xAE, 0xB5), (0xB6, 0xBA), (0xBB, 0xC0), (0xD7, 0xD8), (0xF7, 0xF8)]
    alone += [(0x2010, 0x2028), (0x2030, 0x205F), (0x20A0, 0x2C00), (0x3001, 0x3040)]
    # Scripts without spaces between words, by character: Thai, Lao, Burmese, Khmer, kana, Han.
    alone += [(0xE00, 0xF00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3040, 0x3100)]
    alone += [(0x3400, 0xA000), (0xF900, 0xFB00), (0xFE10, 0xFE20), (0xFE30, 0xFE70)]
    alone += [(0xFF00, 0xFF10), (0xFF1A, 0xFF21), (0xFF3B, 0xFF41), (0xFF5B, 0xFFF0)]
    alone += [(0x10000, 0x10001)]
    for start, stop in alone:
        kinds[start:stop] = _ALONE
    return kinds


_KINDS = _character_kinds()
_POWERS = np.array([pow(_GOLDEN, place, 2**64) for place in range(_PLACES)], np.uint64)


@dataclass(frozen=True)
class Features:
    """Rows of a sparse matrix: row `i` has the entries `starts[i]:starts[i + 1]`."""

    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: NDArray[np.float32]

    def rows(self, chosen: NDArray[np.int64]) -> Features:
        """The features of some rows, in the order given."""
        sizes = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        entries = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], sizes)
        return Features(starts, self.columns[entries], self.values[entries])

    def dot(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Product with a vector; a row without entries gives 0."""
        sums = np.zeros(len(self.starts) - 1)
        filled = np.flatnonzero(np.diff(self.starts))
        if len(filled):  # adds each row by itself: a score does not depend on its neighbors
            products = weights[self.columns].astype(float) * self.values
            sums[filled] = np.add.reduceat(products, self.starts[filled])
        return sums


def hashed_features(
    texts: Sequence[str], *, hash_bits: int, ngrams: int, max_chars: int
) -> Features:
    """Features of texts: hashed runs of 1 to `ngrams` words, each row of length 1.

    An entry is 1 + log(count) before scaling. Case is ignored. Any text is fine, lone surrogates
    and NUL included.
    """
    lowered = [text[:max_chars].lower() for text in texts]
    # NUL is a gap, so no word reaches from one text into the next.
    joined = "\0".join(lowered).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(joined, np.dtype("<u4"))
    kinds = _KINDS[np.minimum(codes, 0x10000)]
    before = np.concatenate([np.zeros(1, np.uint8), kinds[:-1]])
    starting = (kinds == _ALONE) | ((kinds == _LETTER) & (before != _LETTER))
    inside = np.flatnonzero(kinds)
    starts = np.flatnonzero(starting[inside])
    if not len(starts):
        empty = np.zeros(len(texts) + 1, np.int64)
        return Features(empty, np.zeros(0, np.int32), np.zeros(0, np.float32))
    places = np.arange(len(inside)) - np.repeat(starts, np.diff(starts, append=len(inside)))
    shares = codes[inside].astype(np.uint64) * _POWERS[np.minimum(places, _PLACES - 1)]
    words = _mix(np.add.reduceat(shares, starts))
    text_ends = np.cumsum([len(text) + 1 for text in lowered])
    owners = np.searchsorted(text_ends, inside[starts], side="right")

    shift, size = np.uint64(64 - hash_bits), len(words)
    keys, run = [], words
    for length in range(1, min(ngrams, size) + 1):
        if length > 1:
            run = _mix(run[:-1] * np.uint64(_GOLDEN) + words[length - 1 :])
        whole = owners[: size - length + 1] == owners[length - 1 :]
        columns = (run[whole] >> shift).astype(np.int64)
        keys.append(owners[: size - length + 1][whole] << hash_bits | columns)
    return _sparse(np.sort(np.concatenate(keys)), len(texts), hash_bits)


def _sparse(keys: NDArray[np.int64], num_rows: int, hash_bits: int) -> Features:
    """Features of sorted keys, `row << hash_bits | column`, one for each occurrence."""
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    values = 1 + np.log(np.diff(first, append=len(keys)))
    rows = keys[first] >> hash_bits
    columns = (keys[first] & (2**hash_bits - 1)).astype(np.int32)
    norms = np.sqrt(np.bincount(rows, values**2, minlength=num_rows))
    starts = np.searchsorted(rows, np.arange(num_rows + 1))
    return Features(starts, columns, (values / norms[rows]).astype(np.float32))


def _mix(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's last step: every bit of the input changes half of the output."""
    hashes = (hashes ^ hashes >> np.uint64(30)) * np.uint64(_MIX_1)
    hashes = (hashes ^ hashes >> np.uint64(27)) * np.uint64(_MIX_2)
    return hashes ^ hashes >> np.uint64(31)
