"""Decontamination: planted items that are found, real documents that are lost, speed and memory.

Found: every item of GSM8K test, IFEval and MMLU test is planted between two pieces of real text,
alone and with its choices or answer, in four forms, and the whole step runs over these documents.
Lost: the step runs over real documents that hold no benchmark, at the defaults and at others.
Speed: index and search beside the plain approach, a Python set of tuples of words, each in a
process of its own, which reports its peak memory.

    python benchmarks/decontaminate.py DATA                   # DATA/gsm8k, DATA/ifeval, DATA/mmlu
    python benchmarks/decontaminate.py DATA --texts more.jsonl --json result.json
    python benchmarks/decontaminate.py DATA --items 300       # a quick look
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import re
import resource
import sys
import tempfile
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from declared import Declaration

from afm_mlx.corpus.documents import read_documents
from afm_mlx.corpus.overlap.benchmarks_text import Item, read_benchmark
from afm_mlx.corpus.overlap.decontaminate import Decontamination, NgramIndex
from afm_mlx.corpus.overlap.ngrams import punctuation_forms, split_words
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import shard_name, write_shard
from afm_mlx.settings.decontamination import Benchmark, Decontaminate
from afm_mlx.settings.sections import Source, SourceKind

BENCH = Declaration(
    seconds=110,
    figures={
        "benchmark items with choices or answer, found: verbatim": "at least 100 %",
        "benchmark items with choices or answer, found: upper case": "at least 100 %",
        "benchmark items with choices or answer, found: re-punctuated": "at least 100 %",
        "benchmark questions alone, long enough, found: verbatim": "",
        "unrelated documents dropped": "at most 0.1 %",
        "search for benchmark items, texts/s beside a set of tuples": "",
    },
    small="{data} --items 150 --sample 300 --brief",
    data=("gsm8k/test.jsonl", "ifeval", "mmlu/test"),
)

BENCHMARKS = {"GSM8K test": "gsm8k/test.jsonl", "IFEval": "ifeval", "MMLU test": "mmlu/test"}
HOST_WORDS = 60  # on each side of a planted item
LEAST_WORDS = 100  # of a real document
SHARD_DOCUMENTS = 5_000
OTHER_MARKS = tuple(",;:!?-/()[]\u2014\u2026\u201c\u201d\u00b7")

# Settings beside the defaults, and whether a sample of documents is enough, as most of them go.
VARIANTS: dict[str, tuple[dict[str, Any], bool]] = {
    "defaults": ({}, False),
    "0.1 % of the documents are common": ({"common_fraction": 0.001}, False),
    "n_min = 4": ({"n_min": 4}, False),
    "shortest_question = 6": ({"shortest_question": 6}, False),
    "shortest_question = 4": ({"shortest_question": 4}, False),
    "lengths = all": ({"lengths": "all"}, False),
    "n = 8": ({"n_max": 8}, False),
    "n = 7": ({"n_min": 7, "n_max": 7}, False),
    "n = 6": ({"n_min": 6, "n_max": 6}, False),
    "n = 5": ({"n_min": 5, "n_max": 5}, True),
    "n = 4": ({"n_min": 4, "n_max": 4}, True),
    "lengths = all, n_min = 4: the report to the letter": ({"lengths": "all", "n_min": 4}, True),
    "the same, 1 % of the documents are common": (
        {"lengths": "all", "n_min": 4, "common_fraction": 0.01},
        True,
    ),
}
SHOWN_DROPS = 12


def real_documents(more: Sequence[Path]) -> list[Record]:
    """Python's documentation and library, and the texts of JSONL files; different ones only."""
    sources = [("python:docs", SourceKind.TEXT), ("python:library", SourceKind.CODE)]
    sources += [(str(path), SourceKind.JSONL) for path in more]
    found = {}
    for path, kind in sources:
        for document in read_documents(path, Source(kind=kind, path=path), Counter()):
            if len(document.text.split()) >= LEAST_WORDS:
                name = document.id if path.startswith("python:") else Path(path).name
                found.setdefault(document.text, Record(name + "/" + document.id, document.text))
    return list(found.values())


# Forms of a copy.


def is_mark(char: str) -> bool:
    """Punctuation or a symbol."""
    return unicodedata.category(char)[0] in "PS"


