"""The shortest way from a half-written answer to its end.

A limit on tokens would cut a guided answer anywhere, and half a JSON text is none. So the state of
an answer is followed here beside the library's, which cannot tell how far the end is: as sets of
places in the form, each with the frames it stands in. From a place, the shortest end is the rest
of its leaf, then what each frame still needs.
"""

from __future__ import annotations

import codecs
import json
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from afm_mlx.inference.forms import (
    COMMA,
    Anything,
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
from afm_mlx.inference.patterns import Pattern

PIECE_BASE = 0xD800
"""Control pieces stand in texts as one half of a surrogate pair, which no text has: this one plus
the piece's place in a list."""

KEPT_RESTS = 20_000
"""Frames whose rests are kept; ours."""

SIMPLE_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", '"': '"', "\\": "\\"}


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


class Inside(NamedTuple):
    """State of a JSON string after its first quote."""

    length: int
    """Characters so far, escapes undone."""
    escape: str
    """Of an escape that is not complete: from its backslash on."""
    content: frozenset[int] | str | None
    """Where in the pattern; or what it says so far, as long as a taken name begins so."""


DONE = object()
"""State of a leaf that is whole."""


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
        self._pieces: list[int] = []
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

    @property
    def has_pieces(self) -> bool:
        """Whether texts here can have control pieces in them."""
        return bool(self._pieces)

    def piece(self, token: int) -> str:
        """How a control piece is written in texts here."""
        if token not in self._pieces:
            self._pieces.append(token)
        return chr(PIECE_BASE + self._pieces.index(token))

    def token(self, character: str) -> int | None:
        """The control piece that a character stands for."""
        if not self._pieces:
            return None
        number = ord(character) - PIECE_BASE
        return self._pieces[number] if 0 <= number < len(self._pieces) else None

    def advance(self, progress: Progress, added: bytes | int) -> Progress:
        """Progress after more bytes, or a control piece; without places if they cannot follow."""
        if isinstance(added, int):
            return Progress(self._step(progress.places, self.piece(added)), b"")
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
                yield self._leaf_rest(place) + self._frames_rest(place.frame)

    def loose(self, progress: Progress) -> bool:
        """Whether plain characters change nothing: it is inside strings or text without a form."""
        return all(
            isinstance(place.leaf, Anything)
            or (
                isinstance(place.leaf, String)
                and isinstance(place.state, Inside)
                and place.state.content is None
                and not place.state.escape
            )
            for place in progress.places
        )

    def _step(self, places: frozenset[Place], character: str) -> frozenset[Place]:
        found: set[Place] = set()
        for leaf, state, frame in places:
            if leaf is None:
                continue
            after = self._leaf_step(leaf, state, character)
            if after is None:
                continue
            if after is not DONE:
                found.add(Place(leaf, after, frame))
            if after is DONE or (
                isinstance(leaf, Match | Multiple) and self._leaf_may_end(leaf, after)
            ):
                found.update(self._leave(frame))
            elif isinstance(leaf, Anything):
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
                state = self._leaf_start(node)
                yield Place(node, state, frame)
                if isinstance(node, Match | Multiple) and self._leaf_may_end(node, state):
                    yield from self._leave(frame)
                elif isinstance(node, Anything):
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
                return self._leaf_rest(Place(node, self._leaf_start(node), None))

    def _leaf_start(self, leaf: Leaf) -> object:
        match leaf:
            case Text():
                return 0
            case Match(pattern):
                return pattern.automaton.start
            case Multiple():
                return ""
        return None

    def _leaf_step(self, leaf: Leaf, state: object, character: str) -> object:
        """State after a character; `DONE` where the leaf is whole, None where it cannot follow."""
        match leaf:
            case Text(text):
                assert isinstance(state, int)
                if text[state] != character:
                    return None
                return DONE if state + 1 == len(text) else state + 1
            case Match(pattern):
                assert isinstance(state, frozenset)
                return pattern.automaton.step(state, character) or None
            case Multiple():
                if character not in string.digits and (state or character != "-"):
                    return None
                text = f"{state}{character}"
                return text if _multiple_rest(leaf, text) is not None else None
            case Anything():
                return None if self.token(character) is not None else ""
            case Piece(token):
                return DONE if self.token(character) == token else None
        return self._string_step(leaf, state, character)

    def _string_step(self, leaf: String, state: object, character: str) -> object:
        if state is None:
            content = leaf.pattern.automaton.start if leaf.pattern else _begins("", leaf.taken)
            return Inside(0, "", content) if character == '"' else None
        assert isinstance(state, Inside)
        if state.escape:
            escape = state.escape + character
            if escape[1] != "u":
                read = SIMPLE_ESCAPES.get(escape[1])
                return None if read is None else self._string_add(leaf, state, read)
            if len(escape) > 2 and character not in string.hexdigits:
                return None
            if len(escape) < 6:
                return state._replace(escape=escape)
            return self._string_add(leaf, state, chr(int(escape[2:], 16)))
        if character == '"':
            if state.length < leaf.min_length or state.content in leaf.taken:
                return None
            if leaf.pattern and leaf.pattern.automaton.last not in state.content:  # type: ignore[operator]
                return None
            return DONE
        if character == "\\":
            return state._replace(escape="\\")
        if character < " " or self.token(character) is not None:
            return None
        return self._string_add(leaf, state, character)

    def _string_add(self, leaf: String, state: Inside, character: str) -> Inside | None:
        if leaf.max_length is not None and state.length >= leaf.max_length:
            return None
        content = state.content
        if leaf.pattern:
            assert isinstance(content, frozenset)
            content = leaf.pattern.automaton.step(content, character)
            if not content:
                return None
        elif content is not None:
            content = _begins(f"{content}{character}", leaf.taken)
        # Beyond the least, lengths without a limit need not be told apart.
        most = leaf.min_length if leaf.max_length is None else leaf.max_length
        return Inside(min(state.length + 1, most), "", content)

    def _leaf_may_end(self, leaf: Match | Multiple, state: object) -> bool:
        if isinstance(leaf, Match):
            assert isinstance(state, frozenset)
            return leaf.pattern.automaton.last in state
        return _multiple_rest(leaf, str(state)) == ""

    def _leaf_rest(self, place: Place) -> str:
        leaf, state, _ = place
        match leaf:
            case Text(text):
                assert isinstance(state, int)
                return text[state:]
            case Match(pattern):
                assert isinstance(state, frozenset)
                return pattern.automaton.rest(state)
            case Multiple():
                return _multiple_rest(leaf, str(state)) or ""
            case Piece(token):
                return self.piece(token)
            case String():
                return self._string_rest(leaf, state)
        return ""

    def _string_rest(self, leaf: String, state: object) -> str:
        if state is None:
            state = self._string_step(leaf, None, '"')
            return '"' + self._string_rest(leaf, state)
        assert isinstance(state, Inside)
        missing = max(0, leaf.min_length - state.length)
        if state.escape:
            for finish in ("n", '"', "0000", "000", "001f", "01f", "1f", "f", "a"):
                text = finish if state.escape == "\\" else finish[-(6 - len(state.escape)) :]
                after: object = state
                for character in text:
                    after = None if after is None else self._string_step(leaf, after, character)
                if isinstance(after, Inside) and not after.escape:
                    return text + self._string_rest(leaf, after)
            return ""
        if leaf.pattern:
            assert isinstance(state.content, frozenset)
            text = leaf.pattern.automaton.rest(state.content, missing)
        else:
            text = "0" * missing
            while state.content is not None and f"{state.content}{text}" in leaf.taken:
                text += "0"
        return json.dumps(text, ensure_ascii=False)[1:].replace("\x7f", "\\u007f")

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
        longest, seen = 1, set()
        todo: list[Node] = [self._form.root, *self._form.names.values()]
        while todo:
            node = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            choices: list[Node] = []
            match node:
                case Sequence(parts):
                    todo += parts
                case Either(options):
                    todo += options
                    choices = list(options)
                case Many():
                    todo.append(node.item)
                    choices = [self._pair(node.between, node.item)]
                case Fields():
                    todo += [entry for entry, _ in node.entries]
                    choices = [entry for entry, required in node.entries if not required]
                    if node.others is not None:
                        todo.append(node.others)
                        choices.append(node.others)
                case Match(pattern) | String(pattern=Pattern() as pattern):
                    longest = max(longest, pattern.automaton.longest_rest)
                case Multiple():
                    longest = max(longest, len(str(node.high)), len(str(node.low)))
            for choice in choices:
                longest = max(longest, measure(self._shortest_of(choice) or "") + 1)
        return longest + 6  # an escape can be open, too


def _begins(text: str, names: tuple[str, ...]) -> str | None:
    """The text, if one of the names begins with it."""
    return text if any(name.startswith(text) for name in names) else None


def _multiple_rest(leaf: Multiple, text: str) -> str | None:
    """Fewest digits that make `text` one of the numbers; None where none do."""
    digits = text.removeprefix("-")
    found = []
    for sign in ("-",) if text[:1] == "-" else ("", "-") if not text else ("",):
        low, high = (leaf.low, leaf.high) if not sign else (-leaf.high, -leaf.low)
        for more in range(len(str(max(abs(leaf.low), abs(leaf.high)))) - len(digits) + 1):
            if digits == "0" and more:
                break
            least = max(low, int(digits) * 10**more if digits else (1 if sign else 0))
            most = min(high, (int(digits or 0) + 1) * 10**more - 1)
            if digits == "0" and sign:
                break
            number = -(-least // leaf.step) * leaf.step
            if number <= most and (digits or len(str(number)) == max(more, 1)):
                found.append((sign + str(number))[len(text) :])
                break
    return min(found, key=len, default=None)
