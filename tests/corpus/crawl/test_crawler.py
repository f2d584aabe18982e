import gzip
import itertools
import threading
import time
from collections import Counter

import pytest

pytest.importorskip("fastwarc")
pytest.importorskip("protego")
pytest.importorskip("resiliparse")

from pydantic import ValidationError

from afm_mlx.settings.web import Crawl, Warc

from .crawling import chain, log, outcomes, page, run, saved, saved_paths


@pytest.mark.parametrize(
    ("rule", "for_google", "group"),
    [("strictest", "robots", "*"), ("applebot", "saved", "Googlebot")],
)
def test_a_site_is_crawled_by_its_rules(site, tmp_path, rule, for_google, group):
    site.pages = {
        "/robots.txt": (
            "User-agent: *\nDisallow: /google\nCrawl-delay: 0.02\n\n"
            "User-agent: Googlebot\nDisallow: /private\n\n"
            "User-agent: Applebot-Extended\nDisallow: /search-only\n"
        ),
        "/": page("/a", "/private/x", "/google", "/search-only", "/meta", "/header", "/nofollow"),
        "/a": page("/", "/a#part", "/b?x=1"),
        "/b?x=1": page(),
        "/private/x": page(),
        "/google": page(),
        "/search-only": page("/behind"),
        "/behind": page(),
        "/meta": page(head='<meta name="robots" content="noindex">'),
        "/header": (200, {"X-Robots-Tag": "noai"}, page().encode()),
        "/nofollow": page("/unfollowed", head='<meta name="robots" content="nofollow">'),
        "/unfollowed": page(),
    }
    metrics = run(site, tmp_path, robots=rule)
    wanted = {
        "/": "saved",
        "/a": "saved",
        "/private/x": "robots",
        "/google": for_google,
        "/search-only": "not for training",
        "/meta": "not for training",
        "/header": "not for training",
        "/nofollow": "saved",
        "/b?x=1": "saved",
        "/behind": "saved",
    }
    assert outcomes(tmp_path, site) == wanted
    kept = sorted(path for path, outcome in wanted.items() if outcome == "saved")
    assert saved_paths(tmp_path, site) == kept
    assert "/private/x" not in site.paths()
    assert ("/google" in site.paths()) == (for_google == "saved")
    assert site.paths()[0] == "/robots.txt"
    assert len(site.paths()) == len(set(site.paths()))
    assert metrics["pages"] == len(site.paths()) - 1
    assert metrics["saved"] == len(kept)
    assert metrics["left"] == 0
    by_path = {line["url"].removeprefix(site.url): line for line in log(tmp_path)}
    assert by_path["/google"]["group"] == group
    assert by_path["/private/x"]["group"] == "Googlebot"
    assert by_path["/search-only"]["fetch"]
    assert not by_path["/search-only"]["train"]
    assert not by_path["/private/x"]["fetch"]
    assert by_path["/meta"]["evidence"] == "noindex"
    assert by_path["/a"]["status"] == 200
    assert by_path["/a"]["fetched"].endswith("Z")
    record = next(record for record in saved(tmp_path) if record.url.endswith("/a"))
    assert record.facts["robots_group"] == "Googlebot"
    assert record.facts["train"] is True


def test_the_log_says_where_in_the_archive_a_page_is(site, tmp_path):
    site.pages = {"/": page("/a"), "/a": page(text="Here I am.")}
    run(site, tmp_path)
    line = next(line for line in log(tmp_path) if line["url"].endswith("/a"))
    packed = (tmp_path / line["file"]).read_bytes()[line["offset"] :][: line["length"]]
    assert b"Here I am." in gzip.decompress(packed)


def test_pages_not_for_training_are_saved_on_request_and_marked(site, tmp_path):
    site.pages = {"/": page(head='<meta name="robots" content="none">')}
    run(site, tmp_path, save_untrainable=True)
    assert [record.facts["train"] for record in saved(tmp_path)] == [False]


def test_every_request_says_who_asks(site, tmp_path):
    site.pages = {"/": page("/a"), "/a": page()}
    run(site, tmp_path, product="lab-crawler")
    assert {agent for _, _, agent in site.asked} == {"lab-crawler (+me@example.org)"}


def test_a_group_for_this_crawler_counts(site, tmp_path):
    site.pages = {
        "/robots.txt": "User-agent: Applebot\nAllow: /\n\nUser-agent: lab-crawler\nDisallow: /",
        "/": page(),
    }
    run(site, tmp_path, product="lab-crawler")
    assert site.paths() == ["/robots.txt"]
    assert log(tmp_path)[0]["group"] == "lab-crawler"


