"""Crawling a site of a test, and what came of it."""

import io
import json
from collections import Counter

import pytest

pytest.importorskip("fastwarc")
pytest.importorskip("protego")
pytest.importorskip("resiliparse")


from afm_mlx.corpus.crawl.crawler import crawl
from afm_mlx.corpus.web.warc import read_warc
from afm_mlx.progress import Progress
from afm_mlx.settings.web import Crawl, Warc

FAST = {"contact": "me@example.org", "min_delay_seconds": 0.0, "retry_seconds": 0.01}


def page(*links, head="", text="Words of a page."):
    anchors = "".join(f'<a href="{link}">x</a>' for link in links)
    return f"<html><head>{head}</head><body><p>{text}</p>{anchors}</body></html>"


def run(site, out, seeds=("/",), **settings):
    seeds = [site.url + seed for seed in seeds]
    return crawl(seeds, out, Crawl(**(FAST | settings)), Progress(io.StringIO()))


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def outcomes(out, site):
    return {line["url"].removeprefix(site.url): line["outcome"] for line in log(out)}


def saved(out):
    """Pages in the archives, each as often as it is there."""
    skipped = Counter()
    found = []
    for path in sorted(out.glob("*.warc.gz")):
        found += read_warc(path, "web", Warc(obey_page_rules=False), skipped)
    assert not skipped
    return found


def saved_paths(out, site):
    return sorted(record.url.removeprefix(site.url) for record in saved(out))


def chain(count):
    return {"/": page("/1")} | {f"/{n}": page(f"/{n + 1}") for n in range(1, count)}
