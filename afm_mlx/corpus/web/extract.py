"""Main content of web pages: HTML becomes text that keeps its structure.

The balanced mode follows the report's idea of Safari Reader together with Boilerpipe: trafilatura
finds the blocks of the main content, and of those the ones stay that most of three others kept.
"""

from __future__ import annotations

import importlib
import logging
import re
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any

from afm_mlx.corpus.record import Drop, Record, drop
from afm_mlx.corpus.web.markdown import Block, join_blocks, prepare_page, read_blocks
from afm_mlx.errors import DataError
from afm_mlx.settings.extraction import Extract, ExtractMode

# Scripts without spaces between words (Thai to Khmer, kana, Han): each character counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)  # the same in ASCII, in half the time
_GRAM = 4  # words that a voter must have in a row for them to count as kept; as in the benchmark
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]")
_LOOKED_AT = 10_000  # characters of a page that show whether it is text; ours
_MOST_NO_TEXT = 0.05  # share of them that a page in a wrong encoding may have; ours
_DATE = re.compile(r"\s*(\d{4}-\d{2}-\d{2})")
_LANGUAGE = re.compile(r"\s*([A-Za-z]{2,3})(?:[-_]\w+)*\s*")
# Characters of an article below which Readability tries again with all elements. Source: Arc90.
_SHORT_ARTICLE = 250
_MOST_TITLE = 300  # characters of a title that are kept; ours

# Boilerpipe's rule for a block of text: link densities and words. Source: Kohlschuetter et al.,
# Boilerplate Detection using Shallow Text Features, 2010, algorithm 2.
_LINKED, _LINKED_BEFORE = 0.333333, 0.555556
_INLINE = re.compile(
    "a|abbr|acronym|b|bdi|bdo|big|br|cite|code|data|del|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|"
    "small|span|strike|strong|sub|sup|time|tt|u|var|wbr"
)
_SILENT = re.compile("script|style|template|noscript|iframe|object|svg|select|button|head")


class Extractor:
    """Turns pages into text, one at a time; make one in each worker process.

    Raises:
        DataError: trafilatura or resiliparse is not installed.
    """

    def __init__(self, settings: Extract) -> None:
        self.settings = settings
        for module in ("trafilatura", "resiliparse.extract.html2text", "lxml.html"):
            _import(module)
        logger = logging.getLogger("trafilatura")
        if not logger.handlers:  # its warnings about single pages would go to the terminal
            logger.addHandler(logging.NullHandler())

    def __call__(self, record: Record) -> Record | Drop:
        """The record with the main content in place of its HTML, or why there is none.

        Facts added where known: `extractor`, `title`, `date` (ISO 8601), `language_hint`.
        Never raises for what is in a page.
        """
        settings = self.settings
        if len(record.text) > settings.most_characters:
            return drop(
                record,
                "extract.too-large",
                f"{len(record.text):,} characters of HTML, above {settings.most_characters:,}",
            )
        try:
            return self._extract(record)
        except Exception as error:  # the libraries' own defects, on pages nobody has tested
            return drop(record, "extract.failed", f"{type(error).__name__}: {error}")

    def _extract(self, record: Record) -> Record | Drop:
        start = record.text[:_LOOKED_AT]
        if len(_NO_TEXT.findall(start)) > _MOST_NO_TEXT * len(start):
            return drop(record, "extract.failed", "not text: control characters or no UTF-8")
        tree, problem = parse_page(record.text)
        if problem:
            return drop(record, "extract.too-deep", problem)
        if tree is None:
            return drop(record, "extract.failed", "no element in it")
        elements = int(tree.xpath("count(//*)"))
        if elements > self.settings.most_elements:
            evidence = f"{elements:,} elements, above {self.settings.most_elements:,}"
            return drop(record, "extract.too-large", evidence)
        facts = _hints(tree)
        prepare_page(tree)
        name, blocks = main_content(Page(tree), self.settings)
        text = join_blocks(blocks)
        words = len(words_of(text))
        if words < self.settings.least_words:
            evidence = f"{words} words of main content, below {self.settings.least_words}"
            return drop(record, "extract.too-short", evidence)
        return replace(record, text=text, facts={**record.facts, **facts, "extractor": name})


class Page:
    """A page's main content as each extractor sees it; each runs once, when it is asked for."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree

    @cached_property
    def main(self) -> list[Block]:
        """Blocks by trafilatura."""
        return trafilatura_blocks(self.tree)

    @cached_property
    def precise(self) -> Words:
        """Words by trafilatura's precise rules."""
        return Words(join_blocks(trafilatura_blocks(self.tree, precise=True)))

    @cached_property
    def read(self) -> list[Block]:
        """Blocks by Reader."""
        return reader_blocks(self.tree)

    @cached_property
    def reader(self) -> Words:
        """Words by Reader."""
        return Words(join_blocks(self.read))

    @cached_property
    def boilerpipe(self) -> Words:
        """Words by Boilerpipe."""
        return Words("\n".join(boilerpipe_texts(self.tree)))

    @cached_property
    def fast(self) -> list[Block]:
        """Blocks by resiliparse."""
        return resiliparse_blocks(self.tree)

    @cached_property
    def visible(self) -> Words:
        """Words by resiliparse, which leaves out the least."""
        return Words(join_blocks(self.fast))

    @cached_property
    def all(self) -> list[Block]:
        """All blocks of the page, also those around its main content."""
        return read_blocks(self.tree)


