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
from typing import Any, ClassVar

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.evaluation.tasks.probes import COMMON_WORDS, PROBES, Hidden, common_words, hide
from afm_mlx.synthetic.constraints import sentences
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.kinds.texts import read_prose

LENGTHS = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768)
"""Tokens. Source: as of the module, from 4,096 on."""

NOISE = "noise"
"""Text of a haystack: five sentences over and over, which hide nothing. Source: RULER."""

_NOISE = (
    "The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.",
    "There and back again.",
)  # fmt: skip
_TEMPLATE_TOKENS = 64  # that a chat template and its own system message may take; ours
_CHARACTERS = 4  # of a token, where there is no tokenizer; ours


def four_characters_each(text: str) -> int:
    """How many tokens a text has about, whatever the tokenizer."""
    return -(-len(text) // _CHARACTERS)


@dataclass(frozen=True)
class Needle:
    """The probes."""

    name: ClassVar[str] = "needle"

    lengths: tuple[int, ...] = LENGTHS
    """Tokens of a prompt and its answer together."""
    kinds: tuple[str, ...] = tuple(PROBES)
    """Of the six probes."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the needle of `single` stands: from 0, the beginning, to 1."""
    items_each: int = 5
    """Of each kind and length; those of `single` are at the depths in turn. Ours."""
    text: str = "python:docs"
    """What facts are hidden in: `noise`, or prose as of `read_prose`: a file, a folder, or the
    documentation of the running Python."""
    max_tokens: int = 128
    """Longest answer. Source: RULER's of the needles."""
    seed: int = 0
    count_tokens: Callable[[str], int] = field(default=four_characters_each, repr=False)
    """Tokens of a text, as the subject counts them."""

    @property
    def figures(self) -> Mapping[str, str]:
        """See `Task`."""
        return {
            "recall": "share of the hidden facts that are found",
            **{kind: f"the same, of {PROBES[kind]}" for kind in self.kinds},
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
            if kind not in PROBES:
                raise DataError(f"no probe is called '{kind}'", hint=f"one of {', '.join(PROBES)}")
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
        if kind == COMMON_WORDS:
            hidden, text = common_words(draw, room, size)
        else:
            hidden = hide(kind, draw)
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


def _depth_name(depth: float) -> str:
    return f"depth_{round(100 * depth)}"
