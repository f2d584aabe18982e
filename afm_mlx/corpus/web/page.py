"""A page as a tree, and what it says of itself: title, date, language."""

from __future__ import annotations

import re
from typing import Any

from afm_mlx.corpus.web.packages import load

_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]")
_LOOKED_AT = 10_000  # characters of a page that show whether it is text; ours
_MOST_NO_TEXT = 0.05  # share of them that a page in a wrong encoding may have; ours
_DATE = re.compile(r"\s*(\d{4}-\d{2}-\d{2})")
_LANGUAGE = re.compile(r"\s*([A-Za-z]{2,3})(?:[-_]\w+)*\s*")
_ELEMENT_CHARACTERS = 40  # what an element costs beside its text, in characters of text; ours
_MOST_TITLE = 300  # characters of a title that are kept; ours


def is_text(page: str) -> bool:
    """Whether the start of a page is text: few control characters, and few bytes that are none."""
    start = page[:_LOOKED_AT]
    return len(_NO_TEXT.findall(start)) <= _MOST_NO_TEXT * len(start)


def parse_page(page: str) -> tuple[Any, str]:
    """The tree of a page, or None; and, where it is nested too deeply, words that say so.

    libxml2 stops at 256 levels of elements: what a page has below is lost, and no function here
    or in the libraries recurses deeper.
    """
    etree, html = (load(f"lxml.{name}", "extraction") for name in ("etree", "html"))
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


def page_size(tree: Any) -> tuple[int, int]:
    """How many elements a page has, and how many characters are inside each of them, added up.

    The second is what a library reads that judges each element by the text inside, as all do: text
    at depth 200 counts 200 times. An element counts as 40 characters; a script's text is left out.
    """
    elements = nested = 0
    todo = [(tree, 1)]
    while todo:
        node, depth = todo.pop()
        elements += 1
        inside = 0 if node.tag in ("script", "style") else len(node.text or "")
        nested += (inside + _ELEMENT_CHARACTERS) * depth + len(node.tail or "") * (depth - 1)
        todo.extend((child, depth + 1) for child in node)
    return elements, nested


def page_facts(tree: Any) -> dict[str, str]:
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
