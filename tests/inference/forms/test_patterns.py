"""Patterns: one spelling for all engines, and the shortest way to an end."""

import re

import pytest

from afm_mlx.inference.forms.patterns import PatternError, read_pattern


def matches(pattern, text, **how):
    """Whether the automaton takes a text as a whole."""
    automaton = read_pattern(pattern, **how).automaton
    states = automaton.start
    for character in text:
        states = automaton.step(states, character)
    return automaton.last in states


PATTERNS = [
    "cat|dog",
    "[a-c]x?",
    "a{2,3}b*",
    "(?:ab)+",
    r"\d\d-\d{2}",
    "(a|b)(c|d)?",
    "[^a-y ]",
    r"\w+",
    "a.c",
    r"[\d.]{2}",
]
TEXTS = ["", "cat", "dog", "a", "ax", "aab", "aaab", "ab", "abab", "12-34", "bd", "z", "abc", "1."]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_matches_as_in_python(pattern):
    for text in TEXTS:
        assert matches(pattern, text) == bool(re.fullmatch(pattern, text, re.ASCII)), text


@pytest.mark.parametrize("pattern", ["^ab", "ab$", "b", "^ab$", "^a|b$", "^(a|b)$"])
def test_a_search_finds_what_pythons_does(pattern):
    for text in [*TEXTS, "xb", "bx", "xax", "ab ", "b\nb"]:
        assert matches(pattern, text, search=True) == bool(re.search(pattern, text)), text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_our_spelling_means_the_same(pattern):
    spelled = re.sub(r"\\x\{([0-9A-F]+)\}", lambda m: re.escape(chr(int(m[1], 16))),
                     read_pattern(pattern).regex)  # fmt: skip
    for text in TEXTS:
        assert bool(re.fullmatch(spelled, text)) == matches(pattern, text), text


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("at_least", [0, 1, 4])
def test_the_shortest_rest_matches_and_is_long_enough(pattern, at_least):
    automaton = read_pattern(pattern).automaton
    text = automaton.rest(automaton.start, at_least)
    if len(text) >= at_least:  # some have no text of that length
        assert re.fullmatch(pattern, text, re.ASCII), text


def test_the_shortest_rest_is_the_shortest():
    automaton = read_pattern("(?:long way|ab)c{2,9}").automaton
    assert automaton.rest(automaton.start) == "abcc"
    states = automaton.start
    for character in "long":
        states = automaton.step(states, character)
    assert automaton.rest(states) == " waycc"
    assert automaton.longest_rest == 9


def test_what_engines_disagree_on_is_left_out():
    assert not matches(r"\D", "\u0663")  # a digit to Python, and none to JavaScript
    assert not matches(r"\W", "\u00e9")
    assert not matches(r"[^\w]", "\u00e9")
    assert matches(r"[^a]", "\u00e9")
    assert not matches(".", "\u2028")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "cannot be read"),
        ("(?i)a", "flags"),
        ("(?=a)b", "looking ahead"),
        (r"(a)\1", "reference to a group"),
        (r"a\bc", "word boundary"),
        ("a^b", "anchor inside"),
        (r"[^\x00-\U0010ffff]", "no character"),
        ("a{30000}", "more than 20,000"),
    ],
)
def test_what_cannot_be_promised_is_refused(pattern, words):
    with pytest.raises(PatternError, match=words):
        read_pattern(pattern)


def test_the_longest_text_is_known():
    assert read_pattern("a{2,5}|b").max_length == 5
    assert read_pattern("a+").max_length is None