def test_requests_keep_the_delay_that_the_host_asks_for(site, tmp_path):
    site.pages = {
        "/robots.txt": "User-agent: *\nCrawl-delay: 0.15",
        "/": page("/a", "/b"),
        "/a": page(),
        "/b": page(),
    }
    run(site, tmp_path, min_delay_seconds=0.02, connections=4)
    times = [when for _, when, _ in site.asked]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) == 3
    assert min(gaps) >= 0.15


def test_our_own_delay_holds_where_the_host_asks_for_less(site, tmp_path):
    site.pages = {"/": page("/a"), "/a": page()}
    run(site, tmp_path, min_delay_seconds=0.1)
    times = [when for _, when, _ in site.asked]
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.1


def test_a_host_that_asks_for_too_long_a_delay_is_left_out(site, tmp_path):
    site.pages = {"/robots.txt": "User-agent: *\nCrawl-delay: 86400", "/": page()}
    run(site, tmp_path)
    assert outcomes(tmp_path, site) == {"/": "crawl-delay too long"}
    assert site.paths() == ["/robots.txt"]


@pytest.mark.parametrize(("status", "outcome"), [(404, "saved"), (503, "robots unavailable")])
def test_a_missing_robots_txt_allows_and_a_broken_one_forbids(site, tmp_path, status, outcome):
    site.pages = {"/robots.txt": (status, {}, b"User-agent: *\nAllow: /"), "/": page()}
    run(site, tmp_path)
    assert outcomes(tmp_path, site) == {"/": outcome}


def test_robots_txt_may_be_elsewhere(site, tmp_path):
    site.pages = {
        "/robots.txt": (301, {"Location": "/real.txt"}, b""),
        "/real.txt": "User-agent: *\nDisallow: /",
        "/": page(),
    }
    run(site, tmp_path)
    assert outcomes(tmp_path, site) == {"/": "robots"}


def test_redirects_are_checked_like_any_other_address(site, make_site, tmp_path):
    other = make_site()
    other.pages = {"/": page()}
    moved = {
        name: (302, {"Location": to}, b"")
        for name, to in {
            "/out": other.url + "/",
            "/forbidden": "/private",
            "/fine": "/new",
            "/loop": "/loop",
            "/r0": "/r1",
            "/r1": "/r2",
            "/r2": "/r3",
            "/bad": "ftp://x/",
            "/new?": "/new",
        }.items()
    }
    site.pages = {
        "/robots.txt": "User-agent: *\nDisallow: /private",
        "/": page(*moved),
        "/new": page(),
        "/private": page(),
        "/r3": page(),
        **moved,
    }
    run(site, tmp_path, max_redirects=2)
    found = outcomes(tmp_path, site)
    assert found["/out"] == "redirect out of scope"
    assert found["/forbidden"] == "redirect"
    assert found["/private"] == "robots"
    assert found["/new"] == "saved"
    assert found["/loop"] == "redirect"
    assert found["/bad"] == "redirect nowhere"
    assert site.paths().count("/loop") == 1
    assert "/private" not in site.paths()
    assert other.paths() == []


def test_too_many_redirects_end(site, tmp_path):
    site.pages = {f"/r{n}": (302, {"Location": f"/r{n + 1}"}, b"") for n in range(9)}
    run(site, tmp_path, seeds=["/r0"], max_redirects=2)
    assert outcomes(tmp_path, site) == {
        "/r0": "redirect",
        "/r1": "redirect",
        "/r2": "too many redirects",
    }


def test_what_is_no_page_is_logged_and_the_rest_goes_on(site, tmp_path):
    site.pages = {
        "/": page("/gone", "/big", "/file.pdf", "/picture", "/cut", "/last"),
        "/big": page(text="x" * 200_000),
        "/file.pdf": (200, {"Content-Type": "application/pdf"}, b"%PDF-1.7" + b"x" * 10**6),
        "/picture": (200, {}, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9),
        "/cut": (200, {"Content-Encoding": "gzip"}, gzip.compress(page().encode())[:-20]),
        "/last": page(),
    }
    run(site, tmp_path, retries=0, pages=Warc(max_page_bytes=100_000))
    assert outcomes(tmp_path, site) == {
        "/": "saved",
        "/gone": "status 404",
        "/big": "too long",
        "/file.pdf": "not HTML",
        "/picture": "binary",
        "/cut": "broken encoding",
        "/last": "saved",
    }


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


def without_end(start, piece, pause=lambda: None):
    yield start
    while True:
        yield piece
        pause()


