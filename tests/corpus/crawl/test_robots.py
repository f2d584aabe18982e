import pytest

pytest.importorskip("protego")

from afm_mlx.corpus.crawl.robots import MAX_ROBOTS_BYTES, Decision, Robots, chains
from afm_mlx.settings.web import APPLEBOT_GROUPS, APPLEBOT_TRAINING_GROUPS, RobotsRule

URL = "https://example.org/a/page.html?q=1"
EXACT = chains(RobotsRule.APPLEBOT, "mine", APPLEBOT_GROUPS)
POLITE = chains(RobotsRule.STRICTEST, "mine", APPLEBOT_GROUPS)

# Who decides. Left: what each group of a robots.txt says of a page: + allows, - forbids, . the file
# has no such group. Right: may it be fetched, may it be trained on, and which group said so.
POLICY = """
mine  Applebot  Googlebot  *  Applebot-Extended | applebot           | strictest
.     .         .          .  .                 | train .            | train .
.     .         .          +  .                 | train *            | train *
.     .         .          -  .                 | no    *            | no    *
.     .         +          .  .                 | train Googlebot    | train Googlebot
.     .         -          .  .                 | no    Googlebot    | no    Googlebot
.     .         -          +  .                 | no    Googlebot    | no    Googlebot
.     .         +          -  .                 | train Googlebot    | no    *
.     +         .          -  .                 | train Applebot     | no    *
.     +         -          .  .                 | train Applebot     | train Applebot
.     +         -          -  .                 | train Applebot     | no    *
.     -         +          +  .                 | no    Applebot     | no    Applebot
.     .         .          .  -                 | fetch .            | fetch .
.     .         .          +  -                 | fetch *            | fetch *
.     .         +          .  -                 | fetch Googlebot    | fetch Googlebot
.     +         .          .  -                 | fetch Applebot     | fetch Applebot
.     .         .          -  +                 | no    *            | no    *
.     -         .          .  +                 | no    Applebot     | no    Applebot
.     +         .          -  +                 | train Applebot     | no    *
-     .         .          .  .                 | no    mine         | no    mine
-     +         +          +  +                 | no    mine         | no    mine
+     .         .          -  .                 | train mine         | no    *
+     .         -          .  .                 | train mine         | no    Googlebot
+     -         .          .  .                 | train mine         | no    Applebot
+     .         .          .  -                 | fetch mine         | fetch mine
+     +         +          +  +                 | train mine         | train mine
"""


def policy_rows():
    head, *rows = POLICY.strip().splitlines()
    names = head.partition("|")[0].split()
    for row in rows:
        said, exact, polite = row.split("|")
        yield pytest.param(names, said.split(), exact.split(), polite.split(), id=row)


@pytest.mark.parametrize(("names", "said", "exact", "polite"), list(policy_rows()))
@pytest.mark.parametrize("backwards", [False, True])
def test_who_decides(names, said, exact, polite, backwards):
    word = {"+": "Allow", "-": "Disallow"}
    groups = [
        f"User-agent: {name}\n{word[sign]}: /a\n"
        for name, sign in zip(names, said, strict=True)
        if sign != "."
    ]
    robots = Robots("\n".join(groups[::-1] if backwards else groups))
    for rule, (answer, group) in ((EXACT, exact), (POLITE, polite)):
        wanted = Decision(answer != "no", answer == "train", group.strip("."))
        assert robots.decide(URL, rule, APPLEBOT_TRAINING_GROUPS) == wanted


# How a file is read, by Applebot's rule: robots.txt, whether to fetch, to train, who decided.
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


# Where the strictest rule says another thing: `*` shuts out everyone, and it counts.
STRICTER = {"own group before *", "Googlebot when there is no own group"}


@pytest.mark.parametrize("name", CASES)
def test_how_a_file_is_read(name):
    text, fetch, train, group = CASES[name]
    robots = Robots.of_response(200, text.encode())
    exact = Decision(fetch, train, group)
    assert robots.decide(URL, EXACT, APPLEBOT_TRAINING_GROUPS) == exact
    polite = Decision(False, False, "*") if name in STRICTER else exact
    assert robots.decide(URL, POLITE, APPLEBOT_TRAINING_GROUPS) == polite


@pytest.mark.parametrize(
    ("status", "fetch"),
    [
        *((status, True) for status in (401, 403, 404, 410)),
        *((status, False) for status in (304, 429, 500, 503, None)),
    ],
)
def test_an_absent_file_allows_and_a_broken_host_forbids(status, fetch):
    rules = Robots.of_response(status, b"User-agent: *\nDisallow: /nothing")
    assert rules.decide(URL, POLITE, ()) == Decision(fetch, fetch, "")


def test_only_the_first_500_kib_count_and_no_cut_line():
    filler = b"# " + b"x" * 97 + b"\n"
    head = b"User-agent: *\nDisallow: /b\n"
    lines = (MAX_ROBOTS_BYTES - len(head)) // len(filler)
    body = head + filler * lines + b"Disallow: /a/page.html/and-a-tail-that-is-cut" + b"x" * 200
    assert len(body) > MAX_ROBOTS_BYTES
    assert Robots.of_response(200, body).decide(URL, POLITE, ()).fetch
    assert (
        not Robots.of_response(200, head + b"Disallow: /a\n" + filler * lines)
        .decide(URL, POLITE, ())
        .fetch
    )


def test_bytes_that_are_no_text_are_no_rules():
    assert Robots.of_response(200, bytes(range(256)) * 100).decide(URL, POLITE, ()).fetch


def test_the_delay_is_the_longest_of_the_deciding_groups():
    rules = Robots(
        "User-agent: *\nCrawl-delay: 9\n\nUser-agent: Googlebot\nCrawl-delay: 0.5\n"
        "Request-rate: 1/4"
    )
    assert rules.delay_seconds(EXACT) == 4.0
    assert rules.delay_seconds(POLITE) == 9.0
    assert rules.delay_seconds([("Applebot", "*")]) == 9.0


@pytest.mark.parametrize("said", ["soon", "-5", "nan", "", "1 2"])
def test_a_delay_that_is_none_is_none(said):
    assert Robots("").delay_seconds(POLITE) == 0.0
    rules = f"User-agent: *\nCrawl-delay: {said}\nRequest-rate: 0/0\nRequest-rate: {said}"
    assert Robots(rules).delay_seconds(POLITE) == 0.0
