"""What is hidden in a long text, and what is asked about it: the probes of `needle.py`.

Source: RULER, as there; its numbers are those of its scripts/synthetic.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from afm_mlx.errors import DataError
from afm_mlx.synthetic.draws import Draw

COMMON_WORDS = "common_words"
"""The probe whose text is what is asked about."""

PROBES = {
    "single": "a needle by itself",
    "multi_key": "one needle of several",
    "multi_value": "several values of one key",
    "multi_query": "several needles at once",
    "tracking": "variables that get a value from each other",
    COMMON_WORDS: "the commonest words of a list",
}
"""Each with a word on what it is."""

_NEEDLES = 4  # where there are several. Source: RULER
_HOPS = 4  # of a chain of variables. Source: RULER
_COMMON = 10  # common words of a list. Source: RULER
_MOST_TIMES = 30  # that a common word is in a list, and the others at most 3. Source: RULER
_SAMPLED = 100  # words by which the tokens of one are estimated; ours
_LISTED = 30  # entries of a list for each time that a common word is in it; ours

_QUALITIES = """
amber ancient bitter brave bright broken calm clever cloudy copper crooked curious distant dusty
eager early faded famous fancy fierce frozen gentle giant golden hidden hollow humble icy jolly
lively lonely lucky marble mellow misty narrow noble patient proud quiet rapid rusty secret shy
silver tiny velvet wild"""
_THINGS = """
anchor apple arrow badger basket beacon bridge candle canyon castle clock comet cradle desert
engine falcon feather forest fountain garden goblet hammer harbor island jacket kettle ladder
lantern lemon magnet meadow mirror mountain needle orchard owl paddle pepper piano rabbit river
saddle shadow spider thunder tunnel violin window"""
_NAMES = tuple(f"{quality}-{thing}" for quality in _QUALITIES.split() for thing in _THINGS.split())
_LETTERS = "ABCDEFGHKLMNPRSTVWX"  # of variables' names


@dataclass(frozen=True)
class Hidden:
    """What is hidden in a text, and what is asked."""

    facts: Sequence[str]
    """Sentences, in the order in which they come."""
    question: str
    wanted: Sequence[str]
    """Numbers or words that the answer must have."""
    before: str = ""
    """Stands before the text."""
    depth: float | None = None
    """Of the only fact, 0 for the beginning to 1 for the end; None: facts stand anywhere."""


def hide(kind: str, draw: Draw) -> Hidden:
    """A probe of one of `PROBES` that has facts, which is all but `common_words`."""
    return _MAKERS[kind](draw)


def common_words(draw: Draw, room: int, size: Callable[[str], int]) -> tuple[Hidden, str]:
    """A list in which ten words come often, and the others seldom.

    Args:
        draw: of the item.
        room: tokens for list and question.
        size: tokens of a text.

    Raises:
        DataError: there is no room for a list.
    """
    before = (
        "Below is a numbered list of words. Some words come more often than others. Remember those "
        "that come most often."
    )
    question = (
        f"Which {_COMMON} words come most often in the list above? Answer with the words alone."
    )
    room -= size(before) + size(question)
    words = draw.shuffled(_NAMES)
    common, others = words[:_COMMON], words[_COMMON:]
    entries = 100
    for _ in range(2):  # a number in the middle of the list has about the mean number of digits
        cost = sum(size(f" {entries // 2}. {word}") for word in words[:_SAMPLED]) / _SAMPLED
        entries = int(room / cost)
    times = min(_MOST_TIMES, entries // _LISTED)
    if times < 2:
        raise DataError(
            f"{room:,} tokens are left for a list, and {2 * _LISTED * cost:,.0f} are needed",
            hint="give greater lengths, or leave common_words out",
        )
    seldom = max(1, min(3, times // 3))
    listed = common * times
    count = min((entries - len(listed)) // seldom, len(others))
    listed += others[:count] * seldom
    shuffled = draw.shuffled(listed)
    text = " ".join(f"{number}. {word}" for number, word in enumerate(shuffled, start=1))
    return Hidden((), question, common, before), text


def _value(draw: Draw) -> str:
    return str(draw.between(1_000_000, 9_999_999))


def _variable(draw: Draw) -> str:
    return "".join(draw.pick(_LETTERS) for _ in range(5))


def _different(draw: Draw, one: Callable[[Draw], str], count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[one(draw)] = None
    return list(found)


def _needles(draw: Draw, keys: int, values: int, asked: int) -> Hidden:
    """Magic numbers of some keys; those of the first `asked` keys are wanted."""
    names = draw.some(_NAMES, keys)
    numbers = _different(draw, _value, keys * values)
    of_key = [numbers[place * values : (place + 1) * values] for place in range(keys)]
    facts = [
        f"One of the magic numbers for {name} is: {number}."
        for name, some in zip(names, of_key, strict=True)
        for number in some
    ]
    wanted = [number for some in of_key[:asked] for number in some]
    who = ", ".join(names[:asked])
    what = "is the magic number" if len(wanted) == 1 else "are all the magic numbers"
    return Hidden(
        draw.shuffled(facts),
        f"What {what} for {who} in the text above? Answer with "
        + ("the number." if len(wanted) == 1 else "the numbers."),
        wanted,
        "Magic numbers are hidden in the following text. Remember them: a question about them "
        "comes after it.",
    )


def _tracking(draw: Draw) -> Hidden:
    """A value that goes from variable to variable."""
    names = _different(draw, _variable, _HOPS + 1)
    value = str(draw.between(10_000, 99_999))
    facts = [f"VAR {names[0]} = {value}."]
    facts += [f"VAR {names[n + 1]} = VAR {names[n]}." for n in range(_HOPS)]
    return Hidden(
        facts,
        f"Which {len(names)} variables have the value {value} in the text above, directly or by "
        "another variable? Answer with their names.",
        names,
        "Variables get values in the following text. Follow them: a question comes after it.",
    )


_MAKERS: Mapping[str, Callable[[Draw], Hidden]] = {
    "single": lambda draw: _needles(draw, 1, 1, 1),
    "multi_key": lambda draw: _needles(draw, _NEEDLES, 1, 1),
    "multi_value": lambda draw: _needles(draw, 1, _NEEDLES, 1),
    "multi_query": lambda draw: _needles(draw, _NEEDLES, 1, _NEEDLES),
    "tracking": _tracking,
}
