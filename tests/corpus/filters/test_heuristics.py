"""Named rules on words and lines."""

import json
import pickle
import random
import string

import pytest
from pydantic import ValidationError

from afm_mlx.corpus.filters.heuristics import HeuristicFilter, count_words, split_words
from afm_mlx.corpus.record import Drop, Record
from afm_mlx.settings.filters import HeuristicRule, Heuristics

DEFAULTS = Heuristics()


def words(count: int, length: int = 5) -> list[str]:
    """Different words of `length` letters."""
    letters = string.ascii_lowercase
    return [
        "".join(letters[number // 26**i % 26] for i in range(length)) for number in range(count)
    ]


def prose(count: int, start: int = 0) -> str:
    return " ".join(words(start + count)[start:])


def lines(plain: int, special: str, number: int) -> str:
    """`plain` different lines and `number` different ones made from `special`."""
    ordinary = [f"{prose(8, 8 * i)}." for i in range(plain)]
    return "\n".join(
        [*ordinary, *(special.format(prose(8, 8 * (plain + i))) for i in range(number))]
    )


def repeated(parts: int, copies: int, between: str) -> str:
    """`parts` different parts of one length, and `copies` more of the first."""
    different = [f"{prose(8, 8 * i)}." for i in range(parts)]
    return between.join([*different, *[different[0]] * copies])


PAIRS = " ".join(f"again, never {word}" for word in words(10, 6))
# (text on the allowed side of the default threshold, text just beyond it)
CASES = {
    HeuristicRule.TOO_SHORT: (prose(50), prose(49)),
    HeuristicRule.TOO_LONG: (prose(100_000), prose(100_001)),
    HeuristicRule.SHORT_WORDS: (" ".join(words(60, 3)), " ".join([*words(60, 3), "ab"])),
    HeuristicRule.LONG_WORDS: (" ".join(words(60, 10)), " ".join([*words(60, 10), "a" * 11])),
    HeuristicRule.SYMBOLS: (f"{prose(90)}{' #' * 10}", f"{prose(89)}{' #' * 11}"),
    HeuristicRule.ALPHABETIC_WORDS: (f"{prose(80)}{' 42' * 20}", f"{prose(79)}{' 42' * 21}"),
    HeuristicRule.STOP_WORDS: (f"{prose(60)} The and", f"{prose(60)} the THE the"),
    HeuristicRule.LOREM_IPSUM: (f"{prose(60)} lorem", f"{prose(60)} Lorem ipsum"),
    HeuristicRule.JAVASCRIPT: (lines(9, "{} JavaScript.", 1), lines(8, "{} JavaScript.", 1)),
    HeuristicRule.CURLY: (lines(7, "{} {{x}}.", 3), lines(7, "{} {{x}}.", 4)),
    HeuristicRule.BULLETS: (lines(1, "- {}.", 9), lines(1, "\u2022 {}.", 10)),
    HeuristicRule.ELLIPSES: (lines(7, "{}...", 3), lines(7, "{}\u2026", 4)),
    HeuristicRule.PUNCTUATION: (lines(12, "{}", 88), lines(11, "{}", 88)),
    HeuristicRule.SHORT_LINES: (lines(33, "{:.29}.", 67), lines(32, "{:.29}.", 68)),
    HeuristicRule.LINE_LENGTH: ("a" * 100_000, "a" * 100_001),
    HeuristicRule.DUPLICATE_LINES: (repeated(7, 3, "\n"), repeated(7, 4, "\n")),
    HeuristicRule.DUPLICATE_LINE_CHARACTERS: (repeated(9, 1, "\n"), repeated(8, 1, "\n")),
    HeuristicRule.DUPLICATE_PARAGRAPHS: (repeated(7, 3, "\n \n"), repeated(7, 4, "\n\n")),
    HeuristicRule.DUPLICATE_PARAGRAPH_CHARACTERS: (
        repeated(8, 2, "\n\n"),
        repeated(7, 2, "\n\n"),
    ),
    # 110 characters of a pair that comes ten times, of 550 and of 548.
    HeuristicRule.TOP_NGRAM: (
        f"{PAIRS} {' '.join(words(73, 6)[10:])} x.",
        f"{PAIRS} {' '.join(words(73, 6)[10:])}",
    ),
    # Of n words, five come a second time: 5 / 34 is below 0.15, 5 / 33 above.
    HeuristicRule.DUPLICATE_NGRAMS: (f"{prose(29)} {prose(5)}", f"{prose(28)} {prose(5)}"),
}


def only(rule: HeuristicRule, **changes: object) -> HeuristicFilter:
    off = tuple(other for other in HeuristicRule if other is not rule)
    return HeuristicFilter(Heuristics.model_validate({"off": off, **changes}))


def test_every_rule_has_a_case_on_each_side_of_its_threshold():
    assert set(CASES) == set(HeuristicRule)


@pytest.mark.parametrize("rule", list(HeuristicRule))
def test_a_rule_drops_beyond_its_threshold_only(rule):
    allowed, forbidden = (Record("a", text, language="en") for text in CASES[rule])
    keep = only(rule)
    assert keep(allowed) is allowed
    dropped = keep(forbidden)
    assert isinstance(dropped, Drop)
    assert dropped.rule == f"heuristics.{rule.value}"


@pytest.mark.parametrize("rule", list(HeuristicRule))
def test_a_rule_that_is_off_drops_nothing(rule):
    settings = Heuristics(off=tuple(HeuristicRule))
    record = Record("a", CASES[rule][1], language="en")
    assert HeuristicFilter(settings)(record) is record
    rest = HeuristicFilter(Heuristics(off=(rule,)))
    assert rule not in dict(rest.broken(record.text, "en"))


def test_evidence_has_the_value_and_the_threshold():
    dropped = HeuristicFilter(DEFAULTS)(Record("a", "few words"))
    assert dropped == Drop("a", "", "heuristics.too-short", "2, least 50")


def test_an_unknown_rule_cannot_be_switched_off():
    with pytest.raises(ValidationError, match="too-short"):
        Heuristics.model_validate({"off": ["to-short"]})


def test_thresholds_that_leave_nothing_are_refused():
    with pytest.raises(ValidationError, match=r"most_words \(10\) must be at least"):
        Heuristics(most_words=10)
    with pytest.raises(ValidationError, match=r"most_mean_word_length \(2\) must be at least"):
        Heuristics(most_mean_word_length=2.0)


def test_stop_words_are_asked_of_english_only():
    assert HeuristicRule.STOP_WORDS in dict(HeuristicFilter(DEFAULTS).broken(prose(60), "en"))
    for language in ("", "de"):
        assert not dict(only(HeuristicRule.STOP_WORDS).broken(prose(60), language))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("two words", 2),
        ("  a\tb\n\nc\u3000d ", 4),
        ("\u4f60\u597d\uff0cworld", 3),  # two ideographs, a word with a comma
        ("\u0e2a\u0e27", 2),
        ("\ud55c\uad6d\uc5b4 \ubb38\uc7a5", 2),  # Korean has spaces
        ("", 0),
        ("\x00 \ud800", 2),
    ],
)
def test_words_are_runs_between_spaces_and_characters_where_there_are_none(text, count):
    assert count_words(text) == len(split_words(text)) == count