def repunctuated(text: str, draw: random.Random) -> str:
    """A copy by a program that treats all marks alike; the draw is which."""
    kind = draw.randrange(5)
    if kind == 0:
        return "".join(char for char in text if not is_mark(char))
    if kind == 1:
        return "".join(" " if is_mark(char) else char for char in text)
    if kind == 2:
        return "".join(draw.choice(OTHER_MARKS) if is_mark(char) else char for char in text)
    if kind == 3:
        return ", ".join(text.split())
    typographic = {"'": "\u2019", '"': "\u201d", "-": "\u2014", "...": "\u2026", "?": "\uff1f"}
    for plain, other in typographic.items():
        text = text.replace(plain, other)
    return text


def mixed(text: str, draw: random.Random) -> str:
    """Each mark for itself stays, goes, or becomes a space or another mark: the hardest form."""
    return "".join(
        draw.choice((char, "", " ", draw.choice(OTHER_MARKS))) if is_mark(char) else char
        for char in text
    )


FORMS: dict[str, Callable[[str, random.Random], str]] = {
    "verbatim": lambda text, draw: text,
    "upper case": lambda text, draw: text.upper(),
    "re-punctuated": repunctuated,
    "each mark drawn": mixed,
}


# Found.


def parts_of(item: Item) -> dict[str, str]:
    """What is planted of an item: all of it, and its question alone where that is not all."""
    return {"whole": item.text} | ({"question": item.question} if item.question else {})


def planted(
    items: dict[str, list[Item]], hosts: list[list[str]], form: str
) -> Iterator[tuple[tuple[str, int, str], Record]]:
    """(benchmark, number, part) of each planted item, and its document."""
    draw = random.Random(form)
    for name, several in items.items():
        for number, item in enumerate(several):
            for part, text in parts_of(item).items():
                host = draw.choice(hosts)
                start = draw.randrange(len(host) - 2 * HOST_WORDS + 1)
                middle = start + HOST_WORDS
                before, after = host[start:middle], host[middle : middle + HOST_WORDS]
                whole = " ".join(before), FORMS[form](text, draw), " ".join(after)
                yield (name, number, part), Record(f"{name}/{number}/{part}", "\n\n".join(whole))


def run_step(
    settings: Decontaminate, documents: Sequence[Record]
) -> tuple[dict[str, Any], dict[int, str]]:
    """The whole step; its metrics, and the evidence of each document that it drops."""
    step = Decontamination(settings)
    dropped = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = []
        for number, first in enumerate(range(0, len(documents), SHARD_DOCUMENTS)):
            shard = folder / shard_name(number)
            write_shard(shard, documents[first : first + SHARD_DOCUMENTS])
            prepared.append(folder / f"{number:05}.hits")
            step.prepare(shard, prepared[-1])
        metrics = step.decide(prepared, folder / "out")
        for number in range(len(prepared)):
            for line in (folder / "out" / f"{number:05}.drops.jsonl").read_text().splitlines():
                row = json.loads(line)
                dropped[number * SHARD_DOCUMENTS + row["line"]] = row["evidence"]
    return metrics, dropped


def recall(settings: Decontaminate, hosts: list[list[str]], most: int | None) -> dict[str, Any]:
    """Print found of planted, by benchmark, part, form, and whether the part is long enough."""
    items = {
        name: read_benchmark(Path(one.path))[:most] for name, one in settings.benchmarks.items()
    }
    planted_counts: Counter[tuple[str, str, bool]] = Counter()
    short: Counter[tuple[str, str, int]] = Counter()
    found: defaultdict[str, Counter[tuple[str, str, bool]]] = defaultdict(Counter)
    long_enough: dict[tuple[str, int, str], bool] = {}
    for name, several in items.items():
        for number, item in enumerate(several):
            for part, text in parts_of(item).items():
                words = len(split_words([text]).hashes)
                least = settings.shortest_item if part == "whole" else settings.shortest_question
                long_enough[name, number, part] = words >= least
                planted_counts[name, part, words >= least] += 1
                short[name, part, words] += words < least
    missed = []
    print()
    for form in FORMS:
        pairs = list(planted(items, hosts, form))
        metrics, dropped = run_step(settings, [record for _, record in pairs])
        for line, (key, record) in enumerate(pairs):
            if line in dropped:
                found[form][key[0], key[2], long_enough[key]] += 1
            elif long_enough[key]:
                missed.append((form, record.id))
        common = metrics["common_ngrams"]
        print(f"{form}: {metrics['documents']:,} documents, {common:,} n-grams common", flush=True)
    print(f"\n{'benchmark':<11} {'part':<9} {'words':<9} {'planted':>7}", end="")
    print("".join(f"  {form:>15}" for form in FORMS))
    rows = []
    for (name, part, enough), count in sorted(planted_counts.items()):
        least = settings.shortest_item if part == "whole" else settings.shortest_question
        label = f"{'from' if enough else 'below'} {least}"
        counts = {form: found[form][name, part, enough] for form in FORMS}
        rows.append({"benchmark": name, "part": part, "words": label, "planted": count, **counts})
        print(f"{name:<11} {part:<9} {label:<9} {count:>7,}", end="")
        print(
            "".join(f"  {counts[form]:>6,} {100 * counts[form] / count:6.2f} %" for form in FORMS)
        )
    by_form = Counter(form for form, _ in missed)
    print(f"missed though long enough: {dict(by_form) or 'none'}")
    for form, name in [one for one in missed if one[0] != "each mark drawn"][:SHOWN_DROPS]:
        print(f"  {name}, {form}")
    too_short = {" ".join(map(str, key)): count for key, count in sorted(short.items()) if count}
    print(f"too short, by words: {too_short or 'none'}")
    return {"found": rows, "missed": missed, "too_short": too_short}


