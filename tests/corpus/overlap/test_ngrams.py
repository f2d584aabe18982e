import random
import sys
import unicodedata

import numpy as np
import pytest

from afm_mlx.corpus.overlap import ngrams
from afm_mlx.corpus.overlap.ngrams import (
    BATCH_CHARACTERS,
    join_words,
    ngram_hashes,
    normalize,
    punctuation_forms,
    split_words,
)

PIECES = [
    "The", "CAT", "it's", "don\u2019t", "3.5", "x^2", "stra\u00dfe", "na\u00efve", "cafe\u0301",
    "\u4f60\u597d\u4e16\u754c", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u3053\u3093",
    "\U0001f600", "\u2167", "\uff21\uff22", "\u0391\u03a3", "soft\u00adhyphen", "\ufb01sh",
    "a_b", "--", "\ud800", "\x1e", "\x00", "\u0301", "\u200bzero", "\U00020000",
    "\u092e\u0948\u0902",
]  # fmt: skip
BETWEEN = [" ", "\n", "\t", "", ", ", "\u3000", "\u2014", "; "]


def words_of(words):
    """The words of each text."""
    return [
        words.text(first, last - first).split(" ") if last > first else []
        for first, last in zip(words.firsts[:-1].tolist(), words.firsts[1:].tolist(), strict=True)
    ]


def random_text(draw, most=30):
    return "".join(draw.choice(PIECES) + draw.choice(BETWEEN) for _ in range(draw.randrange(most)))


def by_character(text):
    """The words as the module's first lines say, one character at a time."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    found, word = [], ""
    for char in text:
        category = unicodedata.category(char)
        if category in ("Cf", "Me") or char in "'\u2018\u2019\u02bc":
            continue
        kept = category[0] in "LMN"
        alone = kept and category[0] != "N" and is_spaceless(char)
        if not kept or alone:
            found += [word] if word else []
            word = ""
            found += [char] if alone else []
        else:
            word += char
    return found + ([word] if word else [])


def is_spaceless(char):
    return any(first <= ord(char) <= last for first, last in ngrams._SPACELESS)


# Words.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("Don't PANIC:  it's 3.5!", "dont panic its 3 5"),
        ("it\u2019s IT\u02bcS it's", "its its its"),
        ("STRASSE stra\u00dfe", "strasse strasse"),
        ("cafe\u0301 caf\u00e9", "caf\u00e9 caf\u00e9"),
        ("\uff21\uff22\uff11 \ufb01sh", "ab1 fish"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("well-known_name", "well known name"),
        ("\u4f60\u597d, world", "\u4f60 \u597d world"),
        ("\u0e01\u0e02a1", "\u0e01 \u0e02 a1"),
        ("\ud55c\uad6d\uc5b4 \ub9d0", "\ud55c\uad6d\uc5b4 \ub9d0"),  # Korean has spaces
        ("a\x1eb", "a b"),
        ("\ud800 half a pair", "half a pair"),
    ],
)
def test_words_by_hand(text, words):
    assert normalize(text) == words


def test_words_are_those_of_a_walk_over_the_characters():
    draw = random.Random(0)
    texts = [random_text(draw) for _ in range(400)]
    assert words_of(split_words(texts)) == [by_character(text) for text in texts]


def test_equal_words_have_equal_hashes_and_others_do_not():
    draw = random.Random(1)
    words = split_words(
        [random_text(draw, 200) for _ in range(50)] + ["na\u00efve plain ascii the"]
    )
    spelled = [word for text in words_of(words) for word in text]
    assert len(set(spelled)) == len(set(words.hashes.tolist()))
    assert len(set(zip(spelled, words.hashes.tolist(), strict=True))) == len(set(spelled))


def test_a_text_longer_than_a_batch_gives_the_words_of_its_parts():
    long = " ".join(f"word{i}" for i in range(30_000))
    assert len(long) > 3 * BATCH_CHARACTERS
    words = split_words(["before it", long, "", "after it"])
    assert words_of(words) == [["before", "it"], long.split(), [], ["after", "it"]]
    assert words.left()[:3].tolist() == [2, 1, 30_000]


def test_a_text_without_spaces_that_is_longer_than_a_batch_is_read():
    words = split_words(["x" * (2 * BATCH_CHARACTERS + 5), "y"])
    assert words.text(len(words.hashes) - 1, 1) == "y"
    assert set(words.text(0, 1)) == {"x"}


# Runs of words.


def test_ngram_hashes_tell_order_and_length():
    words = split_words(["a b c a b c b a"]).hashes
    pairs = ngram_hashes(words, 2)
    assert len(pairs) == 7
    assert pairs[0] == pairs[3]  # a b
    assert pairs[0] != pairs[6]  # b a
    assert len(ngram_hashes(words, 8)) == 1
    assert len(ngram_hashes(words, 9)) == 0


def test_joined_parts_are_the_words_of_all_texts():
    draw = random.Random(2)
    texts = [random_text(draw) for _ in range(20)]
    joined, whole = join_words([split_words(texts[:7]), split_words(texts[7:])]), split_words(texts)
    assert words_of(joined) == words_of(whole)
    assert np.array_equal(joined.hashes, whole.hashes)
    assert np.array_equal(joined.spaceless, whole.spaceless)


def test_only_the_words_of_some_runs_are_kept():
    words = split_words(["a b c d e f", "g h i j"])
    places, lengths = np.array([1, 2, 7, 1]), np.array([2, 2, 3, 1])
    kept, moved = words.only(places, lengths)
    assert kept.text(0, len(kept.hashes)) == "b c d h i j"
    for place, length, now in zip(places.tolist(), lengths.tolist(), moved.tolist(), strict=True):
        assert kept.text(now, length) == words.text(place, length)
    assert np.array_equal(kept.hashes, split_words(["b c d h i j"]).hashes)
    nothing, _ = words.only(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert len(nothing.hashes) == len(nothing.characters) == 0


# Spellings.


def test_punctuation_forms_by_hand():
    assert punctuation_forms("It's 3.5") == ["It's 3.5", "Its 35", "It s 3.5"]
    assert punctuation_forms("no marks") == ["no marks"]
    assert punctuation_forms("a_b") == ["a_b", "ab"]
    assert punctuation_forms("\u0e2a\u0e27\u0e31\u0e2a") == [
        "\u0e2a\u0e27\u0e31\u0e2a"
    ]  # a vowel sign is a mark, and stays


def test_without_punctuation_only_letters_marks_numbers_and_spaces_stay():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    form = punctuation_forms(every)[1]
    assert form == "".join(
        char for char in every if char.isspace() or unicodedata.category(char)[0] in "LMN"
    )
