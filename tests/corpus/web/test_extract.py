"""Main-content extraction: what of a page's structure stays, and that no page breaks it."""

import pickle
import time

import pytest

pytest.importorskip("trafilatura")
pytest.importorskip("resiliparse")

from lxml import html

from afm_mlx.corpus.record import Drop, Record
from afm_mlx.corpus.web.extract import Extractor, vote, without_last_headings
from afm_mlx.corpus.web.markdown import Block
from afm_mlx.corpus.web.words import Words
from afm_mlx.settings.extraction import Extract, ExtractMode

BALANCED = Extractor(Extract())
READER = Extractor(Extract(mode=ExtractMode.READER))
FAST = Extractor(Extract(mode=ExtractMode.FAST))
EVERY = pytest.mark.parametrize("extractor", [READER, BALANCED, FAST], ids=list(ExtractMode))

SENTENCES = [
    "The harbour was built in the year when the river changed its bed, and nobody complained.",
    "Ships of every size came in the morning, unloaded grain, and left again before the night.",
    "A keeper of the lighthouse wrote down their names, which is why we know so many of them.",
    "In winter the water froze, so that people walked across it to the island with the church.",
    "Later on, a bridge of iron was made, and the ferry that had crossed there was sold for wood.",
    "Today the old quay is a garden, where children play between the cranes that were left behind.",
]


def paragraph(number: int) -> str:
    """About 60 words, different for each number."""
    chosen = [SENTENCES[(number + step) % 6].replace("The ", f"The {number} ") for step in range(4)]
    return f"<p>Part {number} of the story. {' '.join(chosen)}</p>"


STORY = "".join(paragraph(number) for number in range(6))
MENU = "".join(
    f'<li><a href="/{name}">{name} section</a></li>' for name in ("home", "shop", "jobs")
)


def page(body: str, head: str = "") -> str:
    """A page with the frame that sites have."""
    return (
        f"<html lang='en-GB'><head><title>Harbour</title>{head}</head><body>"
        f"<nav><ul>{MENU}</ul></nav><article>{body}</article>"
        f"<footer><a href='/x'>Imprint</a> <a href='/y'>Privacy</a></footer></body></html>"
    )


def text_of(found: Record | Drop) -> str:
    assert isinstance(found, Record), found
    return found.text


def test_extraction_keeps_the_structure_and_leaves_out_the_frame():
    parts = (
        "<h2>Sizes</h2><ul><li>The small ships of the north carried wool and salt</li>"
        "<li>The large ships of the south carried wine, oil and grain</li></ul>"
        "<table><caption>Lengths of the ships in the harbour</caption>"
        "<tr><th>Ship</th><th>Length in metres</th></tr>"
        "<tr><td>Swallow of the sea</td><td>31 and a half</td></tr></table>"
        "<pre>for ship in harbour:\n    print(ship)</pre>"
        '<p>Its area is <span><script type="math/tex">\\pi r^2</script></span> in all, as the '
        "builders of the harbour had written in the plan that they made.</p>"
    )
    text = text_of(BALANCED(Record("a", page(f"<h1>Harbour</h1>{STORY}{parts}{paragraph(7)}"))))
    assert "## Sizes" in text
    assert "- The small ships of the north carried wool and salt\n- The large" in text
    assert "\n\nLengths of the ships in the harbour\n\n| Ship | Length in metres |\n|---|" in text
    assert "| Swallow of the sea | 31 and a half |" in text
    assert "```\nfor ship in harbour:\n    print(ship)\n```" in text
    assert r"$\pi r^2$" in text
    assert "shop section" not in text
    assert "Imprint" not in text


@EVERY
def test_each_mode_finds_the_story(extractor):
    text = text_of(extractor(Record("a", page(STORY))))
    assert Words(text).covers(Words("\n".join(SENTENCES)).grams) > 0.8
    assert "jobs section" not in text


def test_facts_are_what_the_page_says_and_the_record_stays():
    head = '<meta property="article:published_time" content="2024-05-06T07:08:09Z">'
    record = Record("a", page(STORY, head), "web", url="https://example.org/", facts={"seen": 1})
    found = BALANCED(record)
    assert isinstance(found, Record)
    assert found.facts == {
        "seen": 1,
        "title": "Harbour",
        "date": "2024-05-06",
        "language_hint": "en",
        "extractor": "vote",
    }
    assert (found.id, found.source, found.url) == ("a", "web", "https://example.org/")


def test_reader_output_is_kept_only_if_long_and_agreed_on():
    def extractor_of(**settings):
        found = Extractor(Extract(mode=ExtractMode.READER, **settings))(Record("a", page(STORY)))
        assert isinstance(found, Record)
        return found.facts["extractor"]

    assert extractor_of() == "reader"
    assert extractor_of(least_reader_words=10_000) == "fallback"
    # A list of sayings: each too short for Boilerpipe, which keeps next to nothing.
    sayings = "".join(f"<p>Wise, yes, {number}</p>" for number in range(200))
    found = READER(Record("a", page(f"<div>{sayings}</div>")))
    assert isinstance(found, Drop) or found.facts["extractor"] == "fallback"


def test_a_block_stays_with_enough_votes():
    blocks = [Block("text", "one two three four five"), Block("heading", "# six")]
    voters = [Words("one two three four five six"), Words("zero six"), Words("")]
    assert vote(blocks, voters, votes=1, overlap=0.5) == blocks
    assert vote(blocks, voters, votes=2, overlap=0.5) == blocks[1:]
    assert vote(blocks, voters, votes=3, overlap=0.5) == []


