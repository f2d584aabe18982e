"""Constraints on a text that a program can verify, each by name with its numbers or words.

`{"name": "at_least_words", "count": 50}` holds for texts of 50 words or more. Words are runs of
letters, digits, apostrophes and hyphens; sentences end with . ! or ? before a space or the end;
paragraphs are apart by an empty line; bullets are lines that begin with "- " or "* ".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from afm_mlx.errors import DataError

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
_BULLET = re.compile(r"^[-*] +\S", re.MULTILINE)
_NUMBERED = re.compile(r"^(\d+)\. +\S", re.MULTILINE)
_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|myself|we|us|our|ours|ourselves)\b")
_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am)? (?:can(?:'|no)t|can not|won't|will not|unable|not able|sorry|must decline)"
    r"|I(?:'m| am) not (?:able|willing|going)|not something I|have to decline|can't help with)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)


def words(text: str) -> list[str]:
    """Words of a text, as written."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Sentences of a text; a rest without an end mark is one, too."""
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        found.append(text[start : end.end()].strip())
        start = end.end()
    rest = text[start:].strip()
    return [sentence for sentence in [*found, rest] if _WORD.search(sentence)]


def paragraphs(text: str) -> list[str]:
    """Parts between empty lines."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def holds(constraint: Mapping[str, Any], text: str) -> bool:
    """Whether a text keeps a constraint.

    Raises:
        DataError: there is no such constraint, or it lacks a number or word.
    """
    name = constraint.get("name")
    if name not in CHECKERS:
        raise DataError(f"no constraint is called '{name}'", hint=f"one of {', '.join(CHECKERS)}")
    given = {key: value for key, value in constraint.items() if key != "name"}
    try:
        return bool(CHECKERS[name](text.strip(), **given))
    except TypeError as error:
        raise DataError(f"constraint '{name}' cannot be read: {error}") from None


def _times(text: str, word: str) -> int:
    """How often a word or phrase stands in a text, whole and whatever its case."""
    pattern = r"\s+".join(map(re.escape, word.split()))
    return len(re.findall(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE))


def _is_json(text: str) -> Any:
    """The value of a text that is JSON, in a code fence or not; None where it is none."""
    fenced = _FENCE.match(text)
    try:
        return json.loads(fenced[1] if fenced else text)
    except ValueError:
        return None


def _one_of(text: str, choices: list[str]) -> bool:
    return text.rstrip(".!").casefold() in {choice.rstrip(".!").casefold() for choice in choices}


def _keys(text: str, keys: list[str]) -> bool:
    value = _is_json(text)
    return isinstance(value, dict) and sorted(value) == sorted(keys)


def _numbered(text: str, count: int) -> bool:
    return [int(number) for number in _NUMBERED.findall(text)] == list(range(1, count + 1))


def _capitals(text: str) -> list[str]:
    return [word for word in words(text) if word.isupper() and len(word) > 1]


def _quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == '"' and text[-1] == '"' and '"' not in text[1:-1]


def _acrostic(text: str, word: str) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line[0].casefold() for line in lines] == list(word.casefold())


def _parts(text: str, marker: str, count: int) -> bool:
    heads = re.findall(rf"^{re.escape(marker)} (\d+)\b", text, re.MULTILINE)
    return [int(head) for head in heads] == list(range(1, count + 1))


def _refuses(text: str) -> bool:
    """Whether a text declines, in its first two sentences."""
    start = " ".join(sentences(text.replace("\u2019", "'"))[:2])
    return _REFUSAL.search(start) is not None


CHECKERS: dict[str, Callable[..., bool]] = {
    "at_least_words": lambda text, count: len(words(text)) >= count,
    "at_most_words": lambda text, count: 0 < len(words(text)) <= count,
    "words_between": lambda text, least, most: least <= len(words(text)) <= most,
    "sentences": lambda text, count: len(sentences(text)) == count,
    "at_most_sentences": lambda text, count: 0 < len(sentences(text)) <= count,
    "paragraphs": lambda text, count: len(paragraphs(text)) == count,
    "bullets": lambda text, count: len(_BULLET.findall(text)) == count,
    "numbered_list": _numbered,
    "contains": lambda text, words: all(_times(text, word) for word in words),
    "contains_times": lambda text, word, count: _times(text, word) == count,
    "avoids": lambda text, words: not any(_times(text, word) for word in words),
    "avoids_letter": lambda text, letter: bool(text) and letter not in text.casefold(),
    "lower_case": lambda text: bool(text) and text == text.lower(),
    "mixed_case": lambda text: text != text.upper(),
    "upper_case": lambda text: bool(text) and text == text.upper(),
    "shouted_words": lambda text, count: len(_capitals(text)) >= count,
    "no_commas": lambda text: bool(text) and "," not in text,
    "no_digits": lambda text: bool(text) and not any(map(str.isdigit, text)),
    "begins_with": lambda text, phrase: text.startswith(phrase),
    "ends_with": lambda text, phrase: text.endswith(phrase),
    "quoted": _quoted,
    "title": lambda text: re.match(r"# \S", text) is not None,
    "json_keys": _keys,
    "json_list": lambda text, count: (
        isinstance(_is_json(text), list) and len(_is_json(text)) == count
    ),
    "one_of": _one_of,
    "acrostic": _acrostic,
    "parts": _parts,
    "placeholders": lambda text, count: len(set(re.findall(r"\[[^\[\]\n]+\]", text))) >= count,
    "postscript": lambda text: re.search(r"^P\.S\. \S", text, re.MULTILINE) is not None,
    "highlighted": lambda text, count: len(re.findall(r"\*\*[^*\n]+\*\*", text)) >= count,
    "question_last": lambda text: text.endswith("?"),
    "no_first_person": lambda text: bool(text) and not _FIRST_PERSON.search(text),
    "no_list": lambda text: bool(text) and not _BULLET.search(text) and not _NUMBERED.search(text),
    "refuses": _refuses,
    "answers": lambda text, least: not _refuses(text) and len(words(text)) >= least,
    "first_word_repeats": lambda text: (
        len({sentence.split()[0].casefold() for sentence in sentences(text)}) == 1
    ),
}
"""Every constraint by its name: does it hold for this text, with these numbers or words?"""
