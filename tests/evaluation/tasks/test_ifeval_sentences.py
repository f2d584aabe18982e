"""Sentences and words are those of NLTK 3.10.4, whose outcomes stand here."""

import pytest

from afm_mlx.evaluation.tasks.ifeval.sentences import (
    count_sentences,
    sentence_spans,
    treebank_words,
)


@pytest.mark.parametrize(
    "sentences",
    [
        ["Wow!!", "!"],
        ["Wow!!!", "Really?"],
        ["Dr. Smith met J. R. Hill.", "They left at 5 p.m. on Monday."],
        ["He said \u201cGo.\u201d", "Then he went."],
        ["(It is so.)", "Is it?", '"Yes."'],
        ["1.", "One\n2.", "Two\n3.", "Three"],
        ["It costs 3.14.", "No.", "5 is left."],
        ["Wait... What?", "And so on..."],
        ["The U.S. team won.", "The U.S.", "They lost."],
        ["A b. c d."],
        ["e.g.", "this.", "Etc.", "And so on."],
        ["One.Two.Three"],
        ["\u4f60\u597d\u3002\u518d\u89c1\u3002"],
        ["Is it?", "?"],
        ["x .", ".", ".", "y .", ".", "."],
        [],
    ],
)
def test_sentences_are_those_of_nltk(sentences):
    text = (" " if sentences != ["Wow!!", "!"] else "").join(sentences)
    assert [text[begin:end] for begin, end in sentence_spans(text)] == sentences
    assert count_sentences(f"  {text}\n ") == len(sentences)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("IT'S ALL OVER.", ["IT", "'S", "ALL", "OVER", "."]),
        ("I CANNOT GO: WE DON'T.", ["I", "CAN", "NOT", "GO", ":", "WE", "DO", "N'T", "."]),
        ('"BIG-TIME", SAID THE U.S. MAN',
         ["``", "BIG-TIME", "''", ",", "SAID", "THE", "U.S.", "MAN"]),
        ("'TIS 3D, A/B AND X\u2014Y...",
         ["'", "TIS", "3D", ",", "A/B", "AND", "X", "\u2014", "Y", "..."]),
        ("WANNA GO? GIMME ONE.", ["WAN", "NA", "GO", "?", "GIM", "ME", "ONE", "."]),
        ("THE DOGS' HOUSE. IT'S. OK", ["THE", "DOGS", "'", "HOUSE", ".", "IT", "'S", ".", "OK"]),
    ],
)  # fmt: skip
def test_words_are_those_of_nltk(text, words):
    assert treebank_words(text) == words


def test_a_long_text_takes_no_longer_than_its_length():
    assert count_sentences("It is one. " * 5_000) == 5_000
    assert count_sentences("a" * 100_000) == 1
    assert count_sentences("." * 20_000) > 0
