"""Deduplication: recall beside the theory of its LSH curve, speed and memory, other libraries.

Recall: real texts that come with Python are edited, 0 to 40 % of their words, and each pair of a
text and its edited copy is a draw with the probability that the curve gives for the pair's exact
Jaccard similarity. Then such copies are planted in a corpus, and the whole step runs on it. Speed:
short documents of real words go through both halves of the step, each in processes of their own,
which report their peak memory.

    python benchmarks/dedup.py                             # a million documents: about a minute
    python benchmarks/dedup.py --documents 0               # recall and other libraries only
    python benchmarks/dedup.py --documents 200000 --memory 200000000 --workers 4
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from declared import Declaration

from afm_mlx.corpus.documents import read_documents
from afm_mlx.corpus.overlap.minhash import (
    Deduplicator,
    band_keys,
    collision_curve,
    signatures,
)
from afm_mlx.corpus.overlap.shingles import normalized, shingle_hashes
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import shard_name, write_shard
from afm_mlx.settings.overlap import Dedup
from afm_mlx.settings.sections import Source, SourceKind

BENCH = Declaration(
    seconds=100,
    figures={
        "duplicates, found as the LSH curve says: worst bin's distance": "at most 4 sd",
        "duplicates, found of planted copies: worst share's distance": "at most 4 sd",
        "duplicates of a million short documents, peak memory": "at most 2 GB",
        "duplicates of a million short documents": "documents/s",
        "signing, documents/s beside rensa": "",
        "signing, documents/s beside datasketch": "",
    },
    peers=("rensa", "datasketch"),
)

EDITS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4)  # of the words
TEXT_WORDS = 300
DRAWS = 200  # of a pair's signatures, for its chance to be found
SHARD_DOCUMENTS = 50_000


def real_texts() -> list[str]:
    """Texts of 300 words from Python's documentation and library."""
    words: list[str] = []
    for path, kind in (("python:docs", SourceKind.TEXT), ("python:library", SourceKind.CODE)):
        for document in read_documents(path, Source(kind=kind, path=path), Counter()):
            words += document.text.split()
            if len(words) > 1_500_000:
                break
    return [
        " ".join(words[start : start + TEXT_WORDS])
        for start in range(0, len(words) - TEXT_WORDS, TEXT_WORDS)
    ]


def edited(text: str, share: float, vocabulary: list[str], draw: random.Random) -> str:
    """The text with a share of its words replaced, removed, or followed by another one."""
    words: list[str] = []
    for word in text.split():
        kind = draw.randrange(3) if draw.random() < share else None
        if kind is None or kind == 2:
            words.append(word)
        if kind is not None and kind != 1:
            words.append(draw.choice(vocabulary))
    return " ".join(words)


def recall(settings: Dedup, texts: list[str]) -> float:
    """Print measured recall beside the curve, by bins of exact Jaccard similarity.

    Returns:
        The largest distance of a bin from the curve, in standard deviations.
    """
    draw = random.Random(0)
    vocabulary = sorted({word for text in texts for word in text.split()})
    pairs = [
        (normalized(text), normalized(edited(text, share, vocabulary, draw)))
        for share in EDITS
        for text in draw.sample(texts, min(1_000, len(texts)))
    ]

    def keys(side: int) -> Any:
        found, _ = signatures(
            [pair[side] for pair in pairs],
            hashes=settings.hashes,
            words=settings.shingle_words,
            longest_word=settings.longest_word,
        )
        return found, band_keys(found, settings.bands)

    (first, first_keys), (second, second_keys) = keys(0), keys(1)
    is_candidate = (first_keys == second_keys).any(axis=0)
    estimates = (first == second).mean(axis=1)
    exact = np.array([jaccard(*pair, settings) for pair in pairs])
    theory = 1 - (1 - exact**settings.rows) ** settings.bands

    print(f"{len(pairs):,} pairs, {settings.bands} bands of {settings.rows} rows")
    print("Jaccard        pairs  candidates  theory  2 sd   error of the estimate, rms (theory)")
    worst = 0.0
    edges = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.001]
    for low, high in pairwise(edges):
        chosen = (exact >= low) & (exact < high)
        if not chosen.any():
            continue
        count, p = int(chosen.sum()), theory[chosen]
        deviation = 2 * np.sqrt((p * (1 - p)).sum()) / count
        worst = max(worst, distances(is_candidate[chosen].mean(), p.mean(), deviation / 2, count))
        error = np.sqrt(((estimates - exact)[chosen] ** 2).mean())
        expected = np.sqrt((exact * (1 - exact))[chosen].mean() / settings.hashes)
        print(
            f"{low:.2f} to {min(high, 1):.2f}  {count:>6,}  {is_candidate[chosen].mean():>10.3f}"
            f"  {p.mean():>6.3f}  {deviation:.3f}  {error:.4f} ({expected:.4f})"
        )
    return worst


