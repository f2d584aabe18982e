"""Decontamination: documents that hold a part of a benchmark are dropped.

Source: arXiv:2407.21075 (R24): any 4- to 13-gram of a benchmark drops the whole document, unless
1000 documents or more hold that n-gram. What we choose beyond that is in the settings.

Two passes. `prepare` finds, in one shard, which documents hold which n-grams; `decide` counts the
documents of each n-gram over all shards, ignores the common ones, and drops what is left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.overlap.benchmarks_text import Item, benchmark_names, read_benchmark
from afm_mlx.corpus.overlap.ngrams import (
    BATCH_CHARACTERS,
    Hashes,
    Integers,
    Words,
    join_words,
    ngram_hashes,
    punctuation_forms,
    split_words,
)
from afm_mlx.corpus.record import LONGEST_EVIDENCE
from afm_mlx.corpus.record_shards import read_shard
from afm_mlx.errors import DataError
from afm_mlx.settings.decontamination import Decontaminate, Lengths

RULE = "contaminated"

# A table of flags has at least this many places for each n-gram, so that most words of a document
# are done after one look. Ours.
_PLACES = 8
_MOST_PLACES_BITS = 25
# Items of a benchmark that are cut into words together, for a bound on memory. Ours.
_ITEMS_AT_ONCE = 500


@dataclass(frozen=True)
class Ngram:
    """Where one n-gram of a benchmark is from."""

    benchmark: str
    """Name of the benchmark."""
    item: int
    """Number of its first item that holds it, from 1."""
    text: str
    """Its words."""


@dataclass(frozen=True)
class _Table:
    """All n-grams of one length."""

    n: int
    hashes: Hashes  # sorted
    entries: NDArray[np.int32]  # number of each hash's n-gram
    flags: NDArray[np.bool_]  # by a hash's first bits: some n-gram has them
    shift: np.uint64

    def find(self, words: Words, left: Integers) -> Iterator[tuple[int, int]]:
        """Pairs of a word's number and an n-gram that has the hash of the words from there on."""
        found = ngram_hashes(words.hashes, self.n)
        places = np.flatnonzero(self.flags[found >> self.shift])
        places = places[left[places] >= self.n]
        first = np.searchsorted(self.hashes, found[places], side="left")
        last = np.searchsorted(self.hashes, found[places], side="right")
        some = first < last
        for place, start, stop in zip(
            places[some].tolist(), first[some].tolist(), last[some].tolist(), strict=True
        ):
            for entry in self.entries[start:stop].tolist():
                yield place, entry


