"""Main-content extraction: precision, recall and F1 of ours beside each library alone.

The pages and their article bodies are those of scrapinghub/article-extraction-benchmark, and so
is the measure: words are runs of letters and digits, a text is its bag of 4-word shingles, each
page has a precision and a recall, and F1 is the harmonic mean of their means over the pages.

Two things keep the comparison honest. Settings are chosen on one half of pages and scored on the
other, both ways; a hash of a page's name says which half it is in. And the difference to the best
library comes with a paired bootstrap interval: the same pages, drawn with replacement, for both.

    python benchmarks/extraction.py                      # about two minutes
    python benchmarks/extraction.py --json out.json      # AFM_TEST_DATA: where the data is
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import logging
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np
from declared import Declaration

from afm_mlx.corpus.record import Record
from afm_mlx.corpus.web.extract import Extractor, Page, main_content
from afm_mlx.corpus.web.markdown import join_blocks, prepare_page
from afm_mlx.corpus.web.page import parse_page
from afm_mlx.settings.extraction import Extract, ExtractMode

BENCH = Declaration(
    seconds=100,
    figures={
        "main content of pages, F1 less that of the best library": "at least 0",
        "main content, settings of the other half, F1 less the best library's": "at least 0",
        "main content, pages/s beside the best library": "",
    },
    needs=("trafilatura", "resiliparse"),
    peers=("readability-lxml", "boilerpy3", "justext"),
    data=("extraction",),
)

WORD = re.compile(r"\w+")
DATA = Path(__file__).parents[2] / "shared" / "data"
GRID = {"votes": (1, 2, 3), "block_overlap": (0.25, 0.5, 0.75), "least_overlap": (0.3, 0.5, 0.7)}

DRAWS = 10_000  # of the bootstrap

Scores = list[tuple[float, float]]


def shingles(text: str, length: int = 4) -> Counter[tuple[str, ...]]:
    """Runs of `length` words, with their counts; a shorter text is one run."""
    words = WORD.findall(text)
    starts = range(max(1, len(words) - length + 1))
    return Counter(tuple(words[at : at + length]) for at in starts if words)


def score(wanted: str, found: str) -> tuple[float, float]:
    """Precision and recall of a page, 0 to 1."""
    want, have = shingles(wanted), shingles(found)
    right, too_much, missing = (
        sum(part.values()) for part in (want & have, have - want, want - have)
    )
    if not too_much and not missing:
        return 1.0, 1.0
    precision = right / (right + too_much) if right + too_much else 0.0
    recall = right / (right + missing) if right + missing else 0.0
    return precision, recall


def harmonic(precision: float, recall: float) -> float:
    """F1 of a precision and a recall."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def summary(scores: Scores) -> dict[str, float]:
    """Means over pages."""
    precision, recall = mean(p for p, _ in scores), mean(r for _, r in scores)
    return {
        "precision": precision,
        "recall": recall,
        "f1": harmonic(precision, recall),
        "mean_page_f1": mean(harmonic(*page) for page in scores),
        "pages_below_half": sum(harmonic(*page) < 0.5 for page in scores),
    }


def contenders() -> dict[str, Callable[[str], str | None]]:
    """What turns a page into text: ours, and the libraries that are installed."""
    found: dict[str, Callable[[str], str | None]] = {}
    for mode in (ExtractMode.BALANCED, ExtractMode.READER, ExtractMode.FAST):
        found[f"ours, {mode}"] = ours(mode)
    import trafilatura

    for name, options in {
        "default": {},
        "fast": {"fast": True, "include_comments": False},
        "favor_precision": {"favor_precision": True},
        "favor_precision, no comments": {"favor_precision": True, "include_comments": False},
        "favor_precision, fast": {
            "favor_precision": True,
            "fast": True,
            "include_comments": False,
        },
        "favor_recall, fast": {"favor_recall": True, "fast": True, "include_comments": False},
    }.items():
        found[f"trafilatura {name}"] = lambda page, options=options: trafilatura.extract(
            page, **options
        )
    from resiliparse.extract.html2text import extract_plain_text

    found["resiliparse"] = lambda page: extract_plain_text(
        page, main_content=True, links=False, comments=False, form_fields=False
    )
    try:
        import readability

        found["readability-lxml"] = lambda page: extract_plain_text(
            readability.Document(page).summary()
        )
    except ImportError:
        print("readability-lxml is not installed", file=sys.stderr)
    try:
        from boilerpy3.extractors import ArticleExtractor

        boilerpy = ArticleExtractor(raise_on_failure=False)
        found["boilerpy3"] = boilerpy.get_content
    except ImportError:
        print("boilerpy3 is not installed", file=sys.stderr)
    try:
        import justext

        words = justext.get_stoplist("English")
        found["justext"] = lambda page: "\n".join(
            part.text for part in justext.justext(page.encode(), words) if not part.is_boilerplate
        )
    except ImportError:
        print("justext is not installed", file=sys.stderr)
    return found