def test_hosts_that_misbehave_cost_one_page_each(site, tmp_path):
    words = page().encode()
    # 200 MB of zeros in 200 kB, and that packed once more.
    bomb = gzip.compress(bytes(200_000_000), 6)
    site.slow = {"/hang": 60}
    site.raw = {
        "/drip": lambda: without_end(
            HEAD + b"Content-Length: 999999\r\n\r\n", b"x", lambda: site.closing.wait(0.05)
        ),
        "/claims-more": lambda: [HEAD + b"Content-Length: 999\r\n\r\n" + words],
        "/claims-less": lambda: [HEAD + b"Content-Length: 40\r\n\r\n" + words],
        "/claims-nothing": lambda: [HEAD + b"\r\n" + words],
        "/claims-nonsense": lambda: [HEAD + b"Content-Length: -5\r\n\r\n" + words],
        "/huge": lambda: without_end(HEAD + b"\r\n", b"x" * 10_000),
        "/chunks": lambda: without_end(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"100\r\n" + b"x" * 256 + b"\r\n"
        ),
        "/heads": lambda: without_end(HEAD, b"X-More: and more\r\n"),
        "/line": lambda: without_end(HEAD, b"x" * 10_000),
        "/no-http": lambda: [b"220 mail.example.org ESMTP\r\n"],
        "/nothing": list,
    }
    site.pages = {
        "/hang": page(),
        "/bomb": (200, {"Content-Encoding": "gzip"}, bomb),
        "/bombs": (200, {"Content-Encoding": "gzip, gzip"}, gzip.compress(bomb)),
        "/loop": (302, {"Location": "/pool"}, b""),
        "/pool": (302, {"Location": "/loop"}, b""),
        "/last": page(),
    }
    site.pages["/"] = page(*site.raw, *site.pages)
    started = time.monotonic()
    run(site, tmp_path, timeout_seconds=1.0, retries=0, pages=Warc(max_page_bytes=10**6))
    assert time.monotonic() - started < 9
    found = outcomes(tmp_path, site)
    assert found == {
        "/": "saved",
        "/hang": "timeout",
        "/drip": "timeout",
        "/claims-more": "no connection",
        "/claims-less": "saved",
        "/claims-nothing": "saved",
        "/claims-nonsense": "saved",
        "/huge": "too long",
        "/chunks": "too long",
        "/heads": "no connection",
        "/line": "no connection",
        "/no-http": "no connection",
        "/nothing": "no connection",
        "/bomb": "too long",
        "/bombs": "too long",
        "/loop": "redirect",
        "/pool": "redirect",
        "/last": "saved",
    }
    texts = {record.url.removeprefix(site.url): record.text for record in saved(tmp_path)}
    assert texts["/claims-less"] == page()[:40]
    assert texts["/claims-nothing"] == page()


def test_compressed_pages_are_saved_plain(site, tmp_path):
    site.pages = {"/": (200, {"Content-Encoding": "gzip"}, gzip.compress(page().encode()))}
    run(site, tmp_path)
    assert saved(tmp_path)[0].text == page()


def test_a_failure_that_passes_is_tried_again_and_one_that_does_not_is_logged(site, tmp_path):
    site.pages = {"/": page("/twice", "/always"), "/twice": page(), "/always": page()}
    site.failures = {"/twice": [503, 500], "/always": [500] * 9}
    run(site, tmp_path, retries=2)
    assert outcomes(tmp_path, site) == {"/": "saved", "/twice": "saved", "/always": "status 500"}
    assert Counter(site.paths())["/twice"] == 3
    assert Counter(site.paths())["/always"] == 3


def test_a_host_that_wants_to_be_left_alone_for_long_is(site, tmp_path):
    site.pages = {"/": (429, {"Retry-After": "99999"}, b"")}
    run(site, tmp_path)
    assert site.paths() == ["/robots.txt", "/"]


def test_a_host_that_is_not_there_is_logged(tmp_path, make_site):
    gone = make_site()
    gone.server.server_close()
    run(gone, tmp_path, retries=1)
    assert outcomes(tmp_path, gone) == {"/": "robots unavailable"}


def test_depth_ends_a_crawl(site, tmp_path):
    site.pages = chain(9)
    assert run(site, tmp_path, max_depth=2)["left"] == 0
    assert saved_paths(tmp_path, site) == ["/", "/1", "/2"]