def test_rules_on_word_length_are_not_asked_of_scripts_without_spaces():
    text = "".join(chr(0x4E00 + number) for number in range(200)) + "\u3002"
    assert not dict(HeuristicFilter(DEFAULTS).broken(text, "zh"))


def test_ordinary_prose_is_kept(real_data):
    """Four of five article bodies of real pages, most of the others too short."""
    bodies = json.loads((real_data / "extraction" / "ground-truth.json").read_text()).values()
    keep = HeuristicFilter(DEFAULTS)
    records = [Record("a", body["articleBody"], language="en") for body in bodies]
    dropped = [drop.rule for drop in map(keep, records) if isinstance(drop, Drop)]
    assert len(dropped) < len(records) / 5, dropped


def slow_shares(tokens: list[str]) -> tuple[list[float], list[float]]:
    """Top and duplicate n-gram shares by the definition, without bounds."""
    characters = sum(map(len, tokens))
    top, duplicate = [], []
    for n in (2, 3, 4):
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        most = max((grams.count(gram) for gram in grams), default=0)
        sizes = [len("".join(g)) * most for g in grams if most > 1 and grams.count(g) == most]
        top.append(min(1.0, max(sizes, default=0) / characters))
    for n in range(5, 11):
        seen, covered, place = set(), 0, 0
        while place + n <= len(tokens):
            gram = tuple(tokens[place : place + n])
            covered += len("".join(gram)) if gram in seen else 0
            place += n if gram in seen else 1
            seen.add(gram)
        duplicate.append(covered / characters)
    return top, duplicate


def test_bounds_that_save_time_change_no_answer():
    rules = (HeuristicRule.TOP_NGRAM, HeuristicRule.DUPLICATE_NGRAMS)
    off = tuple(rule for rule in HeuristicRule if rule not in rules)
    keep, seen = HeuristicFilter(Heuristics(off=off)), set()
    generator = random.Random(0)
    for _ in range(300):
        vocabulary = [*words(generator.choice([2, 5, 20, 60]), 3), "z" * generator.randint(1, 20)]
        tokens = [generator.choice(vocabulary) for _ in range(generator.randint(1, 80))]
        at = generator.randrange(len(tokens))
        tokens += tokens[at : at + generator.randint(0, 12)]
        top, duplicate = slow_shares(tokens)
        expected = {
            rule
            for rule, shares, most in (
                (rules[0], top, DEFAULTS.most_top_ngram),
                (rules[1], duplicate, DEFAULTS.most_duplicate_ngrams),
            )
            if any(share > limit for share, limit in zip(shares, most, strict=True))
        }
        assert {rule for rule, _ in keep.broken(" ".join(tokens))} == expected
        seen.add(frozenset(expected))
    assert len(seen) == 4  # all four combinations were met


def test_no_text_raises_and_answers_repeat(strange_texts):
    keep = pickle.loads(pickle.dumps(HeuristicFilter(DEFAULTS)))
    for text in strange_texts:
        first = list(keep.broken(text, "en"))
        assert first == list(HeuristicFilter(DEFAULTS).broken(text, "en"))
        answer = keep(Record("a", text, language="en"))
        if isinstance(answer, Drop):
            answer.to_json().encode()
