"""Where patterns match in a text that comes in pieces, and where a match could still begin.

All patterns are one automaton: its places are the places for a character in the patterns, each
with the places that may follow (Glushkov's construction). Reading a character takes the set of
places reached so far to the next set. Sets that were met before are remembered with where they lead
to, so usual text costs one look-up per character; in no case is a character read twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from afm_mlx.inference.folding import fold, joins
from afm_mlx.inference.patterns import Characters, Either, Node, Repeated

MOST_STATES = 20_000
"""Sets of places that are remembered; then all are forgotten. About 1 KB each. Ours."""

END = -1
"""The class of the end of a text."""


@dataclass(frozen=True)
class Match:
    """A pattern that was found."""

    pattern: int
    """Its number in the automaton."""
    start: int
    """Characters before it; before a longer match that is still undecided, where there is one."""


@dataclass(frozen=True)
class _Part:
    """What of a pattern has been built: where it can begin and end."""

    empty: bool
    first: frozenset[int]
    last: frozenset[int]


@dataclass(eq=False)
class _State:
    """What could be going on: places that are reached, by where their match began."""

    groups: tuple[frozenset[int], ...]
    """The oldest beginning first. A place that two beginnings lead to belongs to the older."""
    joined: bool
    """Whether the last character makes one word with a letter that follows."""
    steps: dict[int, _Step] = field(default_factory=dict)
    """By class of the next character."""


@dataclass(frozen=True)
class _Step:
    """What a character leads to."""

    found: tuple[int, ...]
    """Patterns whose match ended before this character."""
    state: _State
    kept: tuple[int, ...]
    """For each group of `state` its number in the state before; -1 if it begins here."""


class Automaton:
    """Patterns, ready to be looked for. May be used by several texts and threads at once."""

    def __init__(self, patterns: Iterable[Node]) -> None:
        self._kinds: dict[Characters, int] = {}  # all sets of characters, numbered
        self._kind: list[int] = []  # by place
        self._follow: list[set[int]] = []
        self._ends: dict[int, int] = {}
        first: set[int] = set()
        for number, node in enumerate(patterns):
            part = self._build(node)
            first |= part.first
            self._ends |= dict.fromkeys(part.last, number)
        self._first = frozenset(first)
        self._classes: dict[str, int] = {}  # of folded characters
        self._class_numbers: dict[tuple[bool, frozenset[int]], int] = {}
        self._taking: list[frozenset[int]] = []  # by class: the kinds that have its characters
        self._joining: list[bool] = []  # by class
        self._beginning: dict[int, frozenset[int]] = {}  # by class: places a match begins with
        self._states: dict[tuple[tuple[frozenset[int], ...], bool], _State] = {}
        self.start = self._state((), False)

    def __len__(self) -> int:
        """Number of places."""
        return len(self._kind)

    def class_of(self, folded: str) -> int:
        """Number of the class of a folded character: those that no pattern tells apart."""
        known = self._classes.get(folded)
        if known is not None:
            return known
        if len(self._classes) > MOST_STATES:  # an odd text; classes are few, characters are not
            self._classes = {}
        taking = frozenset(number for kind, number in self._kinds.items() if folded in kind)
        key = (joins(folded), taking)
        number = self._class_numbers.get(key)
        if number is None:
            number = len(self._taking)
            self._taking.append(taking)
            self._joining.append(key[0])
            self._class_numbers[key] = number
        self._classes[folded] = number
        return number

    def step(self, state: _State, kind: int) -> _Step:
        """What a character of class `kind` leads to from `state`."""
        known = state.steps.get(kind)
        if known is not None:
            return known
        inside = kind != END and state.joined and self._joining[kind]  # a word goes on
        ended = [] if inside else [place for group in state.groups for place in group]
        found = tuple(sorted({self._ends[place] for place in ended if place in self._ends}))
        taking: frozenset[int] = frozenset() if kind == END else self._taking[kind]
        groups, kept = [], []
        taken: set[int] = set()
        follow, kinds = self._follow, self._kind
        for number, group in enumerate(state.groups):
            reached = {
                after for place in group for after in follow[place] if kinds[after] in taking
            }
            reached -= taken
            if reached:
                taken |= reached
                groups.append(frozenset(reached))
                kept.append(number)
        if not inside:
            begun = self._beginning.get(kind)
            if begun is None:
                begun = frozenset(place for place in self._first if self._kind[place] in taking)
                self._beginning[kind] = begun
            if begun - taken:
                groups.append(begun - taken)
                kept.append(-1)
        joined = kind != END and self._joining[kind]
        step = _Step(found, self._state(tuple(groups), joined), tuple(kept))
        state.steps[kind] = step
        return step

    def _state(self, groups: tuple[frozenset[int], ...], joined: bool) -> _State:
        known = self._states.get((groups, joined))
        if known is not None:
            return known
        if len(self._states) >= MOST_STATES:
            for old in self._states.values():
                old.steps = {}  # or each would keep all that it leads to
            self._states = {}
        state = self._states[groups, joined] = _State(groups, joined)
        return state

    def _build(self, node: Node) -> _Part:
        if isinstance(node, Characters):
            place = len(self._kind)
            self._kind.append(self._kinds.setdefault(node, len(self._kinds)))
            self._follow.append(set())
            return _Part(False, frozenset([place]), frozenset([place]))
        if isinstance(node, Either):
            parts = [self._build(part) for part in node.parts]
            return _Part(
                any(part.empty for part in parts),
                frozenset().union(*(part.first for part in parts)),
                frozenset().union(*(part.last for part in parts)),
            )
        whole = _Part(True, frozenset(), frozenset())
        if isinstance(node, Repeated):
            for _ in range(node.most - node.least):  # a{0,2} is (a(a)?)?
                whole = self._joined(self._build(node.part), whole)
                whole = _Part(True, whole.first, whole.last)
            for _ in range(node.least):
                whole = self._joined(self._build(node.part), whole)
            return whole
        for part in node.parts:
            whole = self._joined(whole, self._build(part))
        return whole

    def _joined(self, left: _Part, right: _Part) -> _Part:
        for place in left.last:
            self._follow[place] |= right.first
        return _Part(
            left.empty and right.empty,
            left.first | right.first if left.empty else left.first,
            right.last | left.last if right.empty else right.last,
        )


class Scan:
    """One text, read piece by piece."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._state = automaton.start
        self._starts: tuple[int, ...] = ()
        self._count = 0
        self._spaced = True

    @property
    def undecided(self) -> int:
        """Characters, of all that were read, before the first where a match could begin."""
        return self._starts[0] if self._starts else self._count

    def read(self, text: str) -> Iterator[Match]:
        """Matches as they become certain, each when the character after it is read."""
        automaton = self._automaton
        for character in text:
            for folded in fold(character):
                spaced = folded == " "
                if spaced and self._spaced:
                    continue  # white space counts once
                self._spaced = spaced
                yield from self._step(automaton.class_of(folded))
            self._count += 1

    def end(self) -> Iterator[Match]:
        """Matches that the end of the text makes certain."""
        yield from self._step(END)

    def _step(self, kind: int) -> Iterable[Match]:
        step = self._state.steps.get(kind) or self._automaton.step(self._state, kind)
        found = [Match(pattern, self.undecided) for pattern in step.found]
        if step.kept or self._starts:
            starts, here = self._starts, self._count
            self._starts = tuple([here if old < 0 else starts[old] for old in step.kept])
        self._state = step.state
        return found
