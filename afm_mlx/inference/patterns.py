r"""The patterns of a policy: how they are written, and what they stand for.

A pattern is a word, a phrase, or an expression. It matches whole words, and in folded text
(`folding.py`), so case, accents and invisible characters make no difference.

    kill                a letter also stands for what looks like it: k1ll
    a b                 a space: 1 to 4 characters that are no letters or digits
    how ... bomb        some words in between, 40 characters at most, of one sentence; or none
    (a|b) a? a{2,5}     alternatives, optional, repeated
    [abc] [a-z] [^abc]  one of these, one of none of these
    .  \w  \d  \s       any character; a letter or digit; a digit; white space; \W \D \S: no such

There is no `*` and no `+`, and nothing is longer than `LONGEST`: an answer that is being written is
held back only where a match could begin, and this bounds by how much. All patterns are
read together in one pass (`matching.py`), in time proportional to the text whatever they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from afm_mlx.errors import RecipeError
from afm_mlx.inference.folding import fold, is_word

LONGEST = 200
"""Most characters of folded text that a pattern may match: the look-back. Ours."""

MOST_PLACES = 2_000
"""Most places for a character in a pattern, repetitions written out. Ours."""

DEEPEST = 20
"""Most groups inside each other. Ours."""

GAP = 4
"""Most characters between two words of a phrase: `kill`, `, **`, `people`. Ours."""

BETWEEN = 40
"""Most characters that `...` stands for: about seven words. Ours."""

LOOKALIKES = {
    "a": "4@\u0430\u03b1", "b": "8\u0432", "c": "\u0441\u03f2", "e": "3\u0435\u03b5\u20ac",
    "g": "9", "h": "\u043d", "i": "1!|\u0456\u03b9\u0131", "k": "\u043a\u03ba", "l": "1|\u04cf",
    "m": "\u043c", "o": "0\u043e\u03bf", "p": "\u0440\u03c1", "s": "5$\u0455",
    "t": "7+\u0442\u03c4", "u": "\u03c5", "x": "\u0445\u03c7", "y": "\u0443\u03b3", "z": "2",
}  # fmt: skip
"""What a Latin letter of a pattern also stands for: figures, signs, Cyrillic and Greek letters."""

_UNBOUNDED = {"*": "{0,20}", "+": "{1,20}"}


@dataclass(frozen=True)
class Characters:
    """A set of characters: one place of a pattern."""

    singles: frozenset[str] = frozenset()
    ranges: tuple[tuple[str, str], ...] = ()
    kinds: str = ""
    """Of `wds` and `WDS`: as after a backslash."""
    inverted: bool = False

    def __contains__(self, character: str) -> bool:
        found = (
            character in self.singles
            or any(first <= character <= last for first, last in self.ranges)
            or any(_is_kind(character, kind) for kind in self.kinds)
        )
        return found is not self.inverted


@dataclass(frozen=True)
class InOrder:
    """One part after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """One of several parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeated:
    """A part several times."""

    part: Node
    least: int
    most: int


Node = Characters | InOrder | Either | Repeated

ANY = Characters(inverted=True)
SPACE = Repeated(Characters(kinds="w", inverted=True), 1, GAP)
SENTENCE_ENDS = frozenset(".?!")
WORDS = Repeated(Characters(SENTENCE_ENDS, inverted=True), 0, BETWEEN)
SPACE_INSIDE = Repeated(Characters(SENTENCE_ENDS, kinds="w", inverted=True), 1, GAP)
SPACE_WORDS = InOrder((SPACE_INSIDE, Repeated(InOrder((WORDS, SPACE_INSIDE)), 0, 1)))


def parse_pattern(text: str) -> Node:
    """The tree of a pattern.

    Raises:
        RecipeError: it cannot be read, has no bound, is too long, or matches nothing at all.
    """
    node = _Parser(text.strip()).whole()
    if longest(node) > LONGEST:
        raise RecipeError(
            f"it matches up to {longest(node):,} characters, and {LONGEST} is the most",
            hint="repeat less: {0,40}, or make it two patterns",
        )
    if places(node) > MOST_PLACES:
        raise RecipeError(
            f"written out it has {places(node):,} places, and {MOST_PLACES:,} is the most",
            hint="repeat less, or make it two patterns",
        )
    if shortest(node) == 0:
        raise RecipeError("it matches an empty text", hint="make a part of it required")
    return node


def longest(node: Node) -> int:
    """Most characters that a node matches."""
    if isinstance(node, Characters):
        return 1
    if isinstance(node, Repeated):
        return node.most * longest(node.part)
    return (max if isinstance(node, Either) else sum)([longest(part) for part in node.parts] or [0])


def shortest(node: Node) -> int:
    """Fewest characters that a node matches."""
    if isinstance(node, Characters):
        return 1
    if isinstance(node, Repeated):
        return node.least * shortest(node.part)
    return (min if isinstance(node, Either) else sum)(
        [shortest(part) for part in node.parts] or [0]
    )


def places(node: Node) -> int:
    """Places for a character, repetitions written out."""
    if isinstance(node, Characters):
        return 1
    if isinstance(node, Repeated):
        return node.most * places(node.part)
    return sum(places(part) for part in node.parts)


class _Parser:
    """Reads a pattern from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._either()
        if self._at < len(self._text):  # all but a bracket has been read
            raise RecipeError("')' closes nothing", hint=r"write \) for the character itself")
        return node

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _either(self) -> Node:
        parts = [self._sequence()]
        while self._next() == "|":
            self._take()
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._next() and self._next() not in "|)":
            parts += self._repeated()
        return InOrder(tuple(parts))

    def _repeated(self) -> Sequence[Node]:
        nodes = self._one()
        while (mark := self._next()) and mark in "?{*+":
            self._take()
            if not nodes:  # what came before folds to nothing
                raise _repeats_nothing(mark)
            if mark in _UNBOUNDED:
                raise RecipeError(f"'{mark}' has no bound", hint=f"write {_UNBOUNDED[mark]}")
            least, most = (0, 1) if mark == "?" else self._counts()
            nodes = [*nodes[:-1], Repeated(nodes[-1], least, most)]
        return nodes

    def _counts(self) -> tuple[int, int]:
        inside, closed, _ = self._text[self._at :].partition("}")
        self._at += len(inside) + 1
        low, comma, high = inside.partition(",")
        numbers = [part.strip() for part in ((low or "0", high) if comma else (low, low))]
        if not closed or not all(part.isascii() and part.isdigit() for part in numbers):
            raise RecipeError(f"'{{{inside}' is no repetition", hint="write {2}, {0,5} or {,5}")
        least, most = int(numbers[0][:9]), int(numbers[1][:9])
        if not least <= most <= LONGEST or most == 0:
            raise RecipeError(
                f"'{{{inside}}}' must go up, and to 1 to {LONGEST}", hint="write {0,5}"
            )
        return least, most

    def _one(self) -> Sequence[Node]:
        """The nodes of the next character, set or group; several, where it folds to several."""
        one = self._take()
        if one == "(":
            return [self._group()]
        if one == "[":
            return [self._set()]
        if one == ".":
            if self._text.startswith("..", self._at):
                raise RecipeError("'...' must stand between two words", hint="write how ... bomb")
            return [ANY]
        if one in "?{*+":
            raise _repeats_nothing(one)
        if one in "^$":
            raise RecipeError(
                f"'{one}' is not needed: patterns match whole words anywhere",
                hint=f"leave it out, or write \\{one} for the character itself",
            )
        if one == "\\":
            kind = self._escaped()
            if isinstance(kind, Characters):
                return [kind]
            one = kind
        elif one.isspace():
            some, rest = "...", self._text[self._at :].lstrip()
            if rest.startswith(some) and rest[len(some) : len(some) + 1].isspace():
                self._at = len(self._text) - len(rest[len(some) :].lstrip())
                return [SPACE_WORDS]
            self._at = len(self._text) - len(rest)
            return [SPACE]
        return [Characters(frozenset(part + LOOKALIKES.get(part, ""))) for part in fold(one)]

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise RecipeError(f"there are more than {DEEPEST} groups inside each other")
        if self._next() == "?":
            if not self._text.startswith("?:", self._at):
                raise RecipeError("'(?' is no group", hint="write (a|b)")
            self._at += 2
        node = self._either()
        if self._next() != ")":
            raise RecipeError("'(' is not closed", hint=r"write \( for the character itself")
        self._take()
        self._depth -= 1
        return node

    def _escaped(self) -> Characters | str:
        """What stands behind a backslash: a kind of characters, or the character itself."""
        one = self._take() if self._next() else ""
        if one and one in "wdsWDS":
            return Characters(kinds=one)
        if one == "b":
            raise RecipeError(
                r"'\b' is not needed: patterns match whole words", hint="leave it out"
            )
        if not one or one.isalnum():
            raise RecipeError(
                f"'\\{one}' means nothing here", hint=r"there are \w, \d, \s, and \. for a dot"
            )
        return one

    def _set(self) -> Node:
        inverted = self._next() == "^"
        self._at += inverted
        singles: set[str] = set()
        ranges: list[tuple[str, str]] = []
        kinds = ""
        while (one := self._next()) != "]" or not (singles or ranges or kinds):
            if not one:
                raise RecipeError("'[' is not closed", hint=r"write \[ for the character itself")
            self._take()
            if one == "\\":
                escaped = self._escaped()
                if isinstance(escaped, Characters):
                    kinds += escaped.kinds
                    continue
                one = escaped
            first = _folded(one)
            if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]"):
                self._take()
                last = _folded(self._take())
                if first > last:
                    raise RecipeError(f"'{first}-{last}' goes down", hint=f"write {last}-{first}")
                ranges.append((first, last))
            else:
                singles.add(first)
        self._take()
        return Characters(frozenset(singles), tuple(ranges), kinds, inverted)


def _repeats_nothing(mark: str) -> RecipeError:
    return RecipeError(f"'{mark}' repeats nothing", hint=f"write \\{mark} for the character itself")


def _folded(one: str) -> str:
    """A character of a set, which must stay one character."""
    folded = fold(one)
    if len(folded) != 1:
        raise RecipeError(
            f"'{one}' counts as {len(folded)} characters, which a set cannot hold",
            hint="write (a|b) in place of [ab]",
        )
    return folded


def _is_kind(character: str, kind: str) -> bool:
    """Whether a folded character is of a kind that has a letter."""
    tests = {"w": is_word, "d": str.isdecimal, "s": str.isspace}
    return tests[kind.lower()](character) is kind.islower()