def main_content(page: Page, settings: Extract) -> tuple[str, list[Block]]:
    """Blocks of a page's main content, and the name of what decided: a value of `extractor`."""
    match settings.mode:
        case ExtractMode.FAST:
            name, blocks = "resiliparse", page.fast
        case ExtractMode.READER:
            name, blocks = _reader(page, settings)
        case ExtractMode.BALANCED:
            name, blocks = _balanced(page, settings)
    return name, without_last_headings(blocks)


def _reader(page: Page, settings: Extract) -> tuple[str, list[Block]]:
    """Reader's output if it is long and Boilerpipe mostly agrees, otherwise the fallback."""
    enough = page.reader.count >= settings.least_reader_words
    if enough and page.boilerpipe.covers(page.reader.grams) >= settings.least_overlap:
        return "reader", page.read
    return "fallback", _vote_of_page(page, settings)


def _balanced(page: Page, settings: Extract) -> tuple[str, list[Block]]:
    """The blocks of trafilatura that most voters kept, or the fallback where they miss much.

    What Reader and Boilerpipe both kept is main content, most likely: the result has to cover
    enough of it.
    """
    overlap = settings.block_overlap
    voters = [page.reader, page.precise, page.boilerpipe]
    blocks = vote(page.main, voters, votes=settings.votes, overlap=overlap)
    found = Words(join_blocks(blocks))
    if found.covers(page.reader.grams & page.boilerpipe.grams) < settings.least_overlap:
        return "fallback", _vote_of_page(page, settings)
    has_code = next(page.tree.iter("pre"), None) is not None
    if has_code and found.count < settings.code_share * page.visible.count:
        return "documentation", vote(page.all, [page.visible], votes=1, overlap=overlap)
    return "vote", blocks


def _vote_of_page(page: Page, settings: Extract) -> list[Block]:
    """The fallback: blocks of the page that most of Reader, Boilerpipe, resiliparse kept."""
    voters = [page.reader, page.boilerpipe, page.visible]
    return vote(page.all, voters, votes=settings.votes, overlap=settings.block_overlap)


class Words:
    """Words of a text, for asking whether it holds another one."""

    def __init__(self, text: str) -> None:
        words = words_of(text)
        self.count = len(words)
        self.line = f" {' '.join(words)} "
        self.grams = set(grams(words))

    def holds(self, text: str) -> float:
        """Share of a text's 4-grams that occur here; of a shorter text, 1 if it does."""
        return self.holds_words(words_of(text))

    def holds_words(self, words: list[str]) -> float:
        """As `holds`, of a text's words."""
        found = grams(words)
        if not found:
            return float(f" {' '.join(words)} " in self.line)
        return sum(map(self.grams.__contains__, found)) / len(found)

    def covers(self, grams: set[tuple[str, ...]]) -> float:
        """Share of the 4-grams that occur here; 1 if there are none."""
        return len(self.grams & grams) / len(grams) if grams else 1.0


def words_of(text: str) -> list[str]:
    """Runs of letters and digits; in scripts without spaces, single characters."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text)


def grams(words: list[str]) -> list[tuple[str, ...]]:
    """All runs of four words; none if there are fewer."""
    return list(zip(*(words[start:] for start in range(_GRAM)), strict=False))


def vote(blocks: list[Block], voters: list[Words], *, votes: int, overlap: float) -> list[Block]:
    """Blocks that at least `votes` of the voters hold to the share `overlap`, 0 to 1."""
    kept = []
    for block in blocks:
        words = words_of(block.text)
        if sum(voter.holds_words(words) >= overlap for voter in voters) >= votes:
            kept.append(block)
    return kept


def without_last_headings(blocks: list[Block]) -> list[Block]:
    """Leave out headings at the end: what they are for is not there."""
    end = len(blocks)
    while end and blocks[end - 1].kind == "heading":
        end -= 1
    return blocks[:end]


def trafilatura_blocks(tree: Any, *, precise: bool = False) -> list[Block]:
    """Main content by trafilatura's own rules, without its comparison with other extractors."""
    document = _import("trafilatura").bare_extraction(
        tree,
        fast=True,
        favor_precision=precise,
        include_comments=False,
        include_formatting=True,
        output_format="xml",  # anything but "python", which makes a text that nobody reads
    )
    return [] if document is None else read_blocks(document.body)


def reader_blocks(tree: Any) -> list[Block]:
    """Main content by Arc90's Readability, the ancestor of Safari Reader."""
    html, readability = _import("lxml.html"), _import("trafilatura.readability_lxml")

    class Lenient(readability.Document):  # type: ignore[misc, name-defined]
        """Looks also at elements whose class or id names a part of the frame."""

        def remove_unlikely_candidates(self) -> None:
            pass

    blocks: list[Block] = []
    for reader in (readability.Document, Lenient):
        summary = reader(deepcopy(tree)).summary()
        blocks = read_blocks(html.fromstring(summary)) if summary.strip() else []
        if sum(len(block.text) for block in blocks) >= _SHORT_ARTICLE:
            break
    return blocks