def ours(mode: ExtractMode) -> Callable[[str], str]:
    """Our extractor, without its rule that drops short pages."""
    extractor = Extractor(Extract(mode=mode, least_words=1))

    def extract(page: str) -> str:
        found = extractor(Record("", page))
        return found.text if isinstance(found, Record) else ""

    return extract


def half_of(name: str) -> int:
    """The half, 0 or 1, that a page is in."""
    return hashlib.sha256(name.encode()).digest()[0] & 1


def grid_scores(pages: Sequence[str], wanted: Sequence[str]) -> dict[tuple[float, ...], Scores]:
    """Scores of all pages with each of `GRID`'s settings."""
    scores: dict[tuple[float, ...], Scores] = {}
    for page, want in zip(pages, wanted, strict=True):
        tree, _ = parse_page(page)
        prepare_page(tree)
        seen = Page(tree)
        for values in product(*GRID.values()):
            _, blocks = main_content(seen, Extract(**dict(zip(GRID, values, strict=True))))
            scores.setdefault(values, []).append(score(want, join_blocks(blocks)))
    return scores


def f1_of(scores: Scores, halves: Sequence[int], half: int) -> float:
    """F1 over the pages of a half."""
    return summary([one for one, at in zip(scores, halves, strict=True) if at == half])["f1"]


def cross_check(
    grid: dict[tuple[float, ...], Scores], libraries: dict[str, Scores], halves: Sequence[int]
) -> tuple[list[dict[str, object]], Scores]:
    """Choose settings on each half, and score them on the other.

    Returns:
        What was found, and the scores of all pages, each with the settings chosen without it.
    """
    rows: list[dict[str, object]] = []
    unseen: Scores = [(0.0, 0.0)] * len(halves)
    for half in (0, 1):
        chosen = max(grid, key=lambda values: f1_of(grid[values], halves, half))
        other = 1 - half
        for at in range(len(halves)):
            if halves[at] == other:
                unseen[at] = grid[chosen][at]
        rival = max(libraries, key=lambda name: f1_of(libraries[name], halves, other))
        rows.append(
            {
                "chosen_on": f"half {half}, {halves.count(half)} pages",
                "settings": dict(zip(GRID, chosen, strict=True)),
                "f1_there": f1_of(grid[chosen], halves, half),
                "f1_on_the_other": f1_of(grid[chosen], halves, other),
                "best_library_on_the_other": rival,
                "its_f1": f1_of(libraries[rival], halves, other),
            }
        )
    return rows, unseen


def bootstrap(ours: Scores, rivals: Sequence[Scores]) -> dict[str, float]:
    """F1 of ours less that of the best of the rivals, with its 95 % interval.

    Each draw takes as many pages as there are, with replacement, the same for all; the best of the
    rivals is found anew in each draw, which is generous to them.
    """
    drawn = np.random.default_rng(0).multinomial(
        len(ours), np.full(len(ours), 1 / len(ours)), size=DRAWS
    )

    def f1(scores: Scores) -> np.ndarray:
        precision, recall = (drawn @ np.array(scores)).T / len(scores)
        return 2 * precision * recall / (precision + recall)

    differences = f1(ours) - np.max([f1(rival) for rival in rivals], axis=0)
    low, high = np.quantile(differences, [0.025, 0.975])
    return {
        "difference": summary(ours)["f1"] - max(summary(rival)["f1"] for rival in rivals),
        "low": float(low),
        "high": float(high),
        "draws_ours_is_better": float(np.mean(differences > 0)),
    }


