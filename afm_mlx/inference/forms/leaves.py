"""Leaves of forms: how far each is, what may follow, and the shortest way to its end.

A leaf's state is whatever the functions here make of it; states that are equal go on alike.
"""

from __future__ import annotations

import json
import string
from typing import NamedTuple

from afm_mlx.inference.forms.nodes import (
    MARKS,
    Anything,
    Leaf,
    Match,
    Multiple,
    Piece,
    String,
    Text,
)

SIMPLE_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", '"': '"', "\\": "\\"}

CONTROL_CODES = [f"{code:04x}" for code in (*range(0x1F, -1, -1), 0x7F)]
"""What JSON has only as an escape: all that guided strings have in this form."""

DONE = object()
"""State of a leaf that is whole."""


class Inside(NamedTuple):
    """State of a JSON string after its first quote."""

    length: int
    """Characters so far, escapes undone."""
    escape: str
    """Of an escape that is not complete: from its backslash on."""
    content: frozenset[int] | str | None
    """Where in the pattern; or what it says so far, as long as a taken name begins so."""


def leaf_start(leaf: Leaf) -> object:
    """State before the first character."""
    match leaf:
        case Text():
            return 0
        case Match(pattern):
            return pattern.automaton.start
        case Multiple():
            return ""
    return None


def leaf_step(leaf: Leaf, state: object, character: str) -> object:
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
            return None if _is_mark(character) else ""
        case Piece(_, mark):
            return DONE if character == mark else None
    return _string_step(leaf, state, character)


def _string_step(leaf: String, state: object, character: str) -> object:
    if state is None:
        content = leaf.pattern.automaton.start if leaf.pattern else _begins("", leaf.taken)
        return Inside(0, "", content) if character == '"' else None
    assert isinstance(state, Inside)
    if state.escape:
        escape = state.escape + character
        if escape[1] != "u":
            read = SIMPLE_ESCAPES.get(escape[1])
            return None if read is None else _string_add(leaf, state, read)
        if not any(code.startswith(escape[2:].lower()) for code in CONTROL_CODES):
            return None
        if len(escape) < 6:
            return state._replace(escape=escape)
        return _string_add(leaf, state, chr(int(escape[2:], 16)))
    if character == '"':
        if state.length < leaf.min_length or state.content in leaf.taken:
            return None
        if leaf.pattern and leaf.pattern.automaton.last not in state.content:  # type: ignore[operator]
            return None
        return DONE
    if character == "\\":
        return state._replace(escape="\\")
    if character < " " or _is_mark(character):
        return None
    return _string_add(leaf, state, character)


def _string_add(leaf: String, state: Inside, character: str) -> Inside | None:
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


def leaf_may_end(leaf: Leaf, state: object) -> bool:
    """Whether the leaf can be over although more of it could follow."""
    match leaf:
        case Match(pattern):
            assert isinstance(state, frozenset)
            return pattern.automaton.last in state
        case Multiple():
            return _multiple_rest(leaf, str(state)) == ""
    return isinstance(leaf, Anything)


def leaf_is_loose(leaf: Leaf, state: object) -> bool:
    """Whether plain characters move its end no further away: a string without a form, or text."""
    if isinstance(leaf, String) and isinstance(state, Inside):
        return state.content is None and not state.escape
    return isinstance(leaf, Anything)


def leaf_rest(leaf: Leaf, state: object) -> str:
    """Fewest characters that end the leaf."""
    match leaf:
        case Text(text):
            assert isinstance(state, int)
            return text[state:]
        case Match(pattern):
            assert isinstance(state, frozenset)
            return pattern.automaton.rest(state)
        case Multiple():
            return _multiple_rest(leaf, str(state)) or ""
        case Piece(_, mark):
            return mark
        case String():
            return _string_rest(leaf, state)
    return ""


def _string_rest(leaf: String, state: object) -> str:
    if state is None:
        state = _string_step(leaf, None, '"')
        return '"' + _string_rest(leaf, state)
    assert isinstance(state, Inside)
    missing = max(0, leaf.min_length - state.length)
    if state.escape:
        if state.escape == "\\":
            finishes = list(SIMPLE_ESCAPES)
        else:
            begun = state.escape[2:].lower()
            finishes = [code[len(begun) :] for code in CONTROL_CODES if code.startswith(begun)]
        for text in finishes:
            after: object = state
            for character in text:
                after = None if after is None else _string_step(leaf, after, character)
            if isinstance(after, Inside) and not after.escape:
                return text + _string_rest(leaf, after)
        return ""
    if leaf.pattern:
        assert isinstance(state.content, frozenset)
        text = leaf.pattern.automaton.rest(state.content, missing)
    else:
        text = "0" * missing
        while state.content is not None and f"{state.content}{text}" in leaf.taken:
            text += "0"
    return json.dumps(text, ensure_ascii=False)[1:].replace("\x7f", "\\u007f")


def _is_mark(character: str) -> bool:
    return MARKS[0] <= character <= MARKS[1]


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
