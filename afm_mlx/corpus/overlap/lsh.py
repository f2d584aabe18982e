"""Near-duplicates from signatures: buckets of equal bands, verified pairs, and what they drop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.overlap.groups import Groups
from afm_mlx.corpus.overlap.prepared import Corpus, Numbers
from afm_mlx.corpus.overlap.spill import Rows, Spill

_BLOCK = 2**16  # documents
_MOST_PAIRS = 2**15  # verified at once, whatever the budget; more is not faster. Ours.

# Pairs expected of all bands together, per document. Where a corpus repeats itself more, parts are
# read in slices, and a pair may be verified twice. Ours.
_PAIRS_PER_DOCUMENT = 4


def link_near(
    corpus: Corpus,
    groups: Groups,
    working: Path,
    *,
    threshold: float,
    neighbors: int,
    memory_bytes: int,
) -> tuple[int, int]:
    """Link all pairs that share a band and are similar; returns the numbers of both.

    Exact duplicates and documents without shingles take no part.

    Args:
        corpus: all prepared files.
        groups: where links are made.
        working: folder for files that come and go.
        threshold: least estimated Jaccard similarity, 0 to 1.
        neighbors: how many documents before it in a bucket each one is compared with.
        memory_bytes: most memory, in bytes.
    """
    pairs = Spill(
        working / "pairs",
        ("first", "second"),
        rows=len(corpus) * _PAIRS_PER_DOCUMENT,
        memory_bytes=memory_bytes // 2,
    )
    for band in range(corpus.layout.bands):
        # Half of the budget is for pairs that wait.
        for first, second in _band_pairs(
            corpus, groups, working, band, neighbors, memory_bytes // 2
        ):
            pairs.add(first * pairs.parts // len(corpus), first=first, second=second)
    pairs.flush()

    at_once = _pairs_at_once(corpus, memory_bytes // 2)
    candidates = similar = 0
    for number in range(pairs.parts):
        for rows in pairs.slices(number):
            first, second = _unique(rows)
            candidates += len(first)
            for start in range(0, len(first), at_once):
                chosen = slice(start, start + at_once)
                alike = similarities(corpus, first[chosen], second[chosen]) >= threshold
                groups.link(first[chosen][alike], second[chosen][alike])
                similar += int(alike.sum())
    pairs.delete()
    return candidates, similar


def similarities(corpus: Corpus, first: Numbers, second: Numbers) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of pairs of documents: the share of equal hashes."""
    numbers = np.unique(np.concatenate([first, second]))
    found = corpus.signatures(numbers)
    one, other = np.searchsorted(numbers, first), np.searchsorted(numbers, second)
    return (found[one] == found[other]).mean(axis=1)


def write_drops(
    corpus: Corpus, groups: Groups, out: Path, *, threshold: float, memory_bytes: int
) -> int:
    """Write a file of dropped lines for each shard; returns the number of near-duplicates."""
    near = 0
    at_once = _pairs_at_once(corpus, memory_bytes)
    for shard, first in zip(corpus.shards, corpus.starts[:-1].tolist(), strict=True):
        with (out / f"{shard.name}.drops.jsonl").open("wb") as file:
            for start in range(0, shard.count, at_once):
                stop = min(start + at_once, shard.count)
                for line, rule, evidence in _drops(
                    corpus, groups, first + start, first + stop, threshold
                ):
                    near += rule == "dedup.near"
                    fields = {"line": line - first, "rule": rule, "evidence": evidence}
                    text = json.dumps(fields, ensure_ascii=False) + "\n"
                    file.write(text.encode("utf-8", "replace"))
    return near


def _drops(
    corpus: Corpus, groups: Groups, start: int, stop: int, threshold: float
) -> Iterator[tuple[int, str, str]]:
    """Number, rule and evidence of the dropped documents from `start` to `stop`."""
    numbers = np.arange(start, stop)
    numbers = numbers[np.asarray(groups.parents[start:stop]) != numbers]
    if not len(numbers):
        return
    is_exact = np.asarray(groups.is_exact[numbers], np.bool_)
    kept = np.asarray(groups.parents[numbers])
    kept[~is_exact] = groups.roots(numbers[~is_exact])
    alike = np.ones(len(numbers))
    if not is_exact.all():
        alike[~is_exact] = similarities(corpus, numbers[~is_exact], kept[~is_exact])
    unique = np.unique(kept)
    ids = corpus.ids(unique)
    where = np.searchsorted(unique, kept).tolist()
    for number, exact, similarity, index in zip(
        numbers.tolist(), is_exact.tolist(), alike.tolist(), where, strict=True
    ):
        if exact:
            yield number, "dedup.exact", f"same normalized text as {ids[index]}"[:200]
        else:
            found = f"similarity {similarity:.2f} (links: {threshold:g}) to {ids[index]}"
            yield number, "dedup.near", found[:200]


def _pairs_at_once(corpus: Corpus, memory_bytes: int) -> int:
    """Pairs whose signatures are compared at once: as read, gathered and compared."""
    return max(1, min(_MOST_PAIRS, memory_bytes // (24 * corpus.layout.hashes)))


def _band_pairs(
    corpus: Corpus, groups: Groups, working: Path, band: int, neighbors: int, memory_bytes: int
) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of documents that agree in a band, the smaller number first."""
    spill = Spill(
        working / f"band-{band}", ("key", "number"), rows=len(corpus), memory_bytes=memory_bytes
    )
    for shard, start, stop, first in corpus.blocks(_BLOCK):
        numbers = np.arange(first, first + stop - start)
        keys = shard.column("keys", start, stop, band=band)
        takes_part = shard.column("comparable", start, stop) == 1
        chosen = takes_part & (np.asarray(groups.is_exact[first : numbers[-1] + 1]) == 0)
        keys, numbers = keys[chosen], numbers[chosen]
        spill.add(keys % np.uint64(spill.parts), key=keys, number=numbers)
    spill.flush()
    for part in range(spill.parts):
        for rows, _ in spill.buckets(part, ("key",)):
            numbers = rows["number"].astype(np.int64)
            for distance in range(1, min(neighbors, len(rows) - 1) + 1):
                same = rows["key"][distance:] == rows["key"][:-distance]
                if not same.any():
                    break
                yield numbers[:-distance][same], numbers[distance:][same]
    spill.delete()


def _unique(rows: Rows) -> tuple[Numbers, Numbers]:
    """Pairs in order, each once."""
    rows = rows[np.lexsort((rows["second"], rows["first"]))]
    first, second = rows["first"].astype(np.int64), rows["second"].astype(np.int64)
    is_new = np.ones(len(rows), np.bool_)
    is_new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[is_new], second[is_new]
