"""The 25 kinds of instructions of IFEval: does a response follow one?

What is checked, and how, is what the official code does, with its quirks, since scores are
compared: keywords are patterns, so that `cat` is found in `category`; bullets may begin with `-`
and anything; a response of which no language can be told is in every language. The constraints of
generated data (`synthetic/constraints.py`) have names alike, but mean what they say; only "no
commas" is the same in both.

Source: Zhou et al., arXiv:2311.07911; google-research/instruction_following_eval.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afm_mlx.evaluation.tasks.ifeval.languages import is_in_language
from afm_mlx.evaluation.tasks.ifeval.sentences import count_sentences, treebank_words

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""Of which one is wanted by `constrained_response`."""

RELATIONS = ("less than", "at least")

_BULLETS = (re.compile(r"^\s*\*[^\*].*$", re.MULTILINE), re.compile(r"^\s*-.*$", re.MULTILINE))
_BOLD, _ITALIC = re.compile(r"\*\*[^\n\*]*\*\*"), re.compile(r"\*[^\n\*]*\*")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
_FENCES = ("```json", "```Json", "```JSON", "```")
_AFTER_WORD = re.compile(r"[.,?!'\"]")


@dataclass(frozen=True)
class Kind:
    """A kind of instruction."""

    follows: Callable[..., bool]
    """Of a response and the instruction's parameters, by name."""
    parameters: Mapping[str, type]
    """By name; a `list` is one of texts."""


def loose_variants(response: str) -> list[str]:
    """Responses of which one has to follow, where that is enough.

    Without its first line, its last or both, such as "Sure, here it is:", and each of these
    without asterisks.
    """
    lines = response.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [text for each in (response, *cut) for text in (each, each.replace("*", ""))]


def follows(kind: str, response: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a response follows an instruction to the letter. Nothing follows none."""
    return bool(response.strip()) and KINDS[kind].follows(response, **parameters)


def follows_loosely(kind: str, response: str, parameters: Mapping[str, Any]) -> bool:
    """Whether one of its variants does."""
    return any(follows(kind, each, parameters) for each in dict.fromkeys(loose_variants(response)))


def _compare(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _times(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.IGNORECASE))


def _has_keywords(text: str, keywords: Sequence[str]) -> bool:
    return all(re.search(keyword, text, re.IGNORECASE) for keyword in keywords)


def _has_no_word(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(_times(rf"\b{word}\b", text) for word in forbidden_words)


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    """Apart by `***`; only the first and the last may be empty, and then do not count."""
    parts = [bool(part.strip()) for part in _DIVIDER.split(text)]
    return all(parts[1:-1]) and sum(parts) == num_paragraphs


def _nth_paragraph_begins(
    text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Apart by an empty line. Empty ones do not count, but have a place of their own."""
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if nth_paragraph > count or not (words := parts[nth_paragraph - 1].split()):
        return False
    word = _AFTER_WORD.split(words[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    # Letter by letter: of a whole word, a final sigma would be another one.
    return count == num_paragraphs and "".join(map(str.lower, word)) == first_word.lower()


def _bullets(text: str, num_bullets: int) -> bool:
    return sum(len(bullet.findall(text)) for bullet in _BULLETS) == num_bullets


def _highlights(text: str, num_highlights: int) -> bool:
    """Between asterisks; what is between two on each side is found twice where it is bold."""
    found = [part.strip("*") for part in _ITALIC.findall(text)]
    found += [part[2:-2] for part in _BOLD.findall(text)]
    return sum(bool(part.strip()) for part in found) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    head = rf"\s?{section_spliter.strip()}\s?\d+\s?"
    return sum(1 for _ in re.finditer(head, text)) >= num_sections


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return re.search(_POSTSCRIPTS.get(marker, marker.lower()), text.lower()) is not None


def _json(text: str) -> bool:
    text = text.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _capital_words(text: str, capital_relation: str, capital_frequency: int) -> bool:
    count = sum(map(str.isupper, treebank_words(text)))
    return _compare(count, capital_relation, capital_frequency)


KINDS: dict[str, Kind] = {
    "keywords:existence": Kind(_has_keywords, {"keywords": list}),
    "keywords:frequency": Kind(
        lambda text, keyword, relation, frequency: _compare(
            _times(keyword.strip(), text), relation, frequency
        ),
        {"keyword": str, "relation": str, "frequency": int},
    ),
    "keywords:forbidden_words": Kind(_has_no_word, {"forbidden_words": list}),
    "keywords:letter_frequency": Kind(
        lambda text, letter, let_relation, let_frequency: _compare(
            text.lower().count(letter.lower()), let_relation, let_frequency
        ),
        {"letter": str, "let_relation": str, "let_frequency": int},
    ),
    "language:response_language": Kind(is_in_language, {"language": str}),
    "length_constraints:number_sentences": Kind(
        lambda text, relation, num_sentences: _compare(
            count_sentences(text), relation, num_sentences
        ),
        {"relation": str, "num_sentences": int},
    ),
    "length_constraints:number_paragraphs": Kind(_paragraphs, {"num_paragraphs": int}),
    "length_constraints:number_words": Kind(
        lambda text, relation, num_words: _compare(_times(r"\w+", text), relation, num_words),
        {"relation": str, "num_words": int},
    ),
    "length_constraints:nth_paragraph_first_word": Kind(
        _nth_paragraph_begins, {"num_paragraphs": int, "nth_paragraph": int, "first_word": str}
    ),
    "detectable_content:number_placeholders": Kind(
        lambda text, num_placeholders: len(re.findall(r"\[.*?\]", text)) >= num_placeholders,
        {"num_placeholders": int},
    ),
    "detectable_content:postscript": Kind(_postscript, {"postscript_marker": str}),
    "detectable_format:number_bullet_lists": Kind(_bullets, {"num_bullets": int}),
    "detectable_format:constrained_response": Kind(
        lambda text: any(answer in text for answer in ANSWERS), {}
    ),
    "detectable_format:number_highlighted_sections": Kind(_highlights, {"num_highlights": int}),
    "detectable_format:multiple_sections": Kind(
        _sections, {"section_spliter": str, "num_sections": int}
    ),
    "detectable_format:json_format": Kind(_json, {}),
    "detectable_format:title": Kind(_title, {}),
    "combination:two_responses": Kind(_two_responses, {}),
    "combination:repeat_prompt": Kind(
        lambda text, prompt_to_repeat: (
            text.strip().lower().startswith(prompt_to_repeat.strip().lower())
        ),
        {"prompt_to_repeat": str},
    ),
    "startend:end_checker": Kind(
        lambda text, end_phrase: (
            text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
        ),
        {"end_phrase": str},
    ),
    "startend:quotation": Kind(_quoted, {}),
    "change_case:capital_word_frequency": Kind(
        _capital_words, {"capital_relation": str, "capital_frequency": int}
    ),
    "change_case:english_capital": Kind(
        lambda text: text.isupper() and is_in_language(text, "en"), {}
    ),
    "change_case:english_lowercase": Kind(
        lambda text: text.islower() and is_in_language(text, "en"), {}
    ),
    "punctuation:no_comma": Kind(lambda text: "," not in text, {}),
}
"""By the names of the data."""
