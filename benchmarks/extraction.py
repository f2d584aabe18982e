"""Main-content extraction: precision, recall and F1 of ours beside each library alone.

The pages and their article bodies are those of scrapinghub/article-extraction-benchmark, and so
is the measure: words are runs of letters and digits, a text is its bag of 4-word shingles, each
page has a precision and a recall, and F1 is the harmonic mean of their means over the pages.

Settings are checked on halves: those that are best on every other page are shown on both.

    python benchmarks/extraction.py                      # about two minutes
    python benchmarks/extraction.py --json out.json      # AFM_TEST_DATA: where the data is
"""

from __future__ import annotations

import argparse
import gzip
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

from afm_mlx.corpus.record import Record
from afm_mlx.corpus.web.extract import Extractor, Page, main_content, parse_page
from afm_mlx.corpus.web.markdown import join_blocks, prepare_page
from afm_mlx.settings.extraction import Extract, ExtractMode

WORD = re.compile(r"\w+")
DATA = Path(__file__).parents[2] / "shared" / "data"
GRID = {"votes": (1, 2, 3), "block_overlap": (0.25, 0.5, 0.75), "least_overlap": (0.3, 0.5, 0.7)}

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


def cross_check(pages: Sequence[str], wanted: Sequence[str]) -> list[dict[str, object]]:
    """Choose `GRID`'s settings on one half of the pages, and score them on the other."""
    scores: dict[tuple[float, ...], Scores] = {}
    for page, want in zip(pages, wanted, strict=True):
        tree, _ = parse_page(page)
        prepare_page(tree)
        seen = Page(tree)
        for values in product(*GRID.values()):
            _, blocks = main_content(seen, Extract(**dict(zip(GRID, values, strict=True))))
            scores.setdefault(values, []).append(score(want, join_blocks(blocks)))
    rows: list[dict[str, object]] = []
    for chosen_on in (0, 1):
        best = max(scores, key=lambda values: summary(scores[values][chosen_on::2])["f1"])
        rows.append(
            {
                "chosen_on": ("even", "odd")[chosen_on],
                "settings": dict(zip(GRID, best, strict=True)),
                "f1_there": summary(scores[best][chosen_on::2])["f1"],
                "f1_on_the_other": summary(scores[best][1 - chosen_on :: 2])["f1"],
            }
        )
    return rows


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

    results = {}
    for name, extract in contenders().items():
        extract(pages[0])  # imports and compiled patterns
        start = time.process_time()
        texts = [extract(page) or "" for page in pages]
        seconds = time.process_time() - start
        scores = [score(want, text) for want, text in zip(wanted, texts, strict=True)]
        results[name] = summary(scores) | {
            "docs_per_second": len(pages) / seconds,
            "f1_even": summary(scores[0::2])["f1"],
            "f1_odd": summary(scores[1::2])["f1"],
        }
        print(f"{name}: {results[name]['f1']:.4f}", file=sys.stderr)
    checks = cross_check(pages, wanted)
    print(table(len(pages), results, checks))
    if arguments.json:
        arguments.json.write_text(json.dumps({"results": results, "halves": checks}, indent=2))


def table(count: int, results: dict[str, dict[str, float]], checks: list[dict[str, object]]) -> str:
    """Markdown."""
    lines = [
        f"{count} pages, {platform.system()} {platform.machine()}, one core, CPU time",
        "",
        "| extractor | precision | recall | F1 | mean F1 of a page | F1 even / odd pages |"
        " pages with F1 < 0.5 | docs/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        lines.append(
            f"| {name} | {row['precision']:.4f} | {row['recall']:.4f} | {row['f1']:.4f} |"
            f" {row['mean_page_f1']:.4f} | {row['f1_even']:.4f} / {row['f1_odd']:.4f} |"
            f" {row['pages_below_half']:.0f} | {row['docs_per_second']:,.0f} |"
        )
    lines += ["", "| settings chosen on | settings | F1 there | F1 on the other half |"]
    lines += ["|---|---|---|---|"]
    for check in checks:
        lines.append(
            f"| {check['chosen_on']} pages | {check['settings']} |"
            f" {check['f1_there']:.4f} | {check['f1_on_the_other']:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
