import pytest

pytest.importorskip("resiliparse")

from afm_mlx.corpus.crawl.contents import page_links


def test_links_are_read_as_a_browser_does():
    html = (
        '<base href="/d/"><a href="a">1</a><a href="../b#x">2</a><area href="//other.example/c">'
        '<a href="a">again</a><a href="n" rel="ugc NOFOLLOW">3</a><a name="no">4</a>'
        '<!-- <a href="hidden">5</a> --><a href="mailto:x@y.z">6</a>'
    )
    assert page_links(html, "https://example.org/x/y") == [
        "https://example.org/d/a",
        "https://example.org/b",
        "https://other.example/c",
    ]


def test_a_page_nested_a_hundred_thousand_deep_has_links():
    assert page_links("<div>" * 100_000 + '<a href="/a">', "http://h/") == ["http://h/a"]
