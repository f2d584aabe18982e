import time

import pytest

pytest.importorskip("protego")

from afm_mlx.corpus.web.robots import MAX_ROBOTS_BYTES, Decision, Robots, decide, page_rules

URL = "https://example.org/a/page.html?q=1"


# The table of cases: robots.txt, whether to fetch, whether to train, the group that decided.
CASES = {
    "no rules": ("", True, True, ""),
    "everyone is shut out": ("User-agent: *\nDisallow: /", False, False, "*"),
    "everyone, elsewhere": ("User-agent: *\nDisallow: /b", True, True, "*"),
    "an empty rule allows": ("User-agent: *\nDisallow:", True, True, "*"),
    "another bot is shut out": ("User-agent: GPTBot\nDisallow: /", True, True, ""),
    "own group before *": (
        "User-agent: *\nDisallow: /\n\nUser-agent: Applebot\nAllow: /",
        True,
        True,
        "Applebot",
    ),
    "own group shuts out": (
        "User-agent: *\nAllow: /\n\nUser-agent: Applebot\nDisallow: /",
        False,
        False,
        "Applebot",
    ),
    "own group before Googlebot": (
        "User-agent: Googlebot\nDisallow: /\n\nUser-agent: Applebot\nDisallow: /b",
        True,
        True,
        "Applebot",
    ),
    "Googlebot when there is no own group": (
        "User-agent: *\nDisallow: /\n\nUser-agent: Googlebot\nDisallow: /b",
        True,
        True,
        "Googlebot",
    ),
    "Googlebot's disallow when there is no own group": (
        "User-agent: *\nAllow: /\n\nUser-agent: Googlebot\nDisallow: /a",
        False,
        False,
        "Googlebot",
    ),
    "Googlebot-News is not Googlebot": (
        "User-agent: Googlebot-News\nDisallow: /\n\nUser-agent: *\nDisallow: /b",
        True,
        True,
        "*",
    ),
    "a shorter name is not our group": ("User-agent: Apple\nDisallow: /", True, True, ""),
    "names in any case": ("USER-AGENT: aPPLEbOT\ndisallow: /", False, False, "Applebot"),
    "names with a version": ("User-agent: Applebot/0.1\nDisallow: /", False, False, "Applebot"),
    "one group for several": (
        "User-agent: bingbot\nUser-agent: Applebot # Apple\nDisallow: /a",
        False,
        False,
        "Applebot",
    ),
    "a group in two pieces": (
        "User-agent: Applebot\nDisallow: /b\n\nUser-agent: x\nAllow: /\n\n"
        "User-agent: Applebot\nDisallow: /a",
        False,
        False,
        "Applebot",
    ),
    "training alone is forbidden": (
        "User-agent: Applebot-Extended\nDisallow: /",
        True,
        False,
        "",
    ),
    "training is forbidden elsewhere": (
        "User-agent: Applebot-Extended\nDisallow: /private/",
        True,
        True,
        "",
    ),
    "training is allowed, fetching not": (
        "User-agent: Applebot\nDisallow: /\n\nUser-agent: Applebot-Extended\nAllow: /",
        False,
        False,
        "Applebot",
    ),
    "Extended does not decide about fetching": (
        "User-agent: Applebot-Extended\nDisallow: /\n\nUser-agent: *\nDisallow: /b",
        True,
        False,
        "*",
    ),
    "the longest match wins": (
        "User-agent: *\nDisallow: /a/\nAllow: /a/page",
        True,
        True,
        "*",
    ),
    "the longest match wins, in any order": (
        "User-agent: *\nAllow: /a\nDisallow: /a/page",
        False,
        False,
        "*",
    ),
    "of equal matches the allowing one wins": (
        "User-agent: *\nDisallow: /a/\nAllow: /a/",
        True,
        True,
        "*",
    ),
    "a wildcard": ("User-agent: *\nDisallow: /*.html", False, False, "*"),
    "an end": ("User-agent: *\nDisallow: /*.html$", True, True, "*"),
    "the query counts": ("User-agent: *\nDisallow: /*?q=", False, False, "*"),
    "paths are case-sensitive": ("User-agent: *\nDisallow: /A/", True, True, "*"),
    "a rule before any group is void": ("Disallow: /", True, True, ""),
    "a comment and Windows lines": (
        "# hello\r\nUser-agent: * # all\r\nDisallow: /a # private\r\n",
        False,
        False,
        "*",
    ),
    "a byte order mark": ("\ufeffUser-agent: *\nDisallow: /", False, False, "*"),
    "a web page in its place": ("<html><body>Not found</body></html>", True, True, ""),
}


