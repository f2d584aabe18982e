"""A report as Markdown, with every figure of the page."""

from __future__ import annotations

import re
from collections.abc import Iterable

from afm_mlx.evaluation.report.blocks import (
    Bits,
    Block,
    Cell,
    Curves,
    Listing,
    Problem,
    Ranges,
    Report,
    Samples,
    Table,
    Text,
)
from afm_mlx.evaluation.report.html import shown
from afm_mlx.evaluation.report.markup import plain

_MEANING = re.compile(r"([\\`*\[\]|~#]|(?<!\w)_|_(?!\w))")
"""Characters that mean something in a line of Markdown; `_` inside of a word does not."""

_MOST_COLUMNS = 60  # layers in a line of a picture of bits, beside names: 80 columns in all


def to_markdown(report: Report) -> str:
    """The whole page."""
    parts = [f"# {escape(report.title)}", escape(report.subtitle), *_all(report.head)]
    for part in report.parts:
        parts += [f"## {escape(part.title)}", *_all(part.blocks)]
    return "\n\n".join(filter(None, parts)) + "\n"


def escape(text: str) -> str:
    """Text in one line, whose characters mean nothing but themselves."""
    line = " ".join(plain(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MEANING.sub(r"\\\1", line)


def _all(blocks: Iterable[Block]) -> list[str]:
    return [_block(block) for block in blocks]


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return escape(text)
        case Problem(text):
            return f"**Not read:** {escape(text)}"
        case Listing(rows):
            return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in rows)
        case Table():
            return _titled(block.title, _table(block))
        case Curves():
            note = f"{escape(block.note)}\n\n" if block.note else ""
            title = f"{block.title}: {block.upward}"
            return _titled(title, note + _table(block.table))
        case Ranges():
            return ""  # a picture of what a table says
        case Bits():
            return _titled(block.title, _bits(block))
        case Samples():
            said = (f"{escape(each.name)}:\n\n{_fenced(each.text)}" for each in block.answers)
            return "\n\n".join(["### Prompt", _fenced(block.prompt), *said])


def _titled(title: str, text: str) -> str:
    return f"### {escape(title)}\n\n{text}" if title else text


def _table(table: Table) -> str:
    sides = ["---" if place < table.words else "---:" for place in range(len(table.columns))]
    rows = [[escape(name) for name in table.columns], sides]
    rows += [[_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"{text} ({escape(cell.note)})".strip() if cell.note else text


def _bits(bits: Bits) -> str:
    """A digit for each matrix; more than one digit is set apart."""
    layers = max(len(row) for _, row in bits.grid)
    side = max(len(f"{each}") for _, row in bits.grid for each in row if each is not None)
    side += side > 1
    columns = max(1, _MOST_COLUMNS // side)
    lines = []
    for start in range(0, layers, columns):
        for kind, row in bits.grid:
            cells = ["" if each is None else f"{each}" for each in row[start : start + columns]]
            lines.append(f"{kind:14}" + "".join(f"{cell:>{side}}" for cell in cells))
        lines.append("")
    lines += [f"{kind:14}{width}" for kind, width in bits.others]
    return _fenced("\n".join(line.rstrip() for line in lines).strip())


def _fenced(text: str) -> str:
    """Text as it is, between fences that are longer than any in it."""
    words = shown(text)
    longest = max((len(ticks) for ticks in re.findall("`+", words)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{words.strip(chr(10))}\n{fence}"
