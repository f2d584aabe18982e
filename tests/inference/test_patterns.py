"""The language of patterns, and where they match; Python's `re` is the yardstick."""

import random
import re
import time

import pytest

from afm_mlx.errors import RecipeError
from afm_mlx.inference.matching import Automaton, Scan
from afm_mlx.inference.patterns import LONGEST, longest, parse_pattern, places


def found(patterns, *pieces) -> list[tuple[int, int]]:
    """Number and start of each match in a text that comes in pieces."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    scan = Scan(Automaton(map(parse_pattern, patterns)))
    matches = [match for piece in pieces for match in scan.read(piece)]
    return [(match.pattern, match.start) for match in [*matches, *scan.end()]]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("kill", "Kill!"),
        ("kill", "k1ll"),
        ("kill", "K\u200bI\u00adL\ufe0fL"),  # zero width, soft hyphen, variation selector
        ("kill", "\uff4b\uff49\uff4c\uff4c"),  # full width
        ("kill", "\U0001d424\U0001d422\U0001d425\U0001d425"),  # mathematical
        ("kill", "k\u00edll"),
        ("kill", "ki\u0301ll"),
        ("kill", "k\u0456ll"),  # Cyrillic i
        ("ass", "@$$"),
        ("caf\u00e9", "CAFE\u0301"),
        ("stra\u00dfe", "STRASSE"),
        ("self harm", "self-harm"),
        ("kill people", "kill   \n people"),
        ("kill people", "**kill** people"),
        ("don'?t", "don\u2019t"),
        ("how ... bomb", "how do I build a bomb"),
        ("how ... bomb", "how: bomb"),
        ("(red|green) cars?", "green car"),
        ("a{2,3}", "aaa"),
        ("[a-c]x", "bx"),
        ("[^a-c]x", "dx"),
        (r"\d\d \w{3} \S", "42 cat ?"),
        (r"c\+\+", "c++"),
        ("(?:re)?start", "restart"),
        ("\u6740\u4eba", "\u4ed6\u60f3\u6740\u4eba\u5417"),  # no spaces between words
    ],
)
def test_a_pattern_matches(pattern, text):
    assert found(pattern, text)
    assert found(pattern, f"x {text} x")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("kill", "skill"),
        ("kill", "killing"),
        ("kill people", "killpeople"),
        ("kill people", "kill, -- - people"),
        ("how ... bomb", "how are you. I saw a bomb"),
        ("how ... bomb", "how " + "x" * 50 + " bomb"),
        ("a{2,3}", "aaaa"),
        ("[a-c]x", "dx"),
        (r"\d", "x"),
        ("42", "4z"),  # a figure stands for itself only
        ("\u00fcber", "\u0442ber"),
    ],
)
def test_a_pattern_does_not_match(pattern, text):
    assert not found(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a*", r"'\*' has no bound"),
        ("a+", r"'\+' has no bound"),
        ("*a", "repeats nothing"),
        ("a{3", "is no repetition"),
        ("a{x}", "is no repetition"),
        ("a{3,2}", "must go up"),
        ("a{0,999999999999}", "must go up"),
        ("(a", "not closed"),
        ("a)", "closes nothing"),
        ("[a", "not closed"),
        ("[z-a]", "goes down"),
        ("[\u00df]", "counts as 2 characters"),
        ("^a", "not needed"),
        (r"\bkill\b", "not needed"),
        (r"\q", "means nothing"),
        ("a\\", "means nothing"),
        ("(?=a)", "is no group"),
        ("a|", "matches an empty text"),
        ("", "matches an empty text"),
        ("how...bomb", "between two words"),
        ("(a{0,20}){0,20}", "up to 400 characters"),
        ("((((a{0,99}){0,99}){0,99}){0,99}){0,99}", "characters, and 200"),
        ("(" + "|".join(["a{50}"] * 50) + ")", "2,500 places"),
        ("(" * 5_000 + "a" + ")" * 5_000, "groups inside each other"),
    ],
)
def test_a_pattern_is_refused_with_a_reason(pattern, said):
    with pytest.raises(RecipeError, match=said):
        parse_pattern(pattern)


def a_pattern(draw: random.Random, depth: int = 3) -> str:
    """A small random pattern over a, b and a hyphen."""
    kind = draw.randrange(7) if depth else 0
    if kind <= 1:
        return draw.choice(["a", "b", "-", "[ab]", "[^a]", "."])
    parts = [a_pattern(draw, depth - 1) for _ in range(draw.randint(1, 3))]
    if kind <= 4:
        return "".join(parts)
    if kind == 5:
        return f"({'|'.join(parts)})"
    return f"({parts[0]}){draw.choice(['?', '{2}', '{0,2}', '{1,3}'])}"


def test_matches_are_those_of_re():
    draw = random.Random(7)
    tried = hits = 0
    while tried < 400:
        pattern = a_pattern(draw)
        try:
            node = parse_pattern(pattern)
        except RecipeError:
            continue
        tried += 1
        automaton = Automaton([node])
        edge = r"(?:(?<!\w)|(?!\w))"  # not inside a word
        oracle = re.compile(f"{edge}(?:{pattern}){edge}", re.DOTALL)
        for _ in range(20):
            text = "".join(draw.choice("aab-c") for _ in range(draw.randint(0, 9)))
            scan = Scan(automaton)
            ours = [*scan.read(text), *scan.end()]
            assert bool(ours) == bool(oracle.search(text)), (pattern, text)
            hits += bool(ours)
    assert 1_000 < hits < 7_000  # else the test says little


def test_pieces_change_nothing():
    draw = random.Random(3)
    patterns = ["how ... bomb", "a (b|c){1,3} d", "k\u00efll people"]
    text = (
        "How a b c! d to  k\u0131ll\u200b peop\u0142e, a cb-d how do I, bomb k1\u0308ll people. How"
    )
    whole = found(patterns, text)
    assert len(whole) >= 2
    for _ in range(200):
        cuts = sorted(draw.choices(range(len(text) + 1), k=draw.randint(0, 20)))
        ends = [*cuts, len(text)]
        pieces = [text[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
        assert found(patterns, *pieces) == whole


def test_what_is_undecided_is_the_oldest_beginning_that_is_still_possible():
    scan = Scan(Automaton(map(parse_pattern, ["one two three", "two four"])))
    seen = []
    for word in ("zero ", "one ", "two ", "x", " two"):
        assert not list(scan.read(word))
        seen.append(scan.undecided)
    # "one " may begin a match; "x" ends that hope; "two" is a new one.
    assert seen == [5, 5, 5, 14, 15]


def test_no_more_than_the_longest_pattern_is_undecided():
    patterns = ["how ... make ... (bomb|drug)", "(a ){1,20}b"]
    nodes = [parse_pattern(pattern) for pattern in patterns]
    most = max(map(longest, nodes))
    assert most <= LONGEST
    scan = Scan(Automaton(nodes))
    text = "how a make a " * 300
    for number, character in enumerate(text, start=1):
        list(scan.read(character))
        assert number - scan.undecided <= most


def test_time_is_linear_where_backtracking_takes_for_ever():
    pattern = "(a?){50}(a{1,9}){9}c"  # re needs more than 2**50 steps for this
    automaton = Automaton([parse_pattern(pattern)])
    text = "a" * 2_000
    list(Scan(automaton).read(text))
    began = time.perf_counter()
    list(Scan(automaton).read(text * 2))
    once = time.perf_counter() - began
    assert once < 5


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("afm_mlx.inference.matching.MOST_STATES", 50)
    automaton = Automaton(map(parse_pattern, ["x ... y", "z ... y"]))
    draw = random.Random(1)
    text = "".join(draw.choice(["x ", "z ", "q", " "]) for _ in range(3_000)) + "x y"
    scan = Scan(automaton)
    assert 0 in [match.pattern for match in [*scan.read(text), *scan.end()]]
    assert len(automaton._states) <= 50


def test_places_count_repetitions_written_out():
    node = parse_pattern("a(b|c){2}d?")
    assert (places(node), longest(node), len(Automaton([node]))) == (6, 4, 6)
