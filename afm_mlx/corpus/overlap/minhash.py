"""Fuzzy deduplication: MinHash signatures, and documents that agree in one of their bands.

Two texts share the share of their shingles that is their Jaccard similarity J. Under a random order
of all shingles, both have the same smallest one with probability J, so the share of equal numbers
in two signatures estimates J, with standard deviation sqrt(J (1 - J) / hashes).

The order number i is a_i x + b_i modulo 2^32 with a_i odd, over shingle hashes that are random
already. Everything is NumPy on integers: signatures are the same bits on every machine. (rensa, in
Rust, makes others, and took longer once its shingles are counted: `benchmarks/dedup.py`.)

Sources: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", section 3.4 for bands and rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.overlap.exact import mark_exact, text_hash
from afm_mlx.corpus.overlap.groups import Groups
from afm_mlx.corpus.overlap.lsh import link_near, write_drops
from afm_mlx.corpus.overlap.prepared import Corpus, Layout, PreparedWriter
from afm_mlx.corpus.overlap.shingles import (
    PIECE_CHARACTERS,
    Hashes,
    mix,
    normalized,
    shingle_hashes,
    shingle_pieces,
)
from afm_mlx.corpus.record_shards import read_shard
from afm_mlx.settings.overlap import Dedup

Signatures = NDArray[np.uint32]

# Documents are signed in batches of about this many characters, whose hashes fit a processor's
# cache. Ours, measured.
_BATCH_CHARACTERS = 2**18

_WORKING = "working"


def signatures(
    texts: Sequence[str], *, hashes: int, words: int, longest_word: int
) -> tuple[Signatures, NDArray[np.int64]]:
    """MinHash signatures [N, hashes] of normalized texts, and how many shingles each has.

    A text without shingles has a signature of which all numbers are the largest; it equals nothing.
    """
    found = np.full((len(texts), hashes), np.iinfo(np.uint32).max, np.uint32)
    counts = np.zeros(len(texts), np.int64)
    factors, terms = _orders(hashes)
    for chosen in _batches(texts):
        if len(texts[chosen[0]]) > PIECE_CHARACTERS:
            (number,) = chosen
            for part in shingle_pieces(texts[number], words=words, longest_word=longest_word):
                if len(part):
                    smallest = _smallest(part, np.zeros(1, np.int64), factors, terms)
                    np.minimum(found[number], smallest[0], out=found[number])
                    counts[number] += len(part)
            continue
        part, per_text = shingle_hashes(
            [texts[number] for number in chosen], words=words, longest_word=longest_word
        )
        some = np.flatnonzero(per_text)
        if len(some):
            starts = (np.cumsum(per_text) - per_text)[some]
            numbers = np.array(chosen)[some]
            found[numbers] = _smallest(part, starts, factors, terms)
            counts[numbers] = per_text[some]
    return found, counts


def band_keys(found: Signatures, bands: int) -> Hashes:
    """Hash of each band of signatures: [N, hashes] to [bands, N]."""
    rows = found.shape[1] // bands
    keys = np.zeros((bands, len(found)), np.uint64)
    for band in range(bands):
        for row in range(rows):
            keys[band] = mix(keys[band] * np.uint64(31) + found[:, band * rows + row])
    return keys


def collision_curve(bands: int, rows: int) -> list[tuple[float, float]]:
    """Jaccard similarity from 0 to 1, and the probability that a pair becomes a candidate.

    That is 1 - (1 - J^rows)^bands. Source: as the module's, section 3.4.2.
    """
    similarities = [step / 20 for step in range(21)]
    return [(j, 1 - (1 - j**rows) ** bands) for j in similarities]


class Deduplicator:
    """Global step: finds exact and near-duplicates in all shards of a corpus.

    Of documents that are linked with each other, the longest is kept; of equally long ones the
    first. Length is in characters of the normalized text. A link is a pair of which one band is
    equal and the estimated similarity reaches the threshold. Links chain: a dropped document may be
    less similar to the kept one than the threshold, and its evidence says how similar it is.
    """

    def __init__(self, settings: Dedup) -> None:
        self.settings = settings
        self._layout = Layout(
            bands=settings.bands,
            rows=settings.rows,
            shingle_words=settings.shingle_words,
            longest_word=settings.longest_word,
        )

    def prepare(self, shard: Path, out: Path) -> None:
        """Sign the records of one shard; the same records give the same bytes.

        Takes 640 bytes of disk per document at 16 bands of 8 rows, and 190 bytes of memory.

        Raises:
            DataError: the shard is not one of records.
        """
        settings = self.settings
        with PreparedWriter(out, self._layout) as writer:
            for ids, texts in _record_batches(shard):
                texts = [normalized(text) for text in texts]
                found, counts = signatures(
                    texts,
                    hashes=settings.hashes,
                    words=settings.shingle_words,
                    longest_word=settings.longest_word,
                )
                writer.add(
                    ids,
                    exact=np.array([text_hash(text) for text in texts], np.uint64),
                    lengths=np.array([len(text) for text in texts], np.int64),
                    comparable=counts > 0,
                    signatures=found,
                    keys=band_keys(found, settings.bands),
                )

    def decide(self, prepared: Sequence[Path], out: Path) -> dict[str, Any]:
        """Write `out/NNNNN.drops.jsonl` for each prepared file NNNNN.*, and return counts.

        Anonymous memory stays under `memory_bytes` however large the corpus; on disk it needs about
        100 bytes per document beside the prepared files, below `out`, and removes them. The result
        depends on the documents and their order only, not on how they are split into shards.

        Raises:
            DataError: a prepared file is damaged, or was prepared with other settings.
        """
        settings = self.settings
        corpus = Corpus.open(prepared, self._layout)
        working = out / _WORKING
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        try:
            groups = Groups.create(working, corpus)
            exact = mark_exact(corpus, groups, working, memory_bytes=settings.memory_bytes)
            pairs, similar = link_near(
                corpus,
                groups,
                working,
                threshold=settings.threshold,
                neighbors=settings.neighbors,
                memory_bytes=settings.memory_bytes,
            )
            near = write_drops(
                corpus,
                groups,
                out,
                threshold=settings.threshold,
                memory_bytes=settings.memory_bytes,
            )
            groups.close()
        finally:
            shutil.rmtree(working, ignore_errors=True)
        return {
            "documents": len(corpus),
            "exact_duplicates": exact,
            "near_duplicates": near,
            "exact_duplicate_rate": exact / max(1, len(corpus)),
            "near_duplicate_rate": near / max(1, len(corpus)),
            "candidate_pairs": pairs,
            "similar_pairs": similar,
        }


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Numbers of texts that are signed together: in order, long ones alone."""
    batch: list[int] = []
    size = 0
    for number, text in enumerate(texts):
        if batch and size + len(text) > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += len(text)
    if batch:
        yield batch