def main() -> None:
    """Run all contenders over all pages and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AFM_TEST_DATA", DATA)))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.data / "extraction"
    if not folder.is_dir():
        sys.exit(f"error: {folder} is not there; hint: set AFM_TEST_DATA")
    logging.disable(logging.CRITICAL)
    truth = json.loads((folder / "ground-truth.json").read_text())
    files = sorted((folder / "html").glob("*.html.gz"))
    pages = [gzip.decompress(file.read_bytes()).decode("utf-8", "replace") for file in files]
    wanted = [truth[file.name.removesuffix(".html.gz")]["articleBody"] for file in files]

    results, scores = {}, {}
    halves = [half_of(file.name) for file in files]
    for name, extract in contenders().items():
        extract(pages[0])  # imports and compiled patterns
        start = time.process_time()
        texts = [extract(page) or "" for page in pages]
        seconds = time.process_time() - start
        scores[name] = [score(want, text) for want, text in zip(wanted, texts, strict=True)]
        results[name] = summary(scores[name]) | {
            "docs_per_second": len(pages) / seconds,
            "f1_half_0": f1_of(scores[name], halves, 0),
            "f1_half_1": f1_of(scores[name], halves, 1),
        }
        print(f"{name}: {results[name]['f1']:.4f}", file=sys.stderr)
    libraries = {name: found for name, found in scores.items() if not name.startswith("ours")}
    best = max(libraries, key=lambda name: results[name]["f1"])
    checks, unseen = cross_check(grid_scores(pages, wanted), libraries, halves)
    defaults, rivals = scores["ours, balanced"], list(libraries.values())
    intervals = {
        f"defaults, less {best}": bootstrap(defaults, [libraries[best]]),
        "defaults, less the best library of each draw": bootstrap(defaults, rivals),
        f"settings chosen on the other half, less {best}": bootstrap(unseen, [libraries[best]]),
        "the same, less the best library of each draw": bootstrap(unseen, rivals),
    }
    print(table(len(pages), results, checks, intervals))
    if arguments.json:
        speeds = [results[name]["docs_per_second"] for name in ("ours, balanced", best)]
        gaps = [found["difference"] for found in list(intervals.values())[::2]]
        values = [[gaps[0]], [gaps[1]], [speeds[0] / speeds[1]]]
        figures = dict(zip(BENCH.figures, values, strict=True))
        found = {"results": results, "halves": checks, "intervals": intervals, "figures": figures}
        arguments.json.write_text(json.dumps(found, indent=2))


def table(
    count: int,
    results: dict[str, dict[str, float]],
    checks: list[dict[str, object]],
    intervals: dict[str, dict[str, float]],
) -> str:
    """Markdown."""
    lines = [
        f"{count} pages, {platform.system()} {platform.machine()}, one core, CPU time",
        "",
        "| extractor | precision | recall | F1 | mean F1 of a page | F1 half 0 / half 1 |"
        " pages with F1 < 0.5 | docs/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        lines.append(
            f"| {name} | {row['precision']:.4f} | {row['recall']:.4f} | {row['f1']:.4f} |"
            f" {row['mean_page_f1']:.4f} | {row['f1_half_0']:.4f} / {row['f1_half_1']:.4f} |"
            f" {row['pages_below_half']:.0f} | {row['docs_per_second']:,.0f} |"
        )
    lines += ["", "| settings chosen on | settings | F1 there | F1 on the other half |"]
    lines[-1] += " best library on that half |"
    lines += ["|---|---|---|---|---|"]
    for check in checks:
        settings = ", ".join(f"{name} {value}" for name, value in check["settings"].items())
        lines.append(
            f"| {check['chosen_on']} | {settings} |"
            f" {check['f1_there']:.4f} | {check['f1_on_the_other']:.4f} |"
            f" {check['its_f1']:.4f}, {check['best_library_on_the_other']} |"
        )
    lines += ["", "| difference of F1 | | 95 % interval | draws in which ours is better |"]
    lines += ["|---|---|---|---|"]
    for name, found in intervals.items():
        lines.append(
            f"| {name} | {found['difference']:+.4f} | {found['low']:+.4f} to {found['high']:+.4f} |"
            f" {found['draws_ours_is_better']:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