class NgramIndex:
    """The n-grams of all benchmarks, numbered from 0.

    Memory is about 100 bytes for each n-gram, and 270 while it is built: GSM8K test, IFEval and
    MMLU test have a million of one length. Each worker has an index of its own.
    """

    def __init__(self, settings: Decontaminate) -> None:
        """Read the benchmarks. Raises DataError for a broken one, or where there is none."""
        self.settings = settings
        self.names = benchmark_names(settings)
        self.items: list[int] = []
        """Items of each benchmark."""
        self.too_short: list[int] = []
        """Those of them with too few words to be found."""
        self.lengths: list[list[int]] = []
        """Lengths n, in words, of each benchmark."""
        self.benchmark: NDArray[np.int32]
        """[N] number of each n-gram's benchmark."""
        self.item: NDArray[np.int32]
        """[N] number of its first item, from 0."""
        self._words: list[Words] = []  # of each benchmark
        parts = [self._read(number, name) for number, name in enumerate(self.names)]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        hashes, self._length, self._place, self.item, self.benchmark = columns
        self._tables = [
            _table(n, hashes, np.flatnonzero(self._length == n))
            for n in np.unique(self._length).tolist()
        ]
        digest = hashlib.sha256(json.dumps(self.names).encode())
        for column in (hashes, self._length, self.benchmark):
            digest.update(column.tobytes())
        self.fingerprint = digest.digest()
        """Differs where benchmarks, or the settings that choose n-grams, differ."""

    def __len__(self) -> int:
        return len(self.item)

    def __getitem__(self, entry: int) -> Ngram:
        benchmark = int(self.benchmark[entry])
        return Ngram(self.names[benchmark], int(self.item[entry]) + 1, self._text(entry))

    def search(self, texts: Sequence[str]) -> tuple[Integers, Integers, int]:
        """N-grams that texts hold.

        Returns:
            Numbers of texts and numbers of n-grams, [H] each, pair by pair, in order and without
            repetition; and how many hashes were equal though the words were not.
        """
        words = split_words(texts)
        left = words.left()
        text_of = np.repeat(np.arange(len(texts)), np.diff(words.firsts))
        found: set[tuple[int, int]] = set()
        collisions = 0
        for table in self._tables:
            for place, entry in table.find(words, left):
                hit = (int(text_of[place]), entry)
                if hit in found:
                    continue
                if words.text(place, table.n) == self._text(entry):
                    found.add(hit)
                else:
                    collisions += 1
        pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1], collisions

    def _text(self, entry: int) -> str:
        words = self._words[int(self.benchmark[entry])]
        return words.text(int(self._place[entry]), int(self._length[entry]))

    def _read(self, number: int, name: str) -> tuple[NDArray[Any], ...]:
        """Hash, length, place, item and benchmark of each n-gram of one benchmark."""
        section = self.settings.benchmarks[name]
        items = read_benchmark(Path(section.path).expanduser(), section.fields)
        starts = range(0, len(items), _ITEMS_AT_ONCE)
        sizes = [
            self._sizes(split_words([item.text for item in items[at : at + _ITEMS_AT_ONCE]]))
            for at in starts
        ]
        lengths = self._choose(np.concatenate([size // factor for size, factor in sizes]))
        reached = np.zeros(len(items), bool)
        kept: list[Words] = []
        columns = []
        base = 0
        for at in starts:
            texts, owners, partial = _forms(items[at : at + _ITEMS_AT_ONCE])
            words = split_words(texts)
            hashes, length, place, found = self._ngrams(words, partial, lengths)
            form = np.searchsorted(words.firsts, place, side="right") - 1
            item = owners[form] + at
            reached[owners[found] + at] = True
            words, place = words.only(place, length)
            kept.append(words)
            columns.append((hashes, length, place + base, item))
            base += len(words.hashes)
        hashes, length, place, item = (
            np.concatenate(column) for column in zip(*columns, strict=True)
        )
        _, firsts = np.unique(hashes, return_index=True)
        firsts.sort()
        words, places = join_words(kept).only(place[firsts], length[firsts])
        self._words.append(words)
        self.items.append(len(items))
        self.lengths.append(lengths)
        self.too_short.append(int((~reached).sum()))
        return (
            hashes[firsts],
            length[firsts].astype(np.int32),
            places.astype(np.int32),
            item[firsts].astype(np.int32),
            np.full(len(firsts), number, np.int32),
        )

    def _sizes(self, words: Words) -> tuple[Integers, Integers]:
        """Words of each text, and how many of them stand for one: 1, or `spaceless_factor`."""
        sizes = np.diff(words.firsts)
        sums = np.concatenate([[0], np.cumsum(words.spaceless)])
        spaceless = 2 * (sums[words.firsts[1:]] - sums[words.firsts[:-1]]) > sizes
        return sizes, np.where(spaceless, self.settings.spaceless_factor, 1)

    def _ngrams(
        self, words: Words, partial: NDArray[np.bool_], lengths: list[int]
    ) -> tuple[Hashes, Integers, Integers, NDArray[np.bool_]]:
        """Hash, length and place of each n-gram that is looked for; equal ones once.

        The last array says of each text whether it has such n-grams.
        """
        sizes, factors = self._sizes(words)
        settings = self.settings
        shortest = np.where(partial, settings.shortest_question, settings.shortest_item) * factors
        short = (sizes < lengths[0] * factors) & (sizes >= shortest)
        form = np.repeat(np.arange(len(sizes)), sizes)
        left = words.left()
        wanted = [  # length, and the words where such n-grams begin
            (n * factor, (left >= n * factor) & (factors == factor)[form])
            for factor in np.unique(factors).tolist()
            for n in lengths
        ]
        begins = np.zeros(len(left), bool)
        begins[words.firsts[:-1][short]] = True
        wanted += [
            (size, begins & (sizes == size)[form]) for size in np.unique(sizes[short]).tolist()
        ]
        columns = [_first_of_each(words.hashes, n, np.flatnonzero(where)) for n, where in wanted]
        hashes, length, place = (np.concatenate(column) for column in zip(*columns, strict=True))
        return hashes, length, place, short | (sizes >= lengths[0] * factors)

    def _choose(self, sizes: Integers) -> list[int]:
        """Lengths n for a benchmark whose items have so many words."""
        settings = self.settings
        if settings.lengths is Lengths.ALL:
            return list(range(settings.n_min, settings.n_max + 1))
        percentile = int(np.percentile(sizes, settings.length_percentile))
        return [min(max(percentile, settings.n_min), settings.n_max)]


class Decontamination:
    """The step over a whole corpus: `prepare` for each shard, then `decide`."""

    def __init__(self, settings: Decontaminate) -> None:
        self.settings = settings

    def __reduce__(self) -> tuple[type[Decontamination], tuple[Decontaminate]]:
        return Decontamination, (self.settings,)  # each worker reads the benchmarks itself

    @cached_property
    def index(self) -> NgramIndex:
        """The benchmarks' n-grams; read on first use, and then kept."""
        return NgramIndex(self.settings)

    def prepare(self, shard: Path, out: Path) -> None:
        """Find the n-grams in the documents of a record shard, and write which are where.

        Memory holds the index, 64 thousand characters (or one longer document), and the hits.

        Raises:
            DataError: the shard or a benchmark is broken.
        """
        lines, entries = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        documents = collisions = 0
        for texts in _batches(record.text for record in read_shard(shard)):
            text, entry, unequal = self.index.search(texts)
            lines.append(text + documents)
            entries.append(entry)
            documents += len(texts)
            collisions += unequal
        # Opened as "wb", np.save would lose the system's reason where the disk is full.
        with out.open("w+b") as file:
            np.save(file, np.frombuffer(self.index.fingerprint, np.uint8))
            np.save(file, np.array([documents, collisions], np.int64))
            np.save(file, np.concatenate(lines).astype(np.int32))
            np.save(file, np.concatenate(entries).astype(np.int32))

    def decide(self, prepared: Sequence[Path], out: Path) -> dict[str, Any]:
        """Count the documents of each n-gram, and drop those that hold an uncommon one.

        Args:
            prepared: what `prepare` wrote, one file for each shard; the name begins with the
                shard's number, as in `00012.hits`.
            out: folder for `00012.drops.jsonl`: number of the record in its shard from 0 ("line"),
                "rule", and "evidence", the document's rarest n-gram.

        Returns:
            documents, dropped, dropped_fraction (0 to 1), common_from (documents), common_ngrams,
            hash_collisions; and for each of `benchmarks`: items, too_short (items that cannot be
            found), ngram_words (the n), ngrams, documents (that hold one), items_found (each n-gram
            counts for the first item that holds it) and found_fraction.

        Raises:
            DataError: a prepared file is broken, or was made with other benchmarks or settings.
        """
        index = self.index
        counts = np.zeros(len(index), np.int64)  # documents of each n-gram
        documents = collisions = 0
        for path in prepared:
            hits = self._read(path)
            counts += np.bincount(hits.entries, minlength=len(index))
            documents += hits.documents
            collisions += hits.collisions
        common_from = self.settings.common_from(documents)
        common = counts >= common_from

        out.mkdir(parents=True, exist_ok=True)
        dropped = 0
        hit_documents = np.zeros(len(index.names), np.int64)
        for path in prepared:
            hits = self._read(path)
            kept = ~common[hits.entries]
            lines, entries = hits.lines[kept].astype(np.int64), hits.entries[kept]
            both = np.unique(lines * len(index.names) + index.benchmark[entries])
            hit_documents += np.bincount(both % len(index.names), minlength=len(index.names))
            # Of each document its rarest n-gram; among equals the first.
            order = np.lexsort((entries, counts[entries], lines))
            _, firsts = np.unique(lines[order], return_index=True)
            dropped += len(firsts)
            with (out / f"{path.name.partition('.')[0]}.drops.jsonl").open("wb") as file:
                for line, entry in zip(
                    lines[order][firsts].tolist(), entries[order][firsts].tolist(), strict=True
                ):
                    evidence = _evidence(index[entry], int(counts[entry]), common_from)
                    drop = {"line": line, "rule": RULE, "evidence": evidence}
                    file.write(json.dumps(drop, ensure_ascii=False).encode() + b"\n")
        return {
            "documents": documents,
            "dropped": dropped,
            "dropped_fraction": dropped / max(documents, 1),
            "common_from": common_from,
            "common_ngrams": int(common.sum()),
            "hash_collisions": collisions,
            "benchmarks": self._benchmarks(hit_documents, (counts > 0) & ~common),
        }

    def _benchmarks(
        self, hit_documents: Integers, found: NDArray[np.bool_]
    ) -> dict[str, dict[str, Any]]:
        """What `decide` says of each benchmark; `found` tells for each n-gram, [N]."""
        index = self.index
        answer = {}
        for number, name in enumerate(index.names):
            mine = index.benchmark == number
            items_found = len(np.unique(index.item[mine & found]))
            answer[name] = {
                "items": index.items[number],
                "too_short": index.too_short[number],
                "ngram_words": index.lengths[number],
                "ngrams": int(mine.sum()),
                "documents": int(hit_documents[number]),
                "items_found": items_found,
                "found_fraction": items_found / index.items[number],
            }
        return answer

    def _read(self, path: Path) -> _Hits:
        with path.open("rb") as file:
            fingerprint, numbers, lines, entries = (_load(path, file) for _ in range(4))
        if fingerprint.tobytes() != self.index.fingerprint:
            raise DataError(
                f"{path} was prepared with other benchmarks or other settings",
                hint="delete it, and prepare the corpus again",
            )
        return _Hits(int(numbers[0]), int(numbers[1]), lines, entries)


@dataclass(frozen=True)
class _Hits:
    """What one shard holds; [H] numbers of records and of n-grams, pair by pair."""

    documents: int
    collisions: int
    lines: NDArray[np.int32]
    entries: NDArray[np.int32]


def _load(path: Path, file: BinaryIO) -> NDArray[Any]:
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{path} is broken: {error}", hint="delete it, and prepare its shard again"
        ) from None


def _forms(items: Sequence[Item]) -> tuple[list[str], Integers, NDArray[np.bool_]]:
    """Each item's texts, itself first; whose each is; and whether it is the question alone."""
    texts: list[str] = []
    owners: list[int] = []
    partial: list[bool] = []
    for number, item in enumerate(items):
        for form in (item.text, *item.others, item.question):
            spellings = punctuation_forms(form) if form else []
            texts += spellings
            owners += [number] * len(spellings)
            partial += [form is item.question] * len(spellings)
    return texts, np.array(owners), np.array(partial)


def _first_of_each(words: Hashes, n: int, places: Integers) -> tuple[Hashes, Integers, Integers]:
    """Hash, length and first place of each n-gram that begins at one of `places`, in order."""
    hashes = ngram_hashes(words, n)[places]
    _, firsts = np.unique(hashes, return_index=True)
    firsts.sort()
    return hashes[firsts], np.full(len(firsts), n), places[firsts]


def _table(n: int, hashes: Hashes, entries: Integers) -> _Table:
    entries = entries[np.argsort(hashes[entries], kind="stable")]
    bits = min(max(16, (_PLACES * len(entries)).bit_length()), _MOST_PLACES_BITS)
    shift = np.uint64(64 - bits)
    flags = np.zeros(2**bits, bool)
    flags[hashes[entries] >> shift] = True
    return _Table(n, hashes[entries], entries.astype(np.int32), flags, shift)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in groups of about `BATCH_CHARACTERS`; a longer one ends its group."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _evidence(ngram: Ngram, count: int, common_from: int) -> str:
    """What decided; only the n-gram is cut where it is too long."""
    head = f"{ngram.benchmark}, item {ngram.item:,}: '"
    tail = f"' (documents with it: {count:,}; common from {common_from:,})"
    room = max(0, LONGEST_EVIDENCE - len(head) - len(tail))
    return (head + ngram.text[:room] + tail)[:LONGEST_EVIDENCE]
