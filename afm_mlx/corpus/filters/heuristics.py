"""Named rules on a document's words and lines: Gopher's, C4's and FineWeb's.

Cheap rules are asked first. Runs of repeated words cost most: they are counted only where a bound
from a cheaper count leaves a repetition possible, which does not change any answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from afm_mlx.corpus.record import Drop, Record, drop
from afm_mlx.settings.filters import HeuristicRule, Heuristics

# Scripts written without spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana,
# ideographs. Hangul and Vietnamese have spaces. Rare ideographs beyond U+FFFF are left out: with
# them Python's search is many times slower.
UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
)
STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])  # Gopher's

_UNSPACED = re.compile(f"[{UNSPACED}]")
_MIXED_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_BULLETS = ("-", "*", "\u2022", "\u2023", "\u25aa", "\u25cf", "\u25e6", "\u00b7", "\u2013")
_ELLIPSES = ("...", "\u2026")
_SENTENCE_ENDS = tuple(
    ".!?\"'\u2026\u201d\u2019\u00bb\u3002\uff01\uff1f\u300d\u300f\uff0e\u061f\u06d4\u0964\u0965\u0589\u1362\u17d4"
)
_SHORTEST_TOP, _SHORTEST_DUPLICATE = 2, 5  # words of the first n-gram of each rule; Gopher
_AT_MOST, _AT_LEAST = "most", "least"

Verdict = tuple[HeuristicRule, str]


class HeuristicFilter:
    """Drops what breaks a rule, `heuristics.NAME`; see `HeuristicRule` for the names.

    Needs `record.language` for the rule on stop words only. Does not change a record.
    """

    def __init__(self, settings: Heuristics) -> None:
        self.settings = settings
        self._off = frozenset(settings.off)

    def __call__(self, record: Record) -> Record | Drop:
        """The record, or a drop by the first rule that it breaks."""
        for rule, evidence in self.broken(record.text, record.language):
            return drop(record, f"heuristics.{rule.value}", evidence)
        return record

    def broken(self, text: str, language: str = "") -> Iterator[Verdict]:
        """All rules that `text` breaks, with evidence; computed one by one as they are asked."""
        words = split_words(text)
        for look in (self._word_rules, self._line_rules, self._repetition_rules):
            for rule, value, side, threshold in look(text, words, language):
                wrong = value > threshold if side is _AT_MOST else value < threshold
                if wrong and rule not in self._off:
                    yield rule, f"{value:.4g}, {side} {threshold:g}"

    def _word_rules(self, text: str, words: Sequence[str], language: str) -> Iterator[Any]:
        wanted, count = self.settings, len(words)
        yield HeuristicRule.TOO_SHORT, count, _AT_LEAST, wanted.least_words
        yield HeuristicRule.TOO_LONG, count, _AT_MOST, wanted.most_words
        if not words:
            return
        characters = sum(map(len, words))
        if 2 * _num_unspaced(text) < count:
            mean = characters / count
            yield HeuristicRule.SHORT_WORDS, mean, _AT_LEAST, wanted.least_mean_word_length
            yield HeuristicRule.LONG_WORDS, mean, _AT_MOST, wanted.most_mean_word_length
        symbols = max(text.count("#"), sum(map(text.count, _ELLIPSES))) / count
        yield HeuristicRule.SYMBOLS, symbols, _AT_MOST, wanted.most_symbols
        alphabetic = _num_with_letter(words) / count
        yield HeuristicRule.ALPHABETIC_WORDS, alphabetic, _AT_LEAST, wanted.least_alphabetic_words
        if language == "en":
            stop_words = _num_stop_words(words, wanted.least_stop_words)
            yield HeuristicRule.STOP_WORDS, stop_words, _AT_LEAST, wanted.least_stop_words

    def _line_rules(self, text: str, words: Sequence[str], language: str) -> Iterator[Any]:
        wanted, lower = self.settings, text.lower()
        lorem = lower.count("lorem ipsum")
        yield HeuristicRule.LOREM_IPSUM, lorem, _AT_MOST, wanted.most_lorem_ipsum
        lines = [line for line in map(str.strip, text.split("\n")) if line]
        if not lines:
            return
        count, lengths = len(lines), [len(line) for line in lines]

        def share(lines_counted: Iterable[object]) -> float:
            return sum(map(bool, lines_counted)) / count

        named = "javascript" in lower and share("javascript" in line.lower() for line in lines)
        yield HeuristicRule.JAVASCRIPT, float(named), _AT_MOST, wanted.most_javascript_lines
        curly = share("{" in line or "}" in line for line in lines)
        yield HeuristicRule.CURLY, curly, _AT_MOST, wanted.most_curly_lines
        bullets = share(line.startswith(_BULLETS) for line in lines)
        yield HeuristicRule.BULLETS, bullets, _AT_MOST, wanted.most_bullet_lines
        ellipses = share(line.endswith(_ELLIPSES) for line in lines)
        yield HeuristicRule.ELLIPSES, ellipses, _AT_MOST, wanted.most_ellipsis_lines
        ended = share(line.endswith(_SENTENCE_ENDS) for line in lines)
        yield HeuristicRule.PUNCTUATION, ended, _AT_LEAST, wanted.least_punctuated_lines
        short = share(length <= wanted.short_line_characters for length in lengths)
        yield HeuristicRule.SHORT_LINES, short, _AT_MOST, wanted.most_short_lines
        mean = sum(lengths) / count
        yield HeuristicRule.LINE_LENGTH, mean, _AT_MOST, wanted.most_mean_line_length
        share_of, characters = _repeated(lines)
        yield HeuristicRule.DUPLICATE_LINES, share_of, _AT_MOST, wanted.most_duplicate_lines
        most = wanted.most_duplicate_line_characters
        yield HeuristicRule.DUPLICATE_LINE_CHARACTERS, characters, _AT_MOST, most
        paragraphs = [part for part in map(str.strip, _PARAGRAPH_END.split(text)) if part]
        share_of, characters = _repeated(paragraphs)
        most = wanted.most_duplicate_paragraphs
        yield HeuristicRule.DUPLICATE_PARAGRAPHS, share_of, _AT_MOST, most
        most = wanted.most_duplicate_paragraph_characters
        yield HeuristicRule.DUPLICATE_PARAGRAPH_CHARACTERS, characters, _AT_MOST, most

    def _repetition_rules(self, text: str, words: Sequence[str], language: str) -> Iterator[Any]:
        if not words:
            return
        characters, longest = sum(map(len, words)), max(map(len, words))
        if HeuristicRule.TOP_NGRAM not in self._off:
            frequency, largest = _most_frequent(words)
            for n, most in enumerate(self.settings.most_top_ngram, _SHORTEST_TOP):
                # No n-gram is more frequent than a shorter one in it, nor than any of its words.
                if frequency < 2 or n * min(frequency * longest, largest) / characters <= most:
                    continue
                frequency, size = _top_ngram(words, n)
                # Runs that overlap themselves count twice.
                yield HeuristicRule.TOP_NGRAM, min(1.0, size / characters), _AT_MOST, most
        if HeuristicRule.DUPLICATE_NGRAMS not in self._off:
            # A repeated run of n words consists of repeated runs of 5.
            bound = _covered_by_repeats(words, _SHORTEST_DUPLICATE) / characters
            for n, most in enumerate(self.settings.most_duplicate_ngrams, _SHORTEST_DUPLICATE):
                if bound > most:
                    share = _repeated_ngrams(words, n) / characters
                    yield HeuristicRule.DUPLICATE_NGRAMS, share, _AT_MOST, most


def split_words(text: str) -> list[str]:
    """Runs of characters between spaces; each character of a script without spaces is a word."""
    if text.isascii() or not _UNSPACED.search(text):
        return text.split()
    return _MIXED_WORD.findall(text)


def count_words(text: str) -> int:
    """Number of words, as `split_words` has them."""
    return len(split_words(text))


def _num_unspaced(text: str) -> int:
    """Characters of scripts without spaces."""
    return 0 if text.isascii() else len(_UNSPACED.findall(text))


def _num_with_letter(words: Sequence[str]) -> int:
    """Words with a letter; most are in lower case, which says so at once."""
    others = [word for word in words if not word.islower()]
    spelled = sum(1 for word in others if word.isalpha() or any(map(str.isalpha, word)))
    return len(words) - len(others) + spelled


def _num_stop_words(words: Sequence[str], enough: int) -> int:
    """Different stop words, in any case; may be any number from `enough` where there are enough."""
    found = len(STOP_WORDS.intersection(words))
    return found if found >= enough else len(STOP_WORDS.intersection(map(str.lower, words)))


def _repeated(parts: Sequence[str]) -> tuple[float, float]:
    """Share of `parts` that an earlier one equals, and share of characters in those; 0 to 1."""
    different = set(parts)
    if len(different) == len(parts):
        return 0.0, 0.0
    characters = sum(map(len, parts))
    repeated = characters - sum(map(len, different))
    return (len(parts) - len(different)) / len(parts), repeated / characters


def _ngrams(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _most_frequent(words: Sequence[str]) -> tuple[int, int]:
    """Occurrences of the most frequent word, and a bound on those of any run of words.

    The bound is in characters of one word of the run, times occurrences of the run: all words of a
    run occur as often as it does, so a frequent run has no rare and long word.
    """
    longest: dict[int, int] = {}  # characters, by occurrences
    for word, count in Counter(words).items():
        if len(word) > longest.get(count, 0):
            longest[count] = len(word)
    length = largest = 0
    for count in sorted(longest, reverse=True):
        length = max(length, longest[count])
        largest = max(largest, count * length)
    return max(longest), largest


def _top_ngram(words: Sequence[str], n: int) -> tuple[int, int]:
    """Occurrences of the most frequent n-gram, and its characters times occurrences.

    Both are 0 where none occurs twice. Of equally frequent ones, the longest counts.
    """
    counts = Counter(_ngrams(words, n))
    most = max(counts.values(), default=0)
    if most < 2:
        return most, 0
    longest = max(sum(map(len, ngram)) for ngram, count in counts.items() if count == most)
    return most, most * longest


def _covered_by_repeats(words: Sequence[str], n: int) -> int:
    """Characters of words in n-grams that occurred before, overlapping ones too."""
    ngrams = list(_ngrams(words, n))
    places = range(len(ngrams))
    first = dict(zip(reversed(ngrams), reversed(places), strict=True))
    if len(first) == len(ngrams):
        return 0
    covered: set[int] = set()
    for place, ngram in enumerate(ngrams):
        if first[ngram] != place:
            covered.update(range(place, place + n))
    return sum(len(words[place]) for place in covered)


def _repeated_ngrams(words: Sequence[str], n: int) -> int:
    """Characters in n-grams that occurred before, from left to right, without overlap."""
    seen: set[tuple[str, ...]] = set()
    characters, free = 0, 0
    for place, ngram in enumerate(_ngrams(words, n)):
        if place < free:
            continue
        if ngram in seen:
            characters += sum(map(len, ngram))
            free = place + n
        else:
            seen.add(ngram)
    return characters