@pytest.mark.parametrize("limit", ["max_pages", "max_pages_per_host"])
def test_a_page_limit_ends_a_crawl_and_a_higher_one_goes_on(site, tmp_path, limit):
    site.pages = chain(9)
    assert run(site, tmp_path, max_depth=20, **{limit: 3})["left"] == 1
    assert saved_paths(tmp_path, site) == ["/", "/1", "/2"]
    run(site, tmp_path, max_depth=20, **{limit: 5})
    assert saved_paths(tmp_path, site) == ["/", "/1", "/2", "/3", "/4"]
    assert max(Counter(site.paths()).values()) == 1


def test_a_byte_limit_ends_a_crawl(site, tmp_path):
    site.pages = chain(9)
    assert run(site, tmp_path, max_bytes=150)["pages"] == 2


def test_folders_and_anywhere_are_scopes(site, make_site, tmp_path):
    other = make_site()
    other.pages = {"/": page()}
    site.pages = {"/d/": page("/d/a", "/e", other.url + "/"), "/d/a": page(), "/e": page()}
    run(site, tmp_path / "folders", seeds=["/d/"], scope="folders")
    assert saved_paths(tmp_path / "folders", site) == ["/d/", "/d/a"]
    assert other.paths() == []
    run(site, tmp_path / "anywhere", seeds=["/d/"], scope="anywhere", retries=0)
    found = {line["url"]: line["outcome"] for line in log(tmp_path / "anywhere")}
    # A page of the wide web must not lead the crawler into the network that it runs in.
    assert found.pop(other.url + "/") == "robots unavailable"
    assert other.paths() == []
    assert set(found.values()) == {"saved"}


def test_sitemaps_are_read_on_request(site, tmp_path):
    site.pages = {
        "/robots.txt": f"Sitemap: {site.url}/index.xml",
        "/": page(),
        "/index.xml": f"<sitemapindex><sitemap><loc>{site.url}/map.xml.gz</loc></sitemap>"
        "</sitemapindex>",
        "/map.xml.gz": (
            200,
            {"Content-Type": "application/gzip"},
            gzip.compress(f"<urlset><url><loc> {site.url}/a?x=1&amp;y=2 </loc></url>".encode()),
        ),
        "/a?x=1&y=2": page(),
    }
    run(site, tmp_path / "without")
    assert saved_paths(tmp_path / "without", site) == ["/"]
    run(site, tmp_path / "with", sitemaps=True)
    assert saved_paths(tmp_path / "with", site) == ["/", "/a?x=1&y=2"]


def test_archives_are_followed_by_the_next(site, tmp_path):
    site.pages = chain(4)
    run(site, tmp_path, warc_bytes=700)
    assert len(list(tmp_path.glob("pages-*.warc.gz"))) > 1
    assert saved_paths(tmp_path, site) == ["/", "/1", "/2", "/3"]


def test_an_error_of_ours_comes_out_as_itself(site, tmp_path, monkeypatch):
    site.pages = {"/": page()}
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        run(site, tmp_path)


def test_a_crawl_runs_outside_the_main_thread(site, tmp_path):
    site.pages = {"/": page()}
    thread = threading.Thread(target=run, args=[site, tmp_path])
    thread.start()
    thread.join(10)
    assert saved_paths(tmp_path, site) == ["/"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "contact"),
        ({"contact": "me"}, "no mail address"),
        ({"contact": "me@example.org\r\nX-Header: 1"}, "no mail address"),
        ({"product": "Mozilla"}, "somebody else's"),
        ({"product": "my crawler"}, "letters"),
        ({"groups": ("Applebot/1.0",)}, "letters"),
        ({"min_delay_seconds": 500.0}, "must be at least"),
        ({"robots_seconds": 86_401}, "86400"),
    ],
)
def test_settings_that_are_not_polite_or_honest_are_refused(settings, message):
    contact = {"contact": "https://example.org/crawler"} if settings else {}
    with pytest.raises(ValidationError, match=message):
        Crawl(**(contact | settings))


def test_every_setting_is_documented():
    for section in (Crawl, Warc):
        assert all(field.description for field in section.model_fields.values())


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["https://example.org"], "contact", "web page of who answers"),
        (["example.org", "--set", "contact=me@example.org"], "no web address", "'https://"),
        (["https://example.org", "--set", "contact=me"], "no mail address", ""),
    ],
)
def test_a_users_mistake_is_told_in_two_lines(tmp_path, capsys, arguments, message, hint):
    from afm_cli import main

    assert main(["data", "crawl", "--out", str(tmp_path / "out"), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[0]
    assert hint in "".join(lines[1:])
    assert len(lines) <= 2
    assert not (tmp_path / "out").exists()