def distances(found: float, theory: float, deviation: float, count: int) -> float:
    """How far a share is from its theory, in standard deviations, of at least half a draw."""
    return abs(found - theory) / max(deviation, 0.5 / count)


def planted(settings: Dedup, texts: list[str]) -> float:
    """Print which planted copies the whole step finds, beside what curve and threshold give.

    Returns:
        The largest distance of a share of edits from its theory, in standard deviations.
    """
    draw = random.Random(2)
    vocabulary = sorted({word for text in texts for word in text.split()})
    alike = dropped(settings, texts)  # some of Python's texts repeat others
    originals = [text for line, text in enumerate(texts) if line not in alike]
    draw.shuffle(originals)
    each = len(originals) // len(EDITS)
    pairs = [
        (original, edited(original, EDITS[number // each], vocabulary, draw))
        for number, original in enumerate(originals[: each * len(EDITS)])
    ]
    lines = dropped(settings, [text for pair in pairs for text in pair])
    found = np.array(
        [2 * number in lines or 2 * number + 1 in lines for number in range(len(pairs))]
    )
    exact = np.array([jaccard(normalized(one), normalized(two), settings) for one, two in pairs])
    theory = chance(exact, settings)

    print(f"\n{len(pairs):,} texts and their edited copies in one corpus: pairs that lose one")
    print("words edited   pairs  Jaccard   found  theory  2 sd")
    worst = 0.0
    for number, share in enumerate(EDITS):
        part = slice(number * each, (number + 1) * each)
        p = theory[part]
        deviation = 2 * np.sqrt((p * (1 - p)).sum()) / each
        worst = max(worst, distances(found[part].mean(), p.mean(), deviation / 2, each))
        print(
            f"{share:>12.1%}  {each:>6,}  {exact[part].mean():>7.3f}  {found[part].mean():>6.3f}"
            f"  {p.mean():>6.3f}  {deviation:.3f}"
        )
    return worst


def dropped(settings: Dedup, texts: list[str]) -> set[int]:
    """Numbers of the texts that the step drops."""
    with tempfile.TemporaryDirectory() as name:
        shard, prepared = Path(name, shard_name(0)), Path(name, "00000.signatures")
        write_shard(shard, (Record(str(line), text, "both") for line, text in enumerate(texts)))
        step = Deduplicator(settings)
        step.prepare(shard, prepared)
        step.decide([prepared], Path(name, "out"))
        drops = Path(name, "out", "00000.drops.jsonl").read_text().splitlines()
    return {json.loads(line)["line"] for line in drops}


def chance(exact: Any, settings: Dedup) -> Any:
    """Chance that a pair agrees in a band and its estimate reaches the threshold, by drawing."""
    draw = np.random.default_rng(0)
    shape = (DRAWS, settings.bands, settings.rows)
    found = []
    for similarity in exact:
        equal = draw.random(shape) < similarity
        is_candidate = equal.all(axis=2).any(axis=1)
        found.append((is_candidate & (equal.mean(axis=(1, 2)) >= settings.threshold)).mean())
    return np.array(found)


def jaccard(one: str, other: str, settings: Dedup) -> float:
    """Exact similarity of two texts' sets of shingles."""
    sets = [
        set(
            shingle_hashes(
                [text], words=settings.shingle_words, longest_word=settings.longest_word
            )[0].tolist()
        )
        for text in (one, other)
    ]
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def short_documents(count: int, vocabulary: list[str], planted: Counter[str]) -> Iterator[Record]:
    """Documents of 20 to 60 words; 5 % are copies of an earlier one, 5 % copies with one edit."""
    draw = random.Random(1)
    recent: list[list[str]] = []
    for number in range(count):
        kind = draw.random()
        if recent and kind < 0.1:
            words = list(draw.choice(recent))
            planted["edited" if kind < 0.05 else "exact"] += 1
            if kind < 0.05:
                words[draw.choice((0, -1))] = draw.choice(vocabulary)
        else:
            words = draw.choices(vocabulary, k=draw.randint(20, 60))
        if len(recent) < 10_000:
            recent.append(words)
        else:
            recent[draw.randrange(10_000)] = words
        yield Record(f"short/{number}", " ".join(words), "short")


def prepare(settings: Dedup, shard: Path, out: Path) -> int:
    """Sign one shard; returns this process's peak memory."""
    Deduplicator(settings).prepare(shard, out)
    return peak_bytes()


def decide(settings: Dedup, prepared: list[Path], out: Path) -> tuple[dict[str, Any], int]:
    """Find duplicates; returns counts and this process's peak memory."""
    return Deduplicator(settings).decide(prepared, out), peak_bytes()


def peak_bytes() -> int:
    """Most memory that this process had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def speed(settings: Dedup, texts: list[str], count: int, workers: int) -> tuple[float, float]:
    """Print time, documents per second and peak memory of both halves; GB and documents/s."""
    vocabulary = sorted({word for text in texts for word in text.split() if word.isalpha()})
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted: Counter[str] = Counter()
        documents = short_documents(count, vocabulary, planted)
        shards, size = [], 0
        for number in range(-(-count // SHARD_DOCUMENTS)):
            shards.append(folder / shard_name(number))
            rows = min(SHARD_DOCUMENTS, count - number * SHARD_DOCUMENTS)
            write_shard(shards[-1], (next(documents) for _ in range(rows)))
            size += shards[-1].stat().st_size
        prepared = [folder / f"{number:05}.signatures" for number in range(len(shards))]

        start = time.perf_counter()
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            peaks = list(pool.map(prepare, [settings] * len(shards), shards, prepared))
        middle = time.perf_counter()
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            counts, peak = pool.submit(decide, settings, prepared, folder / "out").result()
        end = time.perf_counter()
        signed = sum(path.stat().st_size for path in prepared)

    print(f"\n{count:,} short documents, {size / 1e6:.0f} MB of shards, budget ", end="")
    print(f"{settings.memory_bytes / 1e9:g} GB, signatures {signed / 1e6:.0f} MB on disk")
    print("               seconds  documents/s  peak GB of a process")
    for name, seconds, bytes_ in (
        (f"prepare ({workers})", middle - start, max(peaks)),
        ("decide (1)", end - middle, peak),
        ("both", end - start, max(*peaks, peak)),
    ):
        print(f"{name:<13}  {seconds:>7.1f}  {count / seconds:>11,.0f}  {bytes_ / 1e9:.2f}")
    print(f"planted: {planted['exact']:,} equal copies, {planted['edited']:,} with a word changed")
    for name, value in counts.items():
        print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value:.4f}")
    return max(*peaks, peak) / 1e9, count / (end - start)


def others(settings: Dedup, texts: list[str]) -> dict[str, float]:
    """Print CPU seconds of signing a sample, beside other libraries where installed."""
    sample = texts[:1_000]
    words = settings.shingle_words

    def shingles(text: str) -> list[str]:
        tokens = text.lower().split()
        return [" ".join(tokens[i : i + words]) for i in range(len(tokens) - words + 1)]

    def ours() -> None:
        found, _ = signatures(
            [normalized(text) for text in sample],
            hashes=settings.hashes,
            words=words,
            longest_word=settings.longest_word,
        )
        band_keys(found, settings.bands)

    def with_rensa() -> None:
        from rensa import RMinHash

        for text in sample:
            signature = RMinHash(num_perm=settings.hashes, seed=1)
            signature.update(shingles(text))
            signature.digest()

    def with_datasketch() -> None:
        from datasketch import MinHash

        for text in sample:
            signature = MinHash(num_perm=settings.hashes, seed=1)
            signature.update_batch([shingle.encode() for shingle in shingles(text)])

    print(f"\nSigning {len(sample):,} texts of {TEXT_WORDS} words: documents per CPU second")
    contenders: dict[str, Callable[[], None]] = {
        "ours": ours,
        "rensa": with_rensa,
        "datasketch": with_datasketch,
    }
    found = {}
    for name, sign in contenders.items():
        try:
            seconds = found[name] = min(timed(sign) for _ in range(3))
        except ImportError:
            print(f"{name:<11} not installed")
            continue
        print(f"{name:<11} {len(sample) / seconds:>8,.0f}")
    return found


def timed(action: Callable[[], None]) -> float:
    """Seconds of processor time that a call takes: other work on the machine does not count."""
    start = time.process_time()
    action()
    return time.process_time() - start


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000, help="short ones; 0 for none")
    parser.add_argument("--workers", type=int, default=2, help="processes that sign shards")
    parser.add_argument("--memory", type=int, default=Dedup().memory_bytes, help="budget, bytes")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    settings = Dedup(memory_bytes=args.memory)
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}\n")
    print("LSH curve: Jaccard, probability of becoming a candidate")
    for similarity, probability in collision_curve(settings.bands, settings.rows):
        print(f"  {similarity:.2f}  {probability:.4f}")
    texts = real_texts()
    curve, copies, memory, fast, *beside = BENCH.figures
    figures = {curve: [recall(settings, texts)], copies: [planted(settings, texts)]}
    seconds = others(settings, texts)
    for name, peer in zip(beside, ("rensa", "datasketch"), strict=True):
        if peer in seconds:
            figures[name] = [seconds[peer] / seconds["ours"]]
    if args.documents:
        peak, rate = speed(settings, texts, args.documents, args.workers)
        figures |= {memory: [peak], fast: [rate]}
    if args.json:
        missing = {name: "its package is not installed" for name in beside if name not in figures}
        args.json.write_text(json.dumps({"figures": figures, "missing": missing}))


if __name__ == "__main__":
    main()
