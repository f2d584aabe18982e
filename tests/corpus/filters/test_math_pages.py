"""Which pages are taken for mathematics."""

from __future__ import annotations

import gzip
import pickle

import pytest

from afm_mlx.corpus.filters.math_pages import (
    LATEX_COMMANDS,
    TAGS,
    UNICODE_SYMBOLS,
    MathPageFilter,
    count_symbols,
    domains_of,
    find_tags,
    read_domains,
)
from afm_mlx.corpus.filters.quality import train_classifier
from afm_mlx.corpus.record import Drop, Record
from afm_mlx.errors import DataError
from afm_mlx.settings.quality import MathPages, Quality

PROOF = (
    "For every \u03b5 there is a \u03b4: \u2200x \u2208 \u211d, |x \u2212 a| < \u03b4 \u21d2 "
    "|f(x) \u2212 f(a)| < \u03b5, so \u222b f \u2264 \u2211 f(a)."
)
LATEX = r"Then $\frac{a}{b} \leq \sqrt{\alpha^2 + \beta^2}$ and $\sum_i x_i \in \mathbb{R}$."
NEWS = "The minister said on Monday that prices had risen by 3 % \u2212 more than expected. " * 5


def test_the_lists_have_about_the_published_sizes():
    assert 40 <= len(set(TAGS)) == len(TAGS) <= 45
    assert 330 <= len(UNICODE_SYMBOLS) + len(LATEX_COMMANDS) <= 400
    assert all(tag == tag.lower() for tag in TAGS)


@pytest.mark.parametrize(
    "page",
    [
        "<p><math xmlns='http://www.w3.org/1998/Math/MathML'><mi>x</mi></math></p>",
        '<script src="https://cdn.example/npm/MathJax@3/es5/tex-mml-chtml.js"></script>',
        '<span class="katex-display"><span class="katex-html">x</span></span>',
        '<img class="mwe-math-fallback-image-inline" alt="x">',
        '<script type="math/tex">x^2</script>',
        '<img src="https://latex.codecogs.com/svg.image?x">',
        "Let \\begin{equation*} x = 1 \\end{equation*}.",
    ],
)
def test_pages_with_math_markup_are_found_by_tags(page):
    assert find_tags(page)
    assert MathPageFilter(MathPages())(Record("1", page)).facts["math"]["is_math"]


@pytest.mark.parametrize("text", [PROOF, LATEX])
def test_texts_with_many_symbols_are_found_without_tags(text):
    fact = MathPageFilter(MathPages())(Record("1", text)).facts["math"]
    assert fact["is_math"]
    assert not fact["tags"]
    assert fact["symbols"] >= 5


@pytest.mark.parametrize(
    "text",
    [
        NEWS,
        "",
        "\u03a4\u03bf \u03c6\u03c9\u03c2 \u03c4\u03b7\u03c2 \u03b1\u03c5\u03b3\u03ae\u03c2 " * 20,
        "\U0001d4d1\U0001d4ee\U0001d4fc\U0001d4fd \U0001d4f9\U0001d4fb\U0001d4f2\U0001d4ec",
        r"C:\log\max\times\temp\sin copied to D:\bin\dim",
        "Rated \u221e by \u221e readers; \u221e",
        NEWS * 20 + PROOF[:60],
    ],
)
def test_other_texts_are_not_mathematics(text):
    assert not MathPageFilter(MathPages())(Record("1", text)).facts["math"]["is_math"]
    dropped = MathPageFilter(MathPages(drop=True))(Record("1", text))
    assert isinstance(dropped, Drop)
    assert dropped.rule == "math.not-math"
    assert "of 5 symbols" in dropped.evidence


def test_symbols_are_counted_by_kind_and_share():
    assert count_symbols(r"\alpha \alpha \foo \u2264" + "\u2264" * 2) == (2, 1000 * 4 / 27)
    assert count_symbols("") == (0, 0)


def test_tags_found_before_extraction_count_after_it():
    step = MathPageFilter(MathPages(drop=False))
    page = step(Record("1", "<p>Let <math><mi>x</mi></math> be one.</p>"))
    text = Record("1", "Let x be one.", facts=page.facts)
    decided = MathPageFilter(MathPages(drop=True))(text)
    assert isinstance(decided, Record)
    assert decided.facts["math"]["tags"] == page.facts["math"]["tags"]


def test_listed_domains_count_with_their_subdomains(tmp_path):
    path = tmp_path / "domains.txt"
    path.write_text("# by hand\nMath.Example.org  # a forum\n\n.proofs.example\n")
    assert read_domains(path) == {"math.example.org", "proofs.example"}
    step = MathPageFilter(MathPages(domains=str(path), drop=True))
    for url in ("https://math.example.org/x", "http://a.math.example.org:80", "//proofs.example"):
        assert isinstance(step(Record("1", NEWS, url=url)), Record), url
    for url in ("https://example.org/", "https://xmath.example.org", "http://[broken", "", "org"):
        assert isinstance(step(Record("1", NEWS, url=url)), Drop), url
    with pytest.raises(DataError, match="cannot be read"):
        MathPageFilter(MathPages(domains=str(tmp_path / "absent")))


def test_domains_above_a_host_are_listed_from_the_most_specific():
    assert list(domains_of("https://a.B.org/x")) == ["a.b.org", "b.org", "org"]
    assert list(domains_of("no address")) == []


def test_a_classifier_may_refuse_what_tags_and_symbols_found(tmp_path):
    spam = "cheap homework answers \u2211 \u222b \u221e \u2264 \u2265 click here now "
    graded = [(f"{PROOF} case {n}", 1.0, f"a{n}") for n in range(60)]
    graded += [(f"{spam} offer {n}", 0.0, f"b{n}") for n in range(60)]
    train_classifier(graded, tmp_path / "m.npz", Quality(hash_bits=12, epochs=20))
    step = MathPageFilter(MathPages(model=str(tmp_path / "m.npz"), drop=True))
    step = pickle.loads(pickle.dumps(step))
    assert isinstance(step(Record("1", PROOF)), Record)
    refused = step(Record("2", spam))
    assert isinstance(refused, Drop)
    assert "score" in refused.evidence
    assert isinstance(step(Record("3", NEWS)), Drop)


def test_any_text_is_looked_at_without_an_error():
    step = MathPageFilter(MathPages())
    for text in ("\0", "\ud800", "\\" * 1_000_000, "\u2264" * 1_000_000, "<math" * 100_000):
        assert "is_math" in step(Record("1", text, url="http://\ud800")).facts["math"]


def test_few_real_news_pages_are_taken_for_mathematics(real_data):
    step = MathPageFilter(MathPages())
    pages = sorted((real_data / "extraction" / "html").glob("*.html.gz"))[:40]
    found = 0
    for path in pages:
        html = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        found += step(Record(path.name, html)).facts["math"]["is_math"]
    assert len(pages) == 40
    assert found <= 2
