"""What each extractor takes for the main content of a page: three libraries, and Boilerpipe."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from afm_mlx.corpus.web.markdown import Block, read_blocks
from afm_mlx.corpus.web.packages import load
from afm_mlx.corpus.web.words import words_of

# Characters of an article below which Readability tries again with all elements. Source: Arc90.
_SHORT_ARTICLE = 250

# Boilerpipe's rule for a block of text: link densities and words. Source: Kohlschuetter et al.,
# Boilerplate Detection using Shallow Text Features, 2010, algorithm 2.
_LINKED, _LINKED_BEFORE = 0.333333, 0.555556
_INLINE = re.compile(
    "a|abbr|acronym|b|bdi|bdo|big|br|cite|code|data|del|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|"
    "small|span|strike|strong|sub|sup|time|tt|u|var|wbr"
)
_SILENT = re.compile("script|style|template|noscript|iframe|object|svg|select|button|head")


def load_libraries() -> None:
    """Import what is needed here.

    Raises:
        DataError: trafilatura or resiliparse is not installed.
    """
    for module in ("trafilatura", "resiliparse.extract.html2text", "lxml.html"):
        _load(module)


def trafilatura_blocks(tree: Any, *, precise: bool = False) -> list[Block]:
    """Main content by trafilatura's own rules, without its comparison with other extractors."""
    document = _load("trafilatura").bare_extraction(
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
    html, readability = _load("lxml.html"), _load("trafilatura.readability_lxml")

    class Reader(readability.Document):  # type: ignore[misc, name-defined]
        """With the library's result, in linear time where an element has thousands of children."""

        def transform_misused_divs_into_paragraphs(self) -> None:
            blocks = readability.DIV_TO_P_PREFIXES
            for div in self.doc.findall(".//div"):
                inside = div.iterdescendants("*")
                if not any(str(element.tag).startswith(blocks) for element in inside) and (
                    div.find(".//a") is None or div.xpath("text()[normalize-space()]")
                ):
                    div.tag = "p"
            for div in self.doc.findall(".//div"):
                if text := _taken(div, "text"):
                    paragraph = html.Element("p")
                    paragraph.text = text
                    div.insert(0, paragraph)
                for child in list(div.iterchildren()):
                    if tail := _taken(child, "tail"):
                        paragraph = html.Element("p")
                        paragraph.text = tail
                        child.addnext(paragraph)  # inserting at a place counts from the start
                    if child.tag == "br":
                        child.drop_tree()

    class Lenient(Reader):
        """Looks also at elements whose class or id names a part of the frame."""

        def remove_unlikely_candidates(self) -> None:
            pass

    blocks: list[Block] = []
    for reader in (Reader, Lenient):
        summary = reader(deepcopy(tree)).summary()
        blocks = read_blocks(html.fromstring(summary)) if summary.strip() else []
        if sum(len(block.text) for block in blocks) >= _SHORT_ARTICLE:
            break
    return blocks


def _taken(element: Any, which: str) -> str:
    """The text or the tail of an element, taken out of it; empty if it is blank, and stays."""
    found = getattr(element, which) or ""
    if not found.strip():
        return ""
    setattr(element, which, None)
    return str(found)


def resiliparse_blocks(tree: Any) -> list[Block]:
    """Main content by resiliparse."""
    html, resiliparse = _load("lxml.html"), _load("resiliparse.extract.html2text")
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


def _load(module: str) -> Any:
    return load(module, "extraction")
