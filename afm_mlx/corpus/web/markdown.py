"""Text of an HTML tree in the manner of Markdown: headings, lists, tables, code, mathematics.

Trees come from lxml: a page, or what trafilatura and resiliparse make of it. Emphasis and links
are left out, and nothing is escaped: the text is for training, not for rendering.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from afm_mlx.corpus.web.formulas import write_tex

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_PARAGRAPHS = re.compile(
    "address|article|aside|body|caption|center|dd|details|div|dl|dt|fieldset|figcaption|figure|"
    "footer|form|header|hgroup|html|main|nav|p|section|summary|tbody|tfoot|thead"
)
_LISTS = frozenset(("ul", "ol", "list", "menu", "dir"))
_ITEMS = frozenset(("li", "item"))
_ROWS = frozenset(("tr", "row"))
_CELLS = frozenset(("td", "th", "cell"))
_SILENT = re.compile("script|style|template|noscript|title|iframe|object|svg|select|button")
_SPACES = re.compile(r"\s+")
_EXPONENT = re.compile(r"[+-]?\d+|[a-z]")
_BEFORE_EXPONENT = re.compile(r"(?:\d|\)|(?<!\w)\w)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, heading, list item, table row or code block."""

    kind: str
    """"text", "heading", "item", "row" or "code"."""
    text: str
    """Its lines, with their marks."""


def join_blocks(blocks: Iterable[Block]) -> str:
    """The text of blocks: an empty line between them, none between items or rows."""
    parts: list[str] = []
    last = ""
    for block in blocks:
        if parts:
            together = block.kind == last and last in ("item", "row")
            parts.append("\n" if together else "\n\n")
        parts.append(block.text)
        last = block.kind
    return "".join(parts)


def read_blocks(root: Any) -> list[Block]:
    """Blocks of an element and all below it, in order; an lxml element of at most 256 levels."""
    writer = _Writer()
    writer.walk(root)
    writer.end("text")
    return writer.blocks


