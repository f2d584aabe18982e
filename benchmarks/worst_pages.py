"""Extraction of pages made to be slow: CPU seconds and memory of each, with the default limits.

Each page is about as large as the limits let it be, and is taken in a process of its own. The first
of the list show what an honest page of that size costs.

    python benchmarks/worst_pages.py                # about ten minutes
    python benchmarks/worst_pages.py --mode fast
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator

from declared import Declaration

from afm_mlx.corpus.record import Record
from afm_mlx.corpus.web.extract import Extractor
from afm_mlx.settings.extraction import Extract, ExtractMode

BENCH = Declaration(
    seconds=900,
    long="ten minutes",
    results="Pages made to be slow: `python benchmarks/worst_pages.py`",
)

SENTENCE = "The harbour was built in the year when the river changed its bed, and it stayed. "
CHINESE = "\u6e2f\u53e3\u5efa\u4e8e\u6cb3\u6d41\u6539\u9053\u7684\u90a3\u4e00\u5e74" * 5
MANY = 49_000  # elements
LONG = 8_000_000  # characters


def pages() -> Iterator[tuple[str, str]]:
    """Names and pages."""
    yield "49,000 paragraphs of a sentence", f"<p>{SENTENCE}</p>" * MANY
    yield "a table of 16,000 rows", "<table>" + f"<tr><td>{SENTENCE}<td>b</tr>" * (MANY // 3)
    yield "a list of 49,000 items", "<ul>" + f"<li>{SENTENCE}</li>" * MANY
    yield "8 MB in one paragraph", "<p>" + SENTENCE * (LONG // len(SENTENCE))
    yield "4 million words of a letter", "<p>" + "a " * (LONG // 2)
    yield "8 million commas", "<p>" + "," * LONG
    yield "a class of 7 MB", f"<div class='{'aaaaaaaa' * 900_000}'>" + f"<p>{SENTENCE}</p>" * 50
    yield (
        "a class of 36 KB 200 times",
        _inside(f"<div class='{'content ' * 4_000}'>", f"<p>{SENTENCE[:10]}</p>" * 7_000, 200),
    )
    yield "7,500 links inside 200 elements", _inside("<div>", "<a href=x>li nk</a> " * 7_500, 200)
    yield "9,500 paragraphs inside 200", _inside("<div>", "<p>x</p>" * 9_500, 200)
    yield "45,000 paragraphs inside 38", _inside("<div>", "<p>x</p>" * 45_000, 38)
    yield "12,000 tables inside each other", _inside("<table><tr><td>a<td>", SENTENCE, 60) * 200
    yield "text between 40,000 paragraphs", "<div>" + f"text <p>{SENTENCE}</p>" * 40_000
    yield "text between 24,000 divisions", "<div>" + "<div>text <b>b</b></div> tail " * 24_000
    yield "MathML in MathML", (_inside("<math>", "<mi>x</mi>", 200) + "</math>" * 200) * 240
    yield "2.7 million Chinese characters", f"<p>{CHINESE}</p>" * (2_700_000 // len(CHINESE))
    short = "".join(f"<p>w{number} v{number}</p>" for number in range(40_000))
    yield "40,000 short paragraphs and 6 MB", f"<p>{SENTENCE * 75_000}</p>{short}"
    yield "100,000 elements inside each other", "<div>" * 100_000
    yield "49,000 paragraphs inside 200", _inside("<div>", f"<p>{SENTENCE}</p>" * MANY, 200)
    yield "200 MB", "x" * 200_000_000


def _inside(opening: str, inner: str, times: int) -> str:
    return opening * times + inner


def measure(mode: ExtractMode, page: str, answer: object) -> None:
    """Extract a page, and send seconds, what became of it, and the process's peak in MB."""
    extractor = Extractor(Extract(mode=mode))
    extractor(Record("", "<p>imports and compiled patterns"))
    started = time.process_time()
    found = extractor(Record("", page))
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = f"{len(found.text):,} characters" if isinstance(found, Record) else found.rule
    answer.send((seconds, end, peak / (1e6 if sys.platform == "darwin" else 1e3)))


def main() -> None:
    """Measure all pages and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", type=ExtractMode, default=ExtractMode.BALANCED)
    mode = parser.parse_args().mode
    context = multiprocessing.get_context("spawn")
    print(f"| page | size MB | {mode}: CPU seconds | peak MB | result |\n|---|---|---|---|---|")
    for name, page in pages():
        ours, theirs = context.Pipe()
        process = context.Process(target=measure, args=(mode, page, theirs))
        process.start()
        seconds, end, peak = ours.recv()
        process.join()
        print(
            f"| {name} | {len(page) / 1e6:.1f} | {seconds:.1f} | {peak:,.0f} | {end} |", flush=True
        )


if __name__ == "__main__":
    main()