def _record_batches(shard: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and texts of a shard's records, in order."""
    ids: list[str] = []
    texts: list[str] = []
    size = 0
    for record in read_shard(shard):
        ids.append(record.id)
        texts.append(record.text)
        size += len(record.text) + 1
        if size > _BATCH_CHARACTERS:
            yield ids, texts
            ids, texts, size = [], [], 0
    if ids:
        yield ids, texts


def _orders(hashes: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Factors (odd) and terms of the random orders."""
    numbers = mix(mix(np.arange(1, hashes + 1, dtype=np.uint64)))
    return (numbers >> np.uint64(32)).astype(np.uint32) | np.uint32(1), numbers.astype(np.uint32)


def _smallest(
    shingles: Hashes,
    starts: NDArray[np.int64],
    factors: NDArray[np.uint32],
    terms: NDArray[np.uint32],
) -> Signatures:
    """Smallest number under each order, per text: [N, hashes]. No text may be empty."""
    codes = (shingles >> np.uint64(32)).astype(np.uint32)
    numbers = np.empty_like(codes)
    found = np.empty((len(factors), len(starts)), np.uint32)
    for order, (factor, term) in enumerate(zip(factors, terms, strict=True)):
        np.multiply(codes, factor, out=numbers)
        np.add(numbers, term, out=numbers)
        np.minimum.reduceat(numbers, starts, out=found[order])
    return found.T