# Lost.


def lost(
    settings: Decontaminate, documents: list[Record], sample: int, *, brief: bool
) -> dict[str, Any]:
    """Print the share of unrelated documents that goes."""
    draw = random.Random(0)
    few = draw.sample(documents, min(sample, len(documents)))
    rows = []
    print(f"\n{'dropped':>7}  {'of':>6}  {'share':>8}  common from  settings")
    variants = dict(list(VARIANTS.items())[:1]) if brief else VARIANTS
    for label, (changes, sampled) in variants.items():
        chosen = few if sampled else documents
        changed = Decontaminate.model_validate(settings.model_dump() | changes)
        metrics, dropped = run_step(changed, chosen)
        print(
            f"{len(dropped):>7,}  {len(chosen):>6,}  {100 * len(dropped) / len(chosen):6.3f} %  "
            f"{metrics['common_from']:>11,}  {label}",
            flush=True,
        )
        rows.append({"settings": label, "documents": len(chosen), "dropped": len(dropped)})
        if len(dropped) <= SHOWN_DROPS:
            for line, evidence in dropped.items():
                print(f"         {chosen[line].id}: {evidence}")
    return {"lost": rows}


# Speed and memory.


class Plain:
    """The plain approach: each n-gram a tuple of words, in a set for each length."""

    def __init__(self, settings: Decontaminate) -> None:
        """Index the same n-grams as ours: the same lengths, forms and rule for short items."""
        self.ngrams: defaultdict[int, set[tuple[str, ...]]] = defaultdict(set)
        for one in settings.benchmarks.values():
            items = read_benchmark(Path(one.path))
            percentile = np.percentile(
                [len(self.words(item.text)) for item in items], settings.length_percentile
            )
            n = min(max(int(percentile), settings.n_min), settings.n_max)
            for item in items:
                for form in (item.text, *item.others, item.question):
                    partial = form is item.question
                    least = settings.shortest_question if partial else settings.shortest_item
                    for spelling in punctuation_forms(form) if form else []:
                        words = self.words(spelling)
                        if least <= len(words) < n:
                            self.ngrams[len(words)].add(tuple(words))
                        for start in range(len(words) - n + 1):
                            self.ngrams[n].add(tuple(words[start : start + n]))

    def words(self, text: str) -> list[str]:
        """Words without case and punctuation."""
        text = unicodedata.normalize("NFKC", text).casefold()
        return re.findall(r"[^\W_]+", re.sub("['\u2018\u2019\u02bc]", "", text))

    def holds(self, text: str) -> bool:
        """Whether the text has an n-gram of a benchmark."""
        words = self.words(text)
        return any(
            tuple(words[start : start + n]) in known
            for n, known in self.ngrams.items()
            for start in range(len(words) - n + 1)
        )


def contend(
    settings: Decontaminate, texts: list[str], plain: bool
) -> tuple[float, float, int, int, list[int]]:
    """CPU seconds of index and search; peak bytes of index, of both; texts with a hit."""
    base = peak_bytes()
    start = time.process_time()
    index: Plain | NgramIndex = Plain(settings) if plain else NgramIndex(settings)
    middle, indexed = time.process_time(), peak_bytes()
    if isinstance(index, Plain):
        hits = [number for number, text in enumerate(texts) if index.holds(text)]
    else:
        found = set()
        for first in range(0, len(texts), 50):
            found |= {first + int(one) for one in index.search(texts[first : first + 50])[0]}
        hits = sorted(found)
    return middle - start, time.process_time() - middle, indexed - base, peak_bytes() - base, hits


