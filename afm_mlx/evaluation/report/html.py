"""A report as one page of HTML: nothing is loaded, nothing runs, and every text is escaped."""

from __future__ import annotations

from importlib.resources import files
from itertools import groupby

from afm_mlx.evaluation.report.blocks import (
    Bits,
    Block,
    Cell,
    Curves,
    Listing,
    Part,
    Problem,
    Ranges,
    Report,
    Samples,
    Table,
    Text,
)
from afm_mlx.evaluation.report.charts import bits_svg, curves_svg, line_classes, ranges_svg
from afm_mlx.evaluation.report.markup import Markup, element, join, plain

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may do with the page, should a text get past the escaping: show it."""

WIDE = 14
"""Columns above which a table is set in smaller letters on paper. Ours."""

LONG = 60
"""Letters of a fact that has a line of its own. Ours."""

NOTHING = "(nothing)"
"""In place of an answer without a character."""


def to_html(report: Report) -> str:
    """The whole page."""
    style = (files("afm_mlx.evaluation.report") / "page.css").read_text(encoding="utf-8")
    head = join(
        Markup('<meta charset="utf-8">\n'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">\n'),
        Markup('<meta name="color-scheme" content="light dark">\n'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'),
        element("title", f"{report.title}: report"),
        Markup(f"\n<style>\n{style}</style>\n"),
    )
    body = join(
        element(
            "header",
            element("h1", report.title, dir="auto"),
            element("p", report.subtitle, class_="soft"),
            _contents(report),
        ),
        "\n",
        element(
            "main",
            *(_blocks(report.head)),
            *(_part(part, number) for number, part in enumerate(report.parts, start=1)),
        ),
    )
    page = element("html", element("head", head), "\n", element("body", body), lang="en")
    return f"<!doctype html>\n{page}\n"


def _contents(report: Report) -> Markup:
    links = [
        element("a", part.title, href=f"#part{number}")
        for number, part in enumerate(report.parts, start=1)
    ]
    return element("nav", *(join(link, " ") for link in links), aria_label="Contents")


def _part(part: Part, number: int) -> Markup:
    title = element("h2", part.title)
    return join("\n", element("section", title, *_blocks(part.blocks), id=f"part{number}"))


def _blocks(blocks: tuple[Block, ...]) -> list[Markup]:
    """Blocks one below the other; pictures and answers that follow each other in a grid."""
    found = []
    for pictures, group in groupby(blocks, key=lambda block: isinstance(block, Curves | Ranges)):
        parts = [join("\n", _block(block)) for block in group]
        found += [join("\n", element("div", *parts, class_="pictures"))] if pictures else parts
    return found


def _block(block: Block) -> Markup:
    match block:
        case Text(text):
            return element("p", text)
        case Problem(text):
            return element("p", element("b", "Not read: "), text, class_="problem")
        case Listing(rows):
            pairs = (
                element(
                    "div",
                    element("dt", name),
                    element("dd", value, dir="auto"),
                    class_="long" if len(value) > LONG else None,
                )
                for name, value in rows
            )
            return element("dl", *pairs)
        case Table():
            return _table(block)
        case Curves():
            return _curves(block)
        case Ranges():
            caption = element("figcaption", element("b", block.title, dir="auto"))
            return element("figure", caption, ranges_svg(block))
        case Bits():
            picture = element("div", bits_svg(block), class_="scroll", tabindex=0)
            return element("figure", element("figcaption", element("b", block.title)), picture)
        case Samples():
            return _samples(block)


def _table(table: Table) -> Markup:
    head = element(
        "tr",
        *(
            element("th", name, scope="col", class_=_kind(place, table))
            for place, name in enumerate(table.columns)
        ),
    )
    rows = [
        element("tr", *(_cell(cell, place, table) for place, cell in enumerate(row)))
        for row in table.rows
    ]
    wide = "wide" if len(table.columns) > WIDE else None
    whole = element("table", element("thead", head), element("tbody", *_lines(rows)), class_=wide)
    label = table.title or table.columns[0] or "table"
    scroll = element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=label)
    if table.folded:
        return element("details", element("summary", table.title), scroll)
    return join(element("h3", table.title, dir="auto"), scroll) if table.title else scroll


def _kind(place: int, table: Table) -> str:
    return "words" if place < table.words else "number"


def _cell(cell: Cell, place: int, table: Table) -> Markup:
    note = element("small", cell.note) if cell.note else ""
    if place == 0 and table.words:
        return element("th", cell.text, note, scope="row", class_="words", dir="auto")
    if cell.bar is not None:
        bar = element("i", style=f"--part:{min(max(cell.bar, 0.0), 1.0):.4f}")
        return element("td", element("span", cell.text), bar, class_="bar")
    return element("td", cell.text, note, class_=_kind(place, table), dir="auto")


def _lines(parts: list[Markup]) -> list[Markup]:
    return [join("\n", part) for part in parts]


def _curves(curves: Curves) -> Markup:
    names = [
        element("li", element("i", class_=kind), line.name)
        for line, kind in zip(curves.lines, line_classes(curves), strict=True)
    ]
    return element(
        "figure",
        element("figcaption", element("b", curves.title), " ", element("span", curves.upward)),
        curves_svg(curves),
        element("ul", *names, class_="legend"),
        element("p", curves.note, class_="soft") if curves.note else "",
        _table(curves.table),
    )


def _samples(samples: Samples) -> Markup:
    cards = [
        element(
            "figure",
            element("figcaption", answer.name),
            element("pre", shown(answer.text), dir="auto"),
        )
        for answer in samples.answers
    ]
    prompt = element("pre", shown(samples.prompt), dir="auto", class_="prompt")
    return element("article", prompt, element("div", *_lines(cards), class_="answers"))


def shown(text: str) -> str:
    """A text as it is shown: without what no page may hold, and never empty."""
    return plain(text) if text.strip() else NOTHING