class _Writer:
    """Walks a tree; collects the inline text since the last block ended."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.line: list[str] = []
        self.quotes = 0  # quotations that we are in
        self.lists: list[int | None] = []  # of each list that we are in: its last number, if any
        self.mark = ""  # what the next block starts with: the mark of a list item

    def end(self, kind: str, start: str = "") -> None:
        """Make a block of the inline text so far, if there is some."""
        lines = [_SPACES.sub(" ", line).strip() for line in "".join(self.line).split("\v")]
        self.line = []
        text = "\n".join(line for line in lines if line)
        if text:
            self.put(kind, start + text)

    def put(self, kind: str, text: str) -> None:
        """Add a block, with the marks of the list and the quotation that it is in."""
        if self.lists and kind != "row":
            indent = "  " * (len(self.lists) - 1)
            first, after = indent + (self.mark or "  "), indent + "  "
            text = first + text.replace("\n", "\n" + after)
            kind = "item" if kind in ("text", "heading") else kind
            self.mark = ""
        if self.quotes:
            text = "> " + text.replace("\n", "\n> ")
        self.blocks.append(Block(kind, text))

    def walk(self, node: Any) -> None:
        """Write an element, without its tail."""
        tag = node.tag if isinstance(node.tag, str) else ""
        # trafilatura calls a heading `head`, and says its level.
        if not tag or _SILENT.fullmatch(tag) or (tag == "head" and not node.get("rend")):
            return
        if tag in ("br", "lb"):
            self.line.append("\v")
        elif tag == "hr":
            self.end("text")
        elif tag == "pre" or (tag == "code" and _is_code_block(node)):
            self.end("text")
            code = _code_text(node)
            if code.strip():
                self.put("code", f"```{_language(node)}\n{code}\n```")
        elif tag in ("code", "kbd", "samp", "tt"):
            text = _SPACES.sub(" ", "".join(node.itertext())).strip()
            self.line.append(f"`{text}`" if text else "")
        elif tag in _HEADINGS or tag == "head":
            self.end("text")
            self.inside(node)
            level = _HEADINGS.get(tag) or _HEADINGS.get(node.get("rend", ""), 2)
            self.line = [_SPACES.sub(" ", "".join(self.line))]
            self.end("heading", "#" * level + " ")
        elif tag in _LISTS:
            self.end("text")
            numbered = tag == "ol" or node.get("rend") == "ol"
            self.lists.append(0 if numbered else None)
            self.inside(node)
            self.end("text")
            self.lists.pop()
        elif tag in _ITEMS:
            self.item(node)
        elif tag in ("blockquote", "quote"):
            self.end("text")
            self.quotes += 1
            self.inside(node)
            self.end("text")
            self.quotes -= 1
        elif tag == "table":
            self.end("text")
            self.table(node)
        elif _PARAGRAPHS.fullmatch(tag) or tag in _ROWS or tag in _CELLS:
            self.end("text")
            self.inside(node)
            self.end("text")
        elif tag == "sup" or node.get("rend") == "#sup":
            self.superscript(node)
        else:
            self.inside(node)

    def inside(self, node: Any) -> None:
        """Write the text and the elements in an element."""
        self.line.append((node.text or "").replace("\v", " "))
        for child in node:
            self.walk(child)
            self.line.append((child.tail or "").replace("\v", " "))

    def item(self, node: Any) -> None:
        """Write an item of a list; one without a list is as in a list of its own."""
        self.end("text")
        alone = not self.lists
        if alone:
            self.lists.append(None)
        number = self.lists[-1]
        if number is not None:
            number += 1
            self.lists[-1] = number
        rend = node.get("rend") or ""
        self.mark = "- " if number is None else f"{number}. "
        if rend.startswith("dd"):
            self.mark = "  "
        self.inside(node)
        self.end("text")
        self.mark = ""
        if alone:
            self.lists.pop()

    def superscript(self, node: Any) -> None:
        """An exponent keeps its meaning as `^2`; other raised text is written as it is."""
        text = "".join(node.itertext()).strip()
        before = "".join(self.line[-3:])
        if _EXPONENT.fullmatch(text) and _BEFORE_EXPONENT.search(before):
            self.line.append(f"^{text}")
        else:
            self.inside(node)

    def table(self, table: Any) -> None:
        """Write a table: rows of cells, or, if it is only for layout, what is in it."""
        rows = [list(_cells(row)) for row in table.iter("tr", "row")]
        width = max((len(row) for row in rows), default=0)
        blocks = ("table", "p", "ul", "ol", "list", "pre", "blockquote", "quote", "h1", "h2", "h3")
        layout = width < 2 or any(
            sum(1 for _ in cell.iter(*blocks)) > 1 or next(cell.iter("table"), None) is not None
            for row in rows
            for cell in row
        )
        if layout:
            self.inside(table)
            self.end("text")
            return
        caption = table.find("caption")
        if caption is not None:
            self.inside(caption)
            self.end("text")
        first = True
        for row in rows:
            cells = [_cell_text(cell) for cell in row]
            if not any(cells):
                continue
            cells += [""] * (width - len(cells))
            text = "| " + " | ".join(cells) + " |"
            if first:
                text += "\n|" + "---|" * width
                first = False
            self.put("row", text)


def _cells(row: Any) -> Iterable[Any]:
    return (cell for cell in row if cell.tag in _CELLS)


def _cell_text(cell: Any) -> str:
    """Text of a cell, in one line."""
    return " ".join(block.text for block in read_cell(cell)).replace("\n", " ").replace("|", "/")


def read_cell(cell: Any) -> list[Block]:
    """Blocks of what is in a cell."""
    writer = _Writer()
    writer.inside(cell)
    writer.end("text")
    return writer.blocks


def _is_code_block(node: Any) -> bool:
    """Whether a `code` of trafilatura's tree, where `pre` is not, is more than a few words."""
    parent = node.getparent()
    in_body = parent is not None and parent.tag == "body"
    return in_body or any("\n" in text for text in node.itertext())


def _code_text(node: Any) -> str:
    """Text of a code block, with its line ends and its indentation."""
    parts: list[str] = []

    def walk(element: Any) -> None:
        if element.tag in ("br", "lb"):
            parts.append("\n")
        if isinstance(element.tag, str):
            parts.append(element.text or "")
            for child in element:
                walk(child)
                parts.append(child.tail or "")

    walk(node)
    return "".join(parts).replace("\r\n", "\n").strip("\n").rstrip()


def _language(node: Any) -> str:
    """The programming language that a code block's class names, else nothing."""
    for element in node.iter("pre", "code"):
        for name in (element.get("class") or "").split():
            for start in ("language-", "lang-", "highlight-source-"):
                if name.startswith(start):
                    return name.removeprefix(start)
    return ""


def prepare_page(tree: Any) -> None:
    """Change a page's tree in place, so that extractors keep code and mathematics.

    Formulas become LaTeX between dollar signs (MathML, KaTeX, MathJax, pictures of formulas), code
    blocks become plain text with their line ends, captions of tables become paragraphs before them,
    and marks of permanent links go.
    """
    for link in tree.xpath("//a[contains(@class, 'headerlink') or normalize-space()='\u00b6']"):
        link.drop_tree()
    for pre in list(tree.iter("pre")):
        text, language = _code_text(pre), _language(pre)
        tail = pre.tail
        pre.clear()
        pre.text, pre.tail = text, tail
        if language:
            pre.set("class", f"language-{language}")
    for caption in list(tree.iter("caption")):
        table = caption.getparent()
        if table.tag == "table" and table.getparent() is not None:  # trafilatura makes it a row
            caption.tag = "p"
            table.addprevious(caption)
    write_tex(tree)
