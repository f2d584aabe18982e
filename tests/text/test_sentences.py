"""Documents become sentences that SentencePiece can take."""

from afm_mlx.text.sentences import Sentences


def sentences(texts, longest=100, most=1_000):
    found = Sentences(texts, max_sentence_bytes=longest, training_bytes=most)
    return list(found), found


def test_long_texts_are_cut_after_newlines():
    assert sentences(["one\ntwo\nthree\n"], longest=9)[0] == [b"one\ntwo\n", b"three\n"]


def test_a_line_that_is_too_long_is_cut_between_characters():
    cut, _ = sentences(["\u4f60\u597d\u4e16\u754c"], longest=7)
    assert [part.decode() for part in cut] == ["\u4f60\u597d", "\u4e16\u754c"]


def test_characters_that_sentencepiece_cannot_take_become_newlines():
    assert sentences(["a\x00b\u2581c\u2585d"])[0] == [b"a\nb\nc\nd"]


def test_the_budget_ends_between_characters():
    cut, found = sentences(["abc", "\u4f60\u597d", "never"], most=8)
    assert [part.decode() for part in cut] == ["abc", "\u4f60"]
    assert (found.documents, found.bytes) == (2, 6)
