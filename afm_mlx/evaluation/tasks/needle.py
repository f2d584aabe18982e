"""Long contexts: facts hidden in long texts, at stated lengths and depths.

A needle in a haystack, and five more probes in the manner of RULER: one needle of several, several
values of one, several needles at once, a chain of variables, and the commonest words of a list. All
are made here, the same ones in every run: no data are needed.

Source: Hsieh et al., RULER, arXiv:2404.06654, sections 3 and 4. The wording, the words and the
sizes are ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.synthetic.constraints import sentences
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.kinds.texts import read_prose

if TYPE_CHECKING:
    from afm_mlx.evaluation.scores import Score
    from afm_mlx.text.tokenizer import Tokenizer

LENGTHS = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768)
"""Tokens. Source: as of the module, from 4,096 on."""

EFFECTIVE = 0.856
"""Share of facts that must be found at a length which a model can be said to use: that of
Llama-2-7B at 4,096 tokens. Source: as of the module, section 4."""

NOISE = "noise"
"""Text of a haystack: five sentences over and over, which hide nothing. Source: RULER."""

_NOISE = (
    "The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.",
    "There and back again.",
)  # fmt: skip
_TEMPLATE_TOKENS = 64  # that a chat template and its own system message may take; ours
_CHARACTERS = 4  # of a token, where there is no tokenizer; ours
_NEEDLES = 4  # where there are several. Source: RULER, table 2
_HOPS = 4  # of a chain of variables. Source: RULER, table 2
_COMMON = 10  # common words of a list. Source: RULER, table 2
_MOST_TIMES = 30  # that a common word is in a list, and the others at most 3. Source: as above
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


def tokens_counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    """Function: how many tokens a text has."""
    return lambda text: len(tokenizer.encode(text))


def four_characters_each(text: str) -> int:
    """How many tokens a text has about, whatever the tokenizer."""
    return -(-len(text) // _CHARACTERS)


@dataclass(frozen=True)
class Needle:
    """The probes."""

    name: ClassVar[str] = "needle"

    lengths: Sequence[int] = LENGTHS
    """Tokens of a prompt and its answer together."""
    kinds: Sequence[str] = (
        "single", "multi_key", "multi_value", "multi_query", "tracking", "common_words",
    )  # fmt: skip
    """Of the six probes."""
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the needle of `single` stands: from 0, the beginning, to 1."""
    items_each: int = 5
    """Of each kind and length; those of `single` are at the depths in turn. Ours."""
    text: str = "python:docs"
    """What facts are hidden in: `noise`, or prose as of `read_prose`: a file, a folder, or the
    documentation of the running Python."""
    max_tokens: int = 128
    """Longest answer. Source: RULER's of needles."""
    seed: int = 0
    count_tokens: Callable[[str], int] = field(default=four_characters_each, repr=False)
    """Tokens of a text, as the subject counts them."""

    @property
    def figures(self) -> Mapping[str, str]:
        """See `Task`."""
        return {
            "recall": "share of the hidden facts that are found",
            **{kind: f"the same, of {_WORDS[kind]}" for kind in self.kinds},
            **{
                _depth_name(depth): f"the same, of single needles at {depth:.0%} of the text"
                for depth in self.depths
                if "single" in self.kinds
            },
        }

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        by_characters = self.count_tokens is four_characters_each
        return {
            "lengths": list(self.lengths),
            "kinds": list(self.kinds),
            "depths": list(self.depths),
            "items_each": self.items_each,
            "text": self.text,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "tokens": "of four characters" if by_characters else "of the subject",
        }

    def items(self) -> Sequence[Item]:
        """See `Task`. Groups are the lengths.

        Raises:
            DataError: a kind is unknown, a length is too short for anything, or there is no text.
        """
        for kind in self.kinds:
            if kind not in _WORDS:
                raise DataError(f"no probe is called '{kind}'", hint=f"one of {', '.join(_WORDS)}")
        size = lru_cache(maxsize=2**16)(self.count_tokens)
        return [
            self._item(kind, length, number, size)
            for length in self.lengths
            for kind in self.kinds
            for number in range(self.items_each)
        ]

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        assert isinstance(item, Question)
        found, wanted = self._found(item, reply), item.facts["wanted"]
        mark = Mark(len(found) / len(wanted))
        marks = {"recall": mark, item.facts["kind"]: mark}
        if item.facts["depth"] is not None:
            marks[_depth_name(item.facts["depth"])] = mark
        return marks

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Question)
        return {**item.facts, "found": self._found(item, reply)}

    def _found(self, item: Question, reply: Reply) -> list[str]:
        if not isinstance(reply, Answer):
            return []
        # A number may be written with separators.
        text = re.sub(r"(?<=\d),(?=\d{3})", "", reply.text)
        return [
            wanted
            for wanted in item.facts["wanted"]
            if re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text, re.IGNORECASE)
        ]

    def _item(self, kind: str, length: int, number: int, size: Callable[[str], int]) -> Question:
        draw = Draw("needle", self.seed, kind, length, number)
        room = length - self.max_tokens - _TEMPLATE_TOKENS
        if kind == "common_words":
            hidden, text = _common_words(draw, room, size)
        else:
            hidden = _KINDS[kind](draw)
            if kind == "single":
                hidden = replace(hidden, depth=self.depths[number % len(self.depths)])
            text = self._haystack(draw, hidden, room, size)
        prompt = "\n\n".join((hidden.before, text, hidden.question))
        return Question(
            f"{kind}-{length}-{number}",
            ({"role": "user", "content": prompt},),
            self.max_tokens,
            group=str(length),
            facts={
                "kind": kind,
                "length": length,
                "depth": hidden.depth,
                "wanted": list(hidden.wanted),
            },
        )

    def _haystack(self, draw: Draw, hidden: Hidden, room: int, size: Callable[[str], int]) -> str:
        """Sentences of the text, and the facts between them."""
        room -= size(hidden.before) + size(hidden.question)
        room -= sum(size(f" {fact}") for fact in hidden.facts)
        if room < size(" ".join(_NOISE)):
            raise DataError(
                f"{room:,} tokens are left for a text in which to hide facts",
                hint="give greater lengths, or smaller max_tokens",
            )
        straw = self._sentences
        place = 0 if self.text == NOISE else draw.below(len(straw))
        chosen: list[str] = []
        while (room := room - size(f" {straw[place]}")) >= 0:
            chosen.append(straw[place])
            place = (place + 1) % len(straw)
        if hidden.depth is None:
            places = sorted(draw.between(0, len(chosen)) for _ in hidden.facts)
        else:
            places = [round(hidden.depth * len(chosen))]
        for place, fact in reversed(list(zip(places, hidden.facts, strict=True))):
            chosen.insert(place, fact)
        return " ".join(chosen)

    @cached_property
    def _sentences(self) -> Sequence[str]:
        if self.text == NOISE:
            return _NOISE
        return [
            sentence
            for paragraph in read_prose(self.text).paragraphs
            for sentence in sentences(paragraph)
        ]


