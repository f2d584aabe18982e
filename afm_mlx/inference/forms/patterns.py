"""Regular expressions read once for two uses: one spelling for every engine, and ways to the end.

What JSON Schema, Python and the library of token masks call a digit, a word character or a line's
end differs. So a pattern is read into ranges of characters, and written again without any of those
words. Where they disagree, ours is what all of them accept: it may be narrower than the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from re import _constants as constants  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

Ranges = tuple[tuple[int, int], ...]
"""Code points, first and last of each range, in order and apart."""

LAST_POINT = 0x10FFFF
MAX_STATES = 20_000
"""States above which a pattern is refused; `[a-z]{1,500}` has 500. Ours."""

MAX_STEPS = 10_000
"""Steps that an automaton remembers; ours."""

ASCII: Ranges = ((0, 127),)
DIGITS: Ranges = ((48, 57),)
WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
SPACES: Ranges = ((9, 13), (32, 32))
LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))
SURROGATES: Ranges = ((0xD800, 0xDFFF),)


class PatternError(ValueError):
    """A pattern says what we cannot do, or cannot be read."""


@dataclass
class Automaton:
    """Ways through a pattern: states, and from each the characters that lead on."""

    edges: list[list[tuple[Ranges, int]]] = field(default_factory=list)
    """Per state: characters, and the state they lead to."""
    skips: list[list[int]] = field(default_factory=list)
    """Per state: states that are reached without a character."""
    first: int = 0
    last: int = 0
    """The text may end here."""
    _steps: dict[tuple[frozenset[int], str], frozenset[int]] = field(default_factory=dict)

    def add(self) -> int:
        """A new state."""
        if len(self.edges) >= MAX_STATES:
            raise PatternError(f"the pattern has more than {MAX_STATES:,} places")
        self.edges.append([])
        self.skips.append([])
        return len(self.edges) - 1

    @cached_property
    def start(self) -> frozenset[int]:
        """States of the empty text."""
        return self._closed([self.first])

    def step(self, states: frozenset[int], character: str) -> frozenset[int]:
        """States after one more character; empty where it may not follow."""
        key = states, character
        if key not in self._steps:
            if len(self._steps) >= MAX_STEPS:
                self._steps.clear()
            point = ord(character)
            found = [
                there
                for state in states
                for ranges, there in self.edges[state]
                if any(low <= point <= high for low, high in ranges)
            ]
            self._steps[key] = self._closed(found)
        return self._steps[key]

    def rest(self, states: frozenset[int], at_least: int = 0) -> str:
        """A shortest text that leads from `states` to the end, of `at_least` characters or more."""
        while len(self._ways) <= at_least:
            self._ways.append(self._longer(self._ways[-1][0]))
        distance = self._ways[at_least][0]
        state = min(states, key=lambda each: distance[each])
        text = []
        for need in range(at_least, -1, -1):
            distance, way = self._ways[need]
            while way[state] is not None:
                character, there = way[state]  # type: ignore[misc]
                text.append(character)
                state = there
                if need:
                    break
        return "".join(text)

    @cached_property
    def longest_rest(self) -> int:
        """Most characters that the shortest way to the end can take, from anywhere."""
        return max(int(each) for each in self._ways[0][0] if each < float("inf"))

    @cached_property
    def _ways(self) -> list[tuple[list[float], list[tuple[str, int] | None]]]:
        """Per number of characters that must still come: distances to the end, first steps."""
        count = len(self.edges)
        distance, way = [float("inf")] * count, [None] * count
        back: list[list[tuple[str, int]]] = [[] for _ in range(count)]
        for state in range(count):
            for through in self._closed([state]):
                for ranges, there in self.edges[through]:
                    back[there].append((_example(ranges), state))
        ends = [state for state in range(count) if self.last in self._closed([state])]
        for state in ends:
            distance[state] = 0
        while ends:
            reached = []
            for there in ends:
                for character, state in back[there]:
                    if distance[state] > distance[there] + 1:
                        distance[state] = distance[there] + 1
                        way[state] = (character, there)  # type: ignore[call-overload]
                        reached.append(state)
            ends = reached
        return [(distance, way)]  # type: ignore[list-item]

    def _longer(self, before: list[float]) -> tuple[list[float], list[tuple[str, int] | None]]:
        """Distances and first steps where one more character must come than for `before`."""
        distance: list[float] = []
        way: list[tuple[str, int] | None] = []
        for state in range(len(self.edges)):
            best, step = float("inf"), None
            for through in self._closed([state]):
                for ranges, there in self.edges[through]:
                    if before[there] + 1 < best:
                        best, step = before[there] + 1, (_example(ranges), there)
            distance.append(best)
            way.append(step)
        return distance, way

    def _closed(self, states: Iterable[int]) -> frozenset[int]:
        """With what is reached from them without a character."""
        found, todo = set(states), list(states)
        while todo:
            for there in self.skips[todo.pop()]:
                if there not in found:
                    found.add(there)
                    todo.append(there)
        return frozenset(found)


@dataclass(frozen=True, eq=False)
class Pattern:
    """A regular expression that a whole text must match."""

    regex: str
    """In a spelling that all engines read alike, without anchors."""
    automaton: Automaton
    max_length: int | None
    """Characters of the longest text that matches; None without a limit."""


@lru_cache(maxsize=256)
def read_pattern(pattern: str, *, search: bool = False) -> Pattern:
    """Read a regular expression.

    Args:
        pattern: in the syntax that Python and JSON Schema share. Looking ahead and behind,
            references to groups, flags and word boundaries are refused.
        search: a match anywhere in the text is enough, as in JSON Schema; `^` and `$` tie it to
            the ends. Else the whole text must match.

    Raises:
        PatternError: it cannot be read, or has something that is refused.
    """
    try:
        tree = parser.parse(re.sub(r"\\/", "/", pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"the pattern cannot be read: {error}") from None
    if tree.state.flags & ~re.UNICODE:
        raise PatternError("flags such as (?i) are not supported")
    automaton = Automaton()
    automaton.first = automaton.add()
    parts = _branches(list(tree))
    regexes, ends, lengths = [], [], []
    for part in parts:
        tied = [bool(part) and part[0] == (constants.AT, constants.AT_BEGINNING)]
        tied.append(len(part) > tied[0] and part[-1] == (constants.AT, constants.AT_END))
        inner = part[tied[0] : len(part) - tied[1]]
        anything = (constants.MAX_REPEAT, (0, constants.MAXREPEAT, [(constants.ANY_ALL, None)]))
        if search:
            inner = [*([] if tied[0] else [anything]), *inner, *([] if tied[1] else [anything])]
        regex, end, length = _build(automaton, automaton.first, inner)
        regexes.append(regex)
        ends.append(end)
        lengths.append(length)
    automaton.last = automaton.add()
    for end in ends:
        automaton.skips[end].append(automaton.last)
    if automaton._ways[0][0][automaton.first] == float("inf"):
        raise PatternError("nothing matches the pattern")
    regex = regexes[0] if len(regexes) == 1 else "(?:" + "|".join(regexes) + ")"
    limit = max(lengths)
    return Pattern(regex, automaton, None if limit == float("inf") else int(limit))


def _branches(tree: list[Any]) -> list[list[Any]]:
    """The alternatives at the top, where anchors may stand: `^a|b$`, `^(?:a|b)$`."""
    if len(tree) == 1 and tree[0][0] is constants.BRANCH:
        return [found for each in tree[0][1][1] for found in _branches(list(each))]
    if len(tree) == 1 and tree[0][0] is constants.SUBPATTERN:
        return _branches(list(tree[0][1][3]))
    # The parser takes out what alternatives begin with: ^a|^b comes as ^(?:a|b).
    if len(tree) == 2 and tree[0][0] is constants.AT and tree[1][0] is constants.BRANCH:
        return [[tree[0], *each] for each in tree[1][1][1]]
    return [tree]


def _build(automaton: Automaton, state: int, tree: Sequence[Any]) -> tuple[str, int, float]:
    """Add what a parsed pattern says after `state`: its spelling, its end, its longest text."""
    regex, length = "", 0.0
    for kind, value in tree:
        part, state, longest = _build_one(automaton, state, kind, value)
        regex, length = regex + part, length + longest
    return regex, state, length


def _build_one(automaton: Automaton, state: int, kind: Any, value: Any) -> tuple[str, int, float]:
    ranges = _ranges(kind, value)
    if ranges is not None:
        if not ranges:
            raise PatternError("a class of the pattern holds no character")
        there = automaton.add()
        automaton.edges[state].append((ranges, there))
        return _spelled(ranges), there, 1
    if kind is constants.BRANCH:
        end, regexes, longest = automaton.add(), [], 0.0
        for option in value[1]:
            regex, last, length = _build(automaton, state, list(option))
            automaton.skips[last].append(end)
            regexes.append(regex)
            longest = max(longest, length)
        return "(?:" + "|".join(regexes) + ")", end, longest
    if kind is constants.SUBPATTERN:
        _, on, off, inner = value
        if on or off:
            raise PatternError("flags such as (?i) are not supported")
        regex, state, length = _build(automaton, state, list(inner))
        return f"(?:{regex})", state, length
    if kind in (constants.MAX_REPEAT, constants.MIN_REPEAT):
        return _repeat(automaton, state, *value)
    names = {
        constants.AT: "an anchor inside the pattern, or a word boundary,",
        constants.ASSERT: "looking ahead or behind",
        constants.ASSERT_NOT: "looking ahead or behind",
        constants.GROUPREF: "a reference to a group",
        constants.GROUPREF_EXISTS: "a reference to a group",
    }
    raise PatternError(f"{names.get(kind, str(kind).lower())} is not supported")


def _repeat(
    automaton: Automaton, state: int, low: int, high: int, inner: Any
) -> tuple[str, int, float]:
    regex, longest = "", 0.0
    for _ in range(low):
        regex, state, longest = _build(automaton, state, list(inner))
    endless = high is constants.MAXREPEAT
    if endless:
        begin = automaton.add()
        automaton.skips[state].append(begin)
        regex, last, longest = _build(automaton, begin, list(inner))
        automaton.skips[last].append(begin)
        state = begin
    else:
        end = automaton.add()
        for _ in range(high - low):
            automaton.skips[state].append(end)
            regex, state, longest = _build(automaton, state, list(inner))
        automaton.skips[state].append(end)
        state = end
    bounds = f"{{{low},}}" if endless else f"{{{low},{high}}}"
    length = longest * (float("inf") if endless else high) if longest else 0.0
    return (f"(?:{regex}){bounds}" if regex else ""), state, length


def _ranges(kind: Any, value: Any) -> Ranges | None:
    """Characters that one element of a parsed pattern stands for; None if it is no character."""
    if kind is constants.LITERAL:
        return ((value, value),)
    if kind is constants.NOT_LITERAL:
        return _without(((value, value),))
    if kind is constants.ANY:
        return _without(LINE_ENDS)
    if kind is constants.ANY_ALL:
        return _without(())
    if kind is constants.CATEGORY:
        known = {
            constants.CATEGORY_DIGIT: DIGITS,
            constants.CATEGORY_WORD: WORD,
            constants.CATEGORY_SPACE: SPACES,
            # What is no digit and no word character beyond ASCII is a matter of the engine.
            constants.CATEGORY_NOT_DIGIT: _common(_without(DIGITS), ASCII),
            constants.CATEGORY_NOT_WORD: _common(_without(WORD), ASCII),
            constants.CATEGORY_NOT_SPACE: _common(_without((*SPACES, (28, 31))), ASCII),
        }
        return known[value]
    if kind is constants.IN:
        return _class(value)
    return None


def _class(items: Sequence[Any]) -> Ranges:
    """Characters of `[...]`."""
    negated = items[0][0] is constants.NEGATE
    found: list[tuple[int, int]] = []
    narrow = False
    for kind, value in items[1:] if negated else items:
        if kind is constants.RANGE:
            found.append(value)
        else:
            found += _ranges(kind, value) or ()
            narrow |= kind is constants.CATEGORY
    ranges = _joined(found)
    if not negated:
        return _common(ranges, _without(()))
    # [^\w] leaves characters beyond ASCII that some engines count as word characters.
    return _common(_without(ranges), ASCII) if narrow else _without(ranges)


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def _without(ranges: Ranges) -> Ranges:
    """All characters but these; halves of surrogate pairs are none."""
    found, start = [], 0
    for low, high in _joined([*ranges, *SURROGATES]):
        if start < low:
            found.append((start, low - 1))
        start = high + 1
    return (*found, (start, LAST_POINT)) if start <= LAST_POINT else tuple(found)


def _common(some: Ranges, others: Ranges) -> Ranges:
    found = [
        (max(low, first), min(high, last))
        for low, high in some
        for first, last in others
        if max(low, first) <= min(high, last)
    ]
    return _joined(found)


def _spelled(ranges: Ranges) -> str:
    """A class in the syntax of Rust's regular expressions."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1] and chr(ranges[0][0]).isalnum():
        return chr(ranges[0][0])
    parts = [
        f"\\x{{{low:X}}}" + (f"-\\x{{{high:X}}}" if high > low else "") for low, high in ranges
    ]
    return "[" + "".join(parts) + "]"


@lru_cache(maxsize=4096)
def _example(ranges: Ranges) -> str:
    """One of the characters: one that JSON writes as it is, where there is one."""
    for preferred in ((48, 57), (97, 122), (65, 90), (35, 91), (32, 33), (93, 126)):
        for low, high in ranges:
            if max(low, preferred[0]) <= min(high, preferred[1]):
                return chr(max(low, preferred[0]))
    return chr(next((low for low, _ in reversed(ranges) if low > 127), ranges[0][0]))
