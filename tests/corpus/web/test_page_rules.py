import time

import pytest

from afm_mlx.corpus.web.page_rules import page_rules

AGENTS = ("Applebot", "Googlebot", "Applebot-Extended")


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
    rules = page_rules(page, headers, agents=AGENTS)
    assert (rules.train, rules.follow) == (train, follow)
    assert bool(rules.evidence) == (not train or not follow)


@pytest.mark.parametrize("page", ["<meta " * 100_000, "<meta name='" * 50_000, "<" * 600_000])
def test_a_hostile_page_takes_no_time(page):
    started = time.perf_counter()
    page_rules(page, [",:" * 10_000], agents=AGENTS)
    assert time.perf_counter() - started < 2