def effective_length(
    groups: Mapping[str, Mapping[str, Score]], threshold: float = EFFECTIVE
) -> int:
    """Longest length at which the mean is at least the threshold; 0 where there is none.

    `groups` are those of a result, by length.
    """
    enough = (int(name) for name, scores in groups.items() if scores["recall"].value >= threshold)
    return max(enough, default=0)


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


def _common_words(draw: Draw, room: int, size: Callable[[str], int]) -> tuple[Hidden, str]:
    """A list in which ten words come often, and the others seldom."""
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


_KINDS: Mapping[str, Callable[[Draw], Hidden]] = {
    "single": lambda draw: _needles(draw, 1, 1, 1),
    "multi_key": lambda draw: _needles(draw, _NEEDLES, 1, 1),
    "multi_value": lambda draw: _needles(draw, 1, _NEEDLES, 1),
    "multi_query": lambda draw: _needles(draw, _NEEDLES, 1, _NEEDLES),
    "tracking": _tracking,
}
_WORDS = {
    "single": "a needle by itself",
    "multi_key": "one needle of several",
    "multi_value": "several values of one key",
    "multi_query": "several needles at once",
    "tracking": "variables that get a value from each other",
    "common_words": "the commonest words of a list",
}


def _depth_name(depth: float) -> str:
    return f"depth_{round(100 * depth)}"