def resiliparse_blocks(tree: Any) -> list[Block]:
    """Main content by resiliparse."""
    html, resiliparse = _import("lxml.html"), _import("resiliparse.extract.html2text")
    page = html.tostring(tree, encoding="unicode")
    found = resiliparse.extract_plain_text(
        page,
        preserve_formatting="minimal_html",
        main_content=True,
        links=False,
        comments=False,
        form_fields=False,
    )
    return read_blocks(html.fromstring(f"<div>{found}</div>")) if found.strip() else []


def boilerpipe_texts(tree: Any) -> list[str]:
    """Main content by Boilerpipe's rule: words and links of a block and its neighbours."""
    texts = _shallow_blocks(tree)
    words = [0, *(count for _, count, _ in texts), 0]
    density = [0.0, *(linked / count for _, count, linked in texts), 0.0]
    kept = []
    for place, (text, _, _) in enumerate(texts, start=1):
        before, here, after = words[place - 1 : place + 2]
        if density[place] > _LINKED:
            continue
        if density[place - 1] <= _LINKED_BEFORE:
            good = here > 16 or after > 15 or before > 4
        else:
            good = here > 40 or after > 17
        if good:
            kept.append(text)
    return kept


def _shallow_blocks(tree: Any) -> list[tuple[str, int, int]]:
    """Texts between two block elements, with their words and the words in links; none empty."""
    found: list[tuple[str, int, int]] = []
    line: list[str] = []
    linked: list[str] = []

    def end() -> None:
        text = " ".join("".join(line).split())
        count = len(words_of(text))
        if count:
            found.append((text, count, len(words_of("".join(linked)))))
        line.clear()
        linked.clear()

    def add(text: str | None, in_link: bool) -> None:
        if text:
            line.append(text)
            if in_link:
                linked.append(text)

    def walk(node: Any, in_link: bool) -> None:
        tag = node.tag
        if not isinstance(tag, str) or _SILENT.fullmatch(tag):
            return
        inline = _INLINE.fullmatch(tag) is not None
        if not inline:
            end()
        inner = in_link or tag == "a"
        add(node.text, inner)
        for child in node:
            walk(child, inner)
            add(child.tail, inner)
        if tag == "br":
            add(" ", inner)
        elif not inline:
            end()

    walk(tree, False)
    end()
    return found


def parse_page(page: str) -> tuple[Any, str]:
    """The tree of a page, or None; and, where it is nested too deeply, words that say so.

    libxml2 stops at 256 levels of elements: what a page has below is lost, and no function here
    or in the libraries recurses deeper.
    """
    etree, html = _import("lxml.etree"), _import("lxml.html")
    parser = html.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=False
    )
    try:
        tree = html.document_fromstring(
            page.replace("\0", "").encode("utf-8", "replace"), parser=parser
        )
    except (etree.ParserError, etree.XMLSyntaxError):
        tree = None
    for entry in parser.error_log:
        if "depth" in entry.message:
            return None, f"more than 256 levels of elements at line {entry.line:,}"
    return tree, ""


def _hints(tree: Any) -> dict[str, str]:
    """Title, date (ISO 8601) and language as the page itself states them."""
    title = _first(tree, "//meta[@property='og:title']/@content", "//title", "//h1")
    date = ""
    for said in (
        *tree.xpath("//meta[@property='article:published_time']/@content"),
        *tree.xpath("//*[@itemprop='datePublished']/@*[name()='content' or name()='datetime']"),
        *re.findall(
            r'"datePublished"\s*:\s*"([^"]{10,40})"',
            " ".join(tree.xpath("//script[@type='application/ld+json']/text()")),
        ),
        *tree.xpath("//article//time/@datetime"),
    ):
        if found := _DATE.match(said):
            date = found[1]
            break
    language = ""
    for said in (
        *tree.xpath("/html/@lang"),
        *tree.xpath("//meta[@property='og:locale']/@content"),
        *tree.xpath("//meta[@http-equiv='content-language']/@content"),
    ):
        if found := _LANGUAGE.fullmatch(said):
            language = found[1].lower()
            break
    hints = {"title": title[:_MOST_TITLE], "date": date, "language_hint": language}
    return {name: value for name, value in hints.items() if value}


def _first(tree: Any, *paths: str) -> str:
    """The first text, not empty, that one of the XPaths finds."""
    for path in paths:
        for found in tree.xpath(path):
            text = found if isinstance(found, str) else "".join(found.itertext())
            if text := " ".join(text.split()):
                return str(text)
    return ""


def _import(module: str) -> Any:
    """Import a module of an optional package."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"extraction needs the package {package}: {str(error).splitlines()[0].lower()}",
            hint="pip install 'afm-mlx[corpus]'",
        ) from None
