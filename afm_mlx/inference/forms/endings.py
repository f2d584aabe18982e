"""The shortest way from a half-written answer to its end.

A limit on tokens would cut a guided answer anywhere, and half a JSON text is none. So the state of
an answer is followed here beside the library's, which cannot tell how far the end is: as sets of
places in the form, each with the frames it stands in. From a place, the shortest end is the rest
of its leaf, then what each frame still needs.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from afm_mlx.inference.forms.leaves import (
    DONE,
    leaf_is_loose,
    leaf_may_end,
    leaf_rest,
    leaf_start,
    leaf_step,
)
from afm_mlx.inference.forms.nodes import (
    COMMA,
    Either,
    Fields,
    Form,
    Leaf,
    Many,
    Match,
    Multiple,
    Named,
    Node,
    Piece,
    Sequence,
    String,
    Text,
)
from afm_mlx.inference.forms.patterns import Pattern

KEPT_RESTS = 20_000
"""Frames whose rests are kept; ours."""


class Frame(NamedTuple):
    """A branch that is being written, and where in it."""

    node: Sequence | Many | Fields
    position: int
    """Part that comes next; items so far; entry that may come next."""
    others: int
    """Of `Fields`: entries of other names so far."""
    parent: Frame | None


class Place(NamedTuple):
    """A leaf that is being written; None for the end of the form."""

    leaf: Leaf | None
    state: object
    frame: Frame | None


@dataclass(frozen=True)
class Progress:
    """Where an answer is: all places that its text can have led to."""

    places: frozenset[Place]
    pending: bytes
    """First bytes of a character whose others have not come yet."""


class Endings:
    """Follows answers through a form."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self.pieces = {node.mark: node.token for node in self._nodes() if isinstance(node, Piece)}
        """Control pieces by the characters that stand for them in texts here."""
        self._marks = {token: mark for mark, token in self.pieces.items()}
        self._rests: dict[Frame, str] = {}
        self._pairs: dict[tuple[Node, Node], Sequence] = {}
        self._shortest: dict[Node, str] = {}
        self._named: dict[str, str] = {}
        while True:  # each round can use what the round before found; the first has no names
            self._shortest.clear()
            found = {
                name: text
                for name, node in form.names.items()
                if (text := self._shortest_of(node)) is not None
            }
            shorter = {
                name: text
                for name, text in found.items()
                if name not in self._named or len(text) < len(self._named[name])
            }
            if not shorter:
                break
            self._named |= shorter

    @property
    def shortest(self) -> str | None:
        """A shortest whole text; None where there is none, as in a node that contains itself."""
        return self._shortest_of(self._form.root)

    def start(self) -> Progress:
        """The empty text."""
        return Progress(frozenset(self._enter(self._form.root, None)), b"")

    def advance(self, progress: Progress, added: bytes | int) -> Progress:
        """Progress after more bytes, or a control piece; without places if they cannot follow."""
        if isinstance(added, int):
            mark = self._marks.get(added)
            known = mark is not None and not progress.pending
            return Progress(self._step(progress.places, mark or "") if known else frozenset(), b"")
        whole = progress.pending + added
        try:
            text, used = codecs.utf_8_decode(whole, "strict", False)
        except UnicodeDecodeError:
            return Progress(frozenset(), b"")
        places = progress.places
        for character in text:
            places = self._step(places, character)
            if not places:
                break
        return Progress(places, whole[used:])

    def ends(self, progress: Progress) -> Iterator[str]:
        """Texts that end the answer, one from each place; any may be the shortest."""
        for place in progress.places:
            if place.leaf is None:
                yield ""
            else:
                yield leaf_rest(place.leaf, place.state) + self._frames_rest(place.frame)

    def loose(self, progress: Progress) -> bool:
        """Whether plain characters change nothing: it is inside strings or text without a form."""
        return all(
            place.leaf is not None and leaf_is_loose(place.leaf, place.state)
            for place in progress.places
        )

    def _step(self, places: frozenset[Place], character: str) -> frozenset[Place]:
        found: set[Place] = set()
        for leaf, state, frame in places:
            if leaf is None:
                continue
            after = leaf_step(leaf, state, character)
            if after is None:
                continue
            if after is not DONE:
                found.add(Place(leaf, after, frame))
            if after is DONE or leaf_may_end(leaf, after):
                found.update(self._leave(frame))
        return frozenset(found)

    def _enter(self, node: Node, frame: Frame | None) -> Iterator[Place]:
        """Places at the beginning of a node."""
        match node:
            case Named(name):
                yield from self._enter(self._form.names[name], frame)
            case Sequence(parts):
                if parts:
                    yield from self._enter(parts[0], Frame(node, 1, 0, frame))
                else:
                    yield from self._leave(frame)
            case Either(options):
                for option in options:
                    yield from self._enter(option, frame)
            case Many():
                if node.at_most != 0:
                    yield from self._enter(node.item, Frame(node, 1, 0, frame))
                if node.at_least == 0:
                    yield from self._leave(frame)
            case Fields():
                yield from self._entries(node, 0, 0, False, frame)
            case Text(""):
                yield from self._leave(frame)
            case _:
                state = leaf_start(node)
                yield Place(node, state, frame)
                if leaf_may_end(node, state):
                    yield from self._leave(frame)

    def _leave(self, frame: Frame | None) -> Iterator[Place]:
        """Places after the end of what stands in `frame`."""
        if frame is None:
            yield Place(None, None, None)
            return
        node, position, others, parent = frame
        match node:
            case Sequence(parts):
                if position < len(parts):
                    yield from self._enter(parts[position], Frame(node, position + 1, 0, parent))
                else:
                    yield from self._leave(parent)
            case Many():
                if node.at_most is None or position < node.at_most:
                    after = Frame(node, position + 1, 0, parent)
                    yield from self._enter(self._pair(node.between, node.item), after)
                if position >= node.at_least:
                    yield from self._leave(parent)
            case Fields():
                yield from self._entries(node, position, others, True, parent)

    def _entries(
        self, node: Fields, position: int, others: int, later: bool, parent: Frame | None
    ) -> Iterator[Place]:
        """Places where an object's next entry begins, or where it ends."""
        for place in range(position, len(node.entries)):
            entry, required = node.entries[place]
            frame = Frame(node, place + 1, 0, parent)
            yield from self._enter(self._pair(COMMA, entry) if later else entry, frame)
            if required:
                return
        if node.others is not None and (node.most_others is None or others < node.most_others):
            frame = Frame(node, len(node.entries), others + 1, parent)
            yield from self._enter(self._pair(COMMA, node.others) if later else node.others, frame)
        if others >= node.least_others:
            yield from self._leave(parent)

    def _frames_rest(self, frame: Frame | None) -> str:
        """What the frames still need, innermost first."""
        if frame is None:
            return ""
        if frame not in self._rests:
            if len(self._rests) >= KEPT_RESTS:
                self._rests = {}
            self._rests[frame] = self._frame_rest(frame) + self._frames_rest(frame.parent)
        return self._rests[frame]

    def _frame_rest(self, frame: Frame) -> str:
        node, position, others, _ = frame
        match node:
            case Sequence(parts):
                return "".join(self._shortest_of(part) or "" for part in parts[position:])
            case Many():
                item = self._shortest_of(self._pair(node.between, node.item)) or ""
                return item * max(0, node.at_least - position)
            case Fields():
                return self._fields_rest(node, position, others, True) or ""

    def _fields_rest(self, node: Fields, position: int, others: int, later: bool) -> str | None:
        needed = [entry for entry, required in node.entries[position:] if required]
        if node.others is not None:
            needed += [node.others] * max(0, node.least_others - others)
        texts = [self._shortest_of(each) for each in needed]
        if any(text is None for text in texts):
            return None
        return "".join("," * (later or number > 0) + str(text) for number, text in enumerate(texts))

    def _shortest_of(self, node: Node) -> str | None:
        if isinstance(node, Named):
            return self._named.get(node.name)
        if node not in self._shortest:
            found = self._shortest_new(node)
            if found is None:
                return None
            self._shortest[node] = found
        return self._shortest[node]

    def _shortest_new(self, node: Node) -> str | None:
        match node:
            case Sequence(parts):
                texts = [self._shortest_of(part) for part in parts]
                return None if None in texts else "".join(map(str, texts))
            case Either(options):
                texts = [self._shortest_of(option) for option in options]
                return min((text for text in texts if text is not None), key=len, default=None)
            case Many():
                if node.at_least == 0:
                    return ""
                item, between = self._shortest_of(node.item), self._shortest_of(node.between)
                return None if item is None else (between or "").join([item] * node.at_least)
            case Fields():
                return self._fields_rest(node, 0, 0, False)
            case Named(name):
                return self._named.get(name)
            case _:
                return leaf_rest(node, leaf_start(node))

    def _pair(self, first: Node, second: Node) -> Sequence:
        """The two in sequence; always the same node for the same two."""
        if (first, second) not in self._pairs:
            self._pairs[first, second] = Sequence((first, second))
        return self._pairs[first, second]

    def longest_jump(self, measure: Callable[[str], int]) -> int:
        """Most tokens by which one choice can move the end further away.

        Args:
            measure: how many tokens a text has.
        """
        longest = 1
        for node in self._nodes():
            choices: list[Node] = []
            match node:
                case Either(options):
                    choices = list(options)
                case Many():
                    choices = [self._pair(node.between, node.item)]
                case Fields():
                    choices = [entry for entry, required in node.entries if not required]
                    choices += [node.others] if node.others is not None else []
                case Match(pattern) | String(pattern=Pattern() as pattern):
                    longest = max(longest, pattern.automaton.longest_rest)
                case Multiple():
                    longest = max(longest, len(str(node.high)), len(str(node.low)))
            for choice in choices:
                longest = max(longest, measure(self._shortest_of(choice) or "") + 1)
        return longest + 6  # an escape can be open, too

    def _nodes(self) -> Iterator[Node]:
        """Each node of the form."""
        seen = set()
        todo: list[Node] = [self._form.root, *self._form.names.values()]
        while todo:
            node = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            yield node
            match node:
                case Sequence(parts):
                    todo += parts
                case Either(options):
                    todo += options
                case Many():
                    todo += [node.item, node.between]
                case Fields():
                    todo += [entry for entry, _ in node.entries]
                    todo += [node.others] if node.others is not None else []