@pytest.mark.parametrize(("text", "fetch", "train", "group"), CASES.values(), ids=CASES)
def test_table_of_cases(text, fetch, train, group):
    wanted = Decision(fetch, train, group)
    assert Robots.of_response(200, text.encode()).decide(URL) == wanted
    if not text.startswith("\ufeff"):
        assert decide(text, URL) == wanted


@pytest.mark.parametrize(
    ("status", "fetch"),
    [
        *((status, True) for status in (401, 403, 404, 410)),
        *((status, False) for status in (304, 429, 500, 503, None)),
    ],
)
def test_an_absent_file_allows_and_a_broken_host_forbids(status, fetch):
    rules = Robots.of_response(status, b"User-agent: *\nDisallow: /nothing")
    assert rules.decide(URL) == Decision(fetch, fetch, "")


def test_only_the_first_500_kib_count_and_no_cut_line():
    filler = b"# " + b"x" * 97 + b"\n"
    head = b"User-agent: *\nDisallow: /b\n"
    lines = (MAX_ROBOTS_BYTES - len(head)) // len(filler)
    body = head + filler * lines + b"Disallow: /a/page.html/and-a-tail-that-is-cut" + b"x" * 200
    assert len(body) > MAX_ROBOTS_BYTES
    assert Robots.of_response(200, body).decide(URL).fetch
    assert not Robots.of_response(200, head + b"Disallow: /a\n" + filler * lines).decide(URL).fetch


def test_bytes_that_are_no_text_are_no_rules():
    assert Robots.of_response(200, bytes(range(256)) * 100).decide(URL).fetch


def test_the_crawlers_own_group_comes_first():
    text = "User-agent: Applebot\nAllow: /\n\nUser-agent: mine\nDisallow: /a"
    assert Robots(text).decide(URL, groups=("mine", "Applebot")) == Decision(False, False, "mine")


def test_everyones_rules_can_be_obeyed_too():
    rules = Robots("User-agent: *\nDisallow: /a\n\nUser-agent: Googlebot\nAllow: /")
    assert rules.decide(URL).fetch
    assert rules.decide(URL, obey_everyone=True) == Decision(False, False, "Googlebot")


def test_the_delay_is_the_deciding_groups():
    rules = Robots(
        "User-agent: *\nCrawl-delay: 9\n\nUser-agent: Googlebot\nCrawl-delay: 0.5\n"
        "Request-rate: 1/4"
    )
    assert rules.delay_seconds() == 4.0
    assert rules.delay_seconds(("Applebot",)) == 9.0
    assert Robots("").delay_seconds() == 0.0
    assert Robots("User-agent: *\nCrawl-delay: soon").delay_seconds() == 0.0


@pytest.mark.parametrize(
    ("page", "headers", "train", "follow"),
    [
        ("<p>hello", [], True, True),
        ('<meta name="robots" content="noindex">', [], False, True),
        ("<META NAME=ROBOTS CONTENT='NoIndex, NoFollow'>", [], False, False),
        ('<meta content="none" name="robots"/>', [], False, False),
        ('<meta name="robots" content="noai, noimageai">', [], False, True),
        ('<meta name="applebot" content="noindex">', [], False, True),
        ('<meta name="otherbot" content="noindex">', [], True, True),
        ('<meta name="robots" content="index, follow">', [], True, True),
        ('<meta name="description" content="noindex">', [], True, True),
        ("<p>hello", ["noindex"], False, True),
        ("<p>hello", ["index", "nofollow"], True, False),
        ("<p>hello", ["otherbot: noindex, nofollow"], True, True),
        ("<p>hello", ["otherbot: noindex, Applebot: none"], False, False),
        ("<p>hello", ["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], False, True),
    ],
)
def test_a_pages_own_rules(page, headers, train, follow):
    rules = page_rules(page, headers)
    assert (rules.train, rules.follow) == (train, follow)
    assert bool(rules.evidence) == (not train or not follow)


@pytest.mark.parametrize("page", ["<meta " * 100_000, "<meta name='" * 50_000, "<" * 600_000])
def test_a_hostile_page_takes_no_time(page):
    started = time.perf_counter()
    page_rules(page, [",:" * 10_000])
    assert time.perf_counter() - started < 2
