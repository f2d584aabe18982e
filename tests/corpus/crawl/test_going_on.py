"""A crawl that was stopped goes on, and one that was finished asks for nothing again."""

import gzip
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

pytest.importorskip("fastwarc")
pytest.importorskip("protego")
pytest.importorskip("resiliparse")


from afm_mlx.corpus.crawl.crawler import crawl
from afm_mlx.errors import DataError, RunError
from afm_mlx.progress import Progress
from afm_mlx.settings.web import Crawl

from .crawling import FAST, chain, log, page, run, saved


def start_command(out, *seeds):
    """`afm data crawl` in a process of its own."""
    settings = ("contact=me@example.org", "min_delay_seconds=0", "connections=3", "warc_bytes=3000")
    flags = [part for setting in settings for part in ("--set", setting)]
    code = "import sys; from afm_cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "data", "crawl", *seeds, "--out", str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition, child, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert child.poll() is None, child.stderr.read().decode()
        time.sleep(0.002)


def tree(count):
    """Pages each of which links to two more."""
    return {
        "/" if n == 0 else f"/{n}": page(f"/{2 * n + 1}", f"/{2 * n + 2}", text=f"{n} " * 99)
        for n in range(count)
    }


def test_a_command_killed_anywhere_goes_on_to_the_same_pages(make_site, tmp_path):
    sites = [make_site(), make_site()]
    for one in sites:
        one.pages = tree(31)
        one.slow = dict.fromkeys(one.pages, 0.002)
    seeds = [one.url + "/" for one in sites]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = Crawl(**FAST, warc_bytes=3_000)
    crawl(seeds, whole, settings, Progress(io.StringIO()))
    done_before = 0
    for one in sites:
        one.asked.clear()
    for kill_at in (9, 23, 40):
        child = start_command(parts, *seeds)
        wait_for(lambda at=kill_at: sum(len(one.asked) for one in sites) >= at, child)
        child.kill()
        child.communicate()
        finished = len((parts / "log.jsonl").read_bytes().splitlines())
        assert finished >= done_before
        done_before = finished
    # What a kill in the middle of a write leaves behind:
    with (parts / "log.jsonl").open("ab") as file:
        file.write(b'{"url": "http://127.0')
    last = max(parts.glob("pages-*.warc.gz"))
    with last.open("ab") as file:
        file.write(gzip.compress(b"WARC/1.1\r\nWARC-Type: response\r\n")[:-9])
    metrics = crawl(seeds, parts, settings, Progress(io.StringIO()))

    def contents(out):
        return sorted((record.url, record.text) for record in saved(out))

    # 62 pages, and those that the leaves link to are not there.
    assert len(contents(parts)) == 62
    assert contents(parts) == contents(whole)
    assert {line["url"] for line in log(parts)} == {line["url"] for line in log(whole)}
    assert len(log(parts)) == len(log(whole))
    assert metrics["saved"] == 62
    assert metrics["pages"] == len(log(whole))
    for one in sites:  # a page is asked for again only if it was on its way when a kill came
        asked = Counter(one.paths())
        assert sum(count - 1 for count in asked.values()) <= 3
        assert asked["/robots.txt"] == 1


def test_an_interrupt_ends_a_crawl_at_once_and_it_goes_on(site, tmp_path):
    site.pages = tree(15)
    site.slow = {"/6": 30}
    child = start_command(tmp_path, site.url + "/")
    wait_for(lambda: "/6" in site.paths(), child)
    interrupted = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=20)
    assert time.monotonic() - interrupted < 5
    assert child.returncode == 130
    assert b"interrupted: the same command goes on from here" in stderr
    assert b"Traceback" not in stderr
    site.slow = {}
    before = len(log(tmp_path))
    assert before >= 5
    crawl([site.url + "/"], tmp_path, Crawl(**FAST, warc_bytes=3_000), Progress(io.StringIO()))
    assert len(saved(tmp_path)) == 15
    assert {path: count for path, count in Counter(site.paths()).items() if count > 1} == {"/6": 2}


def test_a_finished_crawl_asks_for_nothing_again(site, tmp_path):
    site.pages = chain(3)
    first = run(site, tmp_path)
    asked = len(site.asked)
    second = run(site, tmp_path)
    assert len(site.asked) == asked
    assert first | {"seconds": 0} == second | {"seconds": 0}


def test_a_folder_of_another_crawl_is_refused(site, tmp_path):
    site.pages = {"/": page()}
    run(site, tmp_path)
    with pytest.raises(RunError, match="scope is hosts, not folders"):
        run(site, tmp_path, scope="folders")
    with pytest.raises(RunError, match="started from other seeds"):
        run(site, tmp_path, seeds=["/b"])


def test_a_seed_without_scheme_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(DataError, match=r"'example\.org' is no web address") as caught:
        crawl(["example.org"], tmp_path, Crawl(**FAST), Progress(io.StringIO()))
    assert caught.value.hint == "did you mean 'https://example.org'?"
    with pytest.raises(DataError, match="no seeds"):
        crawl([], tmp_path, Crawl(**FAST), Progress(io.StringIO()))


def test_a_lost_archive_is_an_error(site, tmp_path):
    site.pages = {"/": page()}
    run(site, tmp_path)
    os.truncate(tmp_path / "pages-00000.warc.gz", 5)
    with pytest.raises(DataError, match="has 5 bytes"):
        run(site, tmp_path)
