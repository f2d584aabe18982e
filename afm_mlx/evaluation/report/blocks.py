"""A report as data: parts made of blocks, with every figure already in words.

The same blocks become HTML and Markdown, so that the two say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A sentence or two."""

    text: str


@dataclass(frozen=True)
class Problem:
    """Something that could not be read."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Names and values, in a few lines."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cell:
    """What stands at one place of a table."""

    text: str
    note: str = ""
    """Said in smaller letters below."""
    bar: float | None = None
    """Length of a bar beside it, 0 to 1."""


@dataclass(frozen=True)
class Table:
    """Rows below names of columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1
    """As many columns, from the left, hold words; the others hold numbers."""
    title: str = ""
    folded: bool = False
    """Closed until someone opens it."""


@dataclass(frozen=True)
class Line:
    """A curve."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(x, y), by x."""
    run: int = 0
    """0 for the first run, 1 for the second; decides the color."""
    marked: bool = False
    """Each point is shown: few, measured ones."""


@dataclass(frozen=True)
class Curves:
    """Curves on the same axes."""

    title: str
    across: str
    """What the horizontal axis counts."""
    upward: str
    """What the vertical axis measures, with its unit."""
    lines: tuple[Line, ...]
    table: Table
    """Some of the points."""
    share: bool = False
    """Upward are shares, 0 to 1."""
    note: str = ""


@dataclass(frozen=True)
class Range:
    """A value and its interval."""

    name: str
    value: float
    low: float
    high: float
    run: int = 0


@dataclass(frozen=True)
class Ranges:
    """Values with intervals, one below the other on the same axis.

    Its figures stand in a table beside it.
    """

    title: str
    rows: tuple[Range, ...]
    share: bool
    """They are shares, 0 to 1."""


@dataclass(frozen=True)
class Bits:
    """Which matrix has how many bits."""

    title: str
    grid: tuple[tuple[str, tuple[int | None, ...]], ...]
    """Kind of matrix, and bits in each layer; None where a layer has no such matrix."""
    others: tuple[tuple[str, int], ...]
    """What is in no layer, and its bits."""


@dataclass(frozen=True)
class Answer:
    """What somebody said."""

    name: str
    text: str


@dataclass(frozen=True)
class Samples:
    """Answers to the same prompt, side by side."""

    prompt: str
    answers: tuple[Answer, ...]


Block = Text | Problem | Listing | Table | Curves | Ranges | Bits | Samples


@dataclass(frozen=True)
class Part:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """A page."""

    title: str
    subtitle: str
    head: tuple[Block, ...]
    """What stands before the first heading."""
    parts: tuple[Part, ...]


def parts_of(named: Iterable[tuple[str, Sequence[Block | None]]]) -> tuple[Part, ...]:
    """The parts that have a block; there is no empty heading."""
    found = []
    for title, blocks in named:
        there = tuple(block for block in blocks if block is not None)
        if there:
            found.append(Part(title, there))
    return tuple(found)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell | str]],
    *,
    words: int = 1,
    title: str = "",
    folded: bool = False,
) -> Table | None:
    """A table of cells or texts; None without rows. Columns of empty cells are left out."""
    cells = [tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows]
    if not cells:
        return None
    kept = [
        place
        for place in range(len(columns))
        if any(row[place].text or row[place].note or row[place].bar for row in cells)
    ]
    return Table(
        tuple(columns[place] for place in kept),
        tuple(tuple(row[place] for place in kept) for row in cells),
        words=sum(place < words for place in kept),
        title=title,
        folded=folded,
    )