def test_headings_at_the_end_go():
    blocks = [Block("heading", "# a"), Block("text", "b"), Block("heading", "# c")]
    assert without_last_headings(blocks) == blocks[:2]


def test_pages_below_the_least_words_are_dropped_with_the_count():
    found = BALANCED(Record("a", page("<p>Just a few words here.</p>"), "web"))
    assert isinstance(found, Drop)
    assert (found.id, found.source, found.rule) == ("a", "web", "extract.too-short")
    assert "below 50" in found.evidence


def test_text_without_spaces_between_words_is_not_too_short():
    chinese = "".join(
        f"<p>港口建于河流改道的那一年,没有人抱怨。第{n}艘船在早晨到来。</p>" for n in range(9)
    )
    assert "港口建于河流改道的那一年" in text_of(BALANCED(Record("a", page(chinese))))


@EVERY
@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("<div>" * 50_000 + STORY, "extract.too-deep"),
        ("<table><tr><td><b>" * 20_000 + STORY + "</table>" * 20_000, "extract.too-deep"),
        ("x" * 200_000_000, "extract.too-large"),
        ("<div>" * 200 + "<p>word</p>" * 12_000, "extract.too-deep"),
        ("<br>" * 60_000, "extract.too-large"),
        ("", "extract.failed"),
        (" \n\t", "extract.failed"),
        ("\0" * 100, "extract.failed"),
        ("<!-- nothing -->", "extract.failed"),
        ("<" * 10_000, "extract.too-short"),
        ("".join(map(chr, range(256))) * 100, "extract.failed"),
        ("%PDF-1.7\n" + "\x93\x8c\xff" * 10_000, "extract.failed"),
    ],
    ids=[
        "deep",
        "deep tables",
        "200 MB",
        "wide and deep",
        "elements",
        "empty",
        "blank",
        "nul",
        "comment",
        "<<<",
        "binary",
        "pdf",
    ],
)
def test_pages_that_cannot_be_used_are_dropped(extractor, text, rule):
    found = extractor(Record("a", text))
    assert isinstance(found, Drop)
    assert found.rule == rule
    assert len(found.evidence) <= 200


@EVERY
@pytest.mark.parametrize(
    "text",
    [
        page(STORY + "<p>\ud800 half a pair &#xD800; &#0; \0 end</p>" + STORY),
        '<?xml version="1.0" encoding="utf-16"?>' + page(STORY),
        page(STORY + "<table><tr><td colspan=999999999>a<td rowspan=99999999>b</table>"),
        page("<math>" + "<msup>" * 100 + STORY) + STORY,
        page(STORY)[:-200] + "<a href='",
        page("<ul>" * 60 + STORY),
    ],
    ids=["surrogates", "declares utf-16", "spans", "math never closed", "cut off", "lists"],
)
def test_odd_pages_never_raise_and_give_encodable_text(extractor, text):
    found = extractor(Record("a", text))
    assert found.to_json().encode()
    assert "\0" not in found.to_json()


@EVERY
@pytest.mark.parametrize(
    "text",
    [
        "<div>" + "text <p>words and words</p>" * 20_000,
        "<div>" + "<div>text <b>b</b></div> tail " * 12_000,
        ("<math>" * 200 + "<mi>x</mi>" + "</math>" * 200) * 120,
        f"<p>{'words of it ' * 200_000}</p>" + "".join(f"<p>a{n} b{n}</p>" for n in range(20_000)),
    ],
    ids=["text between", "tails", "math in math", "short blocks"],
)
@pytest.mark.slow
def test_time_does_not_grow_with_the_square_of_a_page(extractor, text):
    started = time.process_time()
    extractor(Record("a", text))
    assert time.process_time() - started < 20


def test_a_defect_of_a_library_drops_the_page(monkeypatch):
    def broken(*_):
        raise RecursionError("too deep for me")

    monkeypatch.setattr("afm_mlx.corpus.web.extract.main_content", broken)
    found = BALANCED(Record("a", page(STORY)))
    assert isinstance(found, Drop)
    assert (found.rule, found.evidence) == ("extract.failed", "RecursionError: too deep for me")


def test_documentation_keeps_what_article_rules_leave_out(monkeypatch):
    # Article rules that find only the last part of a page of documentation.
    last = Block("text", html.fromstring(paragraph(5)).text_content())
    monkeypatch.setattr(
        "afm_mlx.corpus.web.extract.trafilatura_blocks", lambda tree, precise=False: [last]
    )
    monkeypatch.setattr("afm_mlx.corpus.web.extract.reader_blocks", lambda tree: [last])
    body = f"<h1>Manual</h1>{STORY}<pre>make harbour\n  install</pre>{paragraph(5)}"
    found = BALANCED(Record("a", page(body)))
    assert isinstance(found, Record)
    assert found.facts["extractor"] == "documentation"
    assert "```\nmake harbour\n  install\n```" in found.text
    assert "# Manual" in found.text


def test_the_same_page_gives_the_same_text_also_after_pickling():
    again = pickle.loads(pickle.dumps(BALANCED))
    record = Record("a", page(STORY))
    assert again(record) == BALANCED(record) == BALANCED(record)


def test_extraction_changes_nothing_in_the_record_it_is_given():
    record = Record("a", page(STORY), facts={"seen": 1})
    BALANCED(record)
    assert record == Record("a", page(STORY), facts={"seen": 1})
