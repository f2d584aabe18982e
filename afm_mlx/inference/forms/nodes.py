"""What an answer may look like: a small grammar.

A form is a tree of nodes. Leaves are characters: a fixed text, a JSON string, a pattern, a control
piece. Branches say how they follow each other. `lark.py` writes the tree in the language of the
library that makes masks; `endings.py` follows it to find the shortest way to the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from afm_mlx.inference.forms.patterns import Pattern, read_pattern


@dataclass(frozen=True, eq=False)
class Text:
    """These characters."""

    text: str


@dataclass(frozen=True, eq=False)
class String:
    """A JSON string, quotes included. Lengths count characters after undoing escapes."""

    min_length: int = 0
    max_length: int | None = None
    pattern: Pattern | None = None
    """What the whole string matches; None for any characters."""
    taken: tuple[str, ...] = ()
    """What it must not be: names that an object has already."""


@dataclass(frozen=True, eq=False)
class Match:
    """A text that matches a pattern as a whole."""

    pattern: Pattern


@dataclass(frozen=True, eq=False)
class Multiple:
    """An integer that a step divides, within bounds."""

    low: int
    high: int
    step: int


@dataclass(frozen=True, eq=False)
class Anything:
    """Any text; it goes on until a `Piece` comes, or ends the answer."""


@dataclass(frozen=True, eq=False)
class Piece:
    """One token that no text is: a control piece."""

    token: int
    mark: str
    """How texts have it here: one half of a surrogate pair, which no other text has."""


@dataclass(frozen=True, eq=False)
class Sequence:
    """One after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Either:
    """One of these."""

    options: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Many:
    """A number of items, `between` between them."""

    item: Node
    between: Node
    at_least: int = 0
    at_most: int | None = None


@dataclass(frozen=True, eq=False)
class Fields:
    """Entries of an object in a fixed order, commas between them; braces are not included."""

    entries: tuple[tuple[Node, bool], ...]
    """Each with its name, and whether it must be there."""
    others: Node | None = None
    """An entry of another name; any number of them follows."""
    least_others: int = 0
    most_others: int | None = None


@dataclass(frozen=True, eq=False)
class Named:
    """A node of `Form.names`, which may contain itself."""

    name: str


MARKS = "\ud800", "\udfff"
"""First and last of the characters that stand for control pieces."""

Leaf = Text | String | Match | Multiple | Anything | Piece
Node = Leaf | Sequence | Either | Many | Fields | Named

COMMA = Match(read_pattern(", ?"))
COLON = Match(read_pattern(": ?"))
"""With a space or without, as models were taught; never a new line, which would have no end."""


@dataclass(frozen=True, eq=False)
class Form:
    """A grammar: a node, and the nodes that it and they name."""

    root: Node
    names: Mapping[str, Node]