def peak_bytes() -> int:
    """Most memory that this process had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def speed(settings: Decontaminate, documents: list[Record], sample: int) -> dict[str, Any]:
    """Print seconds, documents per second and memory, ours and the plain approach."""
    draw = random.Random(1)
    texts = [one.text for one in draw.sample(documents, min(sample, len(documents)))]
    items = [
        item for one in settings.benchmarks.values() for item in read_benchmark(Path(one.path))
    ]
    for number in range(0, len(texts), 20):  # something to find
        texts[number] += "\n\n" + draw.choice(items).text
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    spawn = multiprocessing.get_context("spawn")
    results = {}
    for name, plain in (("ours", False), ("set of tuples", True)):
        runs = []
        for _ in range(2):
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                runs.append(pool.submit(contend, settings, texts, plain).result())
        results[name] = (*(min(run[at] for run in runs) for at in range(4)), runs[0][4])
    print(f"\n{len(texts):,} real documents, {size / 1e6:.0f} MB, one process, CPU seconds")
    print("               index s  search s  documents/s  MB/s  index peak MB  peak MB  hits")
    for name, (built, searched, indexed, peak, hits) in results.items():
        print(
            f"{name:<13}  {built:>7.1f}  {searched:>8.1f}  {len(texts) / searched:>11,.0f}"
            f"  {size / searched / 1e6:>4.1f}  {indexed / 1e6:>13,.0f}  {peak / 1e6:>7,.0f}"
            f"  {len(hits):,}"
        )
    ours, theirs = results["ours"], results["set of tuples"]
    print("set / ours     " + "  ".join(f"{theirs[at] / ours[at]:.2f}" for at in range(4)), end="")
    print(f"   (index s, search s, index peak, peak); same hits: {ours[4] == theirs[4]}")
    names = ("index_seconds", "search_seconds", "index_peak_bytes", "peak_bytes")
    return {
        "speed": {name: dict(zip(names, found[:4], strict=True)) for name, found in results.items()}
        | {"documents": len(texts), "bytes": size, "same_hits": ours[4] == theirs[4]}
    }


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with gsm8k, ifeval and mmlu")
    parser.add_argument("--texts", type=Path, action="append", default=[], help="more documents")
    parser.add_argument("--items", type=int, help="of each benchmark; all of them by default")
    parser.add_argument("--sample", type=int, default=1_000, help="documents, where all are many")
    parser.add_argument("--only", choices=("speed", "lost", "found"), help="one of the tables")
    parser.add_argument("--brief", action="store_true", help="what is lost at the defaults only")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    settings = Decontaminate(
        benchmarks={
            name: Benchmark(path=str(args.data / path)) for name, path in BENCHMARKS.items()
        }
    )
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}")
    documents = real_documents(args.texts)
    size = sum(len(one.text) for one in documents) / 1e6
    print(f"{len(documents):,} real documents, {size:.0f} million characters")
    result: dict[str, Any] = {}
    if args.only in (None, "speed"):
        result |= speed(settings, documents, args.sample)
    if args.only in (None, "lost"):
        result |= lost(settings, documents, args.sample, brief=args.brief)
    if args.only in (None, "found"):
        _, gone = run_step(settings, documents)
        hosts = [one.text.split() for at, one in enumerate(documents) if at not in gone]
        hosts = [words for words in hosts if len(words) >= 2 * HOST_WORDS]
        result |= recall(settings, hosts, args.items)
    if args.json:
        result["figures"] = figures(result)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def figures(result: dict[str, Any]) -> dict[str, list[float]]:
    """What `make bench` shows, of the tables that were made."""
    *whole, question, unrelated, speed = BENCH.figures
    found: dict[str, list[float]] = {}
    rows = [row for row in result.get("found", ()) if row["words"].startswith("from")]
    for name, part in [*((each, "whole") for each in whole), (question, "question")]:
        form = name.rpartition(": ")[2]
        chosen = [row for row in rows if row["part"] == part]
        if chosen:
            planted_items = sum(row["planted"] for row in chosen)
            found[name] = [100 * sum(row[form] for row in chosen) / planted_items]
    if "lost" in result:
        defaults = result["lost"][0]
        found[unrelated] = [100 * defaults["dropped"] / defaults["documents"]]
    if "speed" in result:
        ours, plain = (result["speed"][name] for name in ("ours", "set of tuples"))
        found[speed] = [plain["search_seconds"] / ours["search_seconds"]]
    return found


if __name__ == "__main__":
    main()
