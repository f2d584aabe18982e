from collections import Counter
from random import Random

import pytest

from afm_mlx.corpus.documents import Document
from afm_mlx.corpus.held_out import border_of, split_documents


def documents(texts):
    return [Document(text, "source", str(number)) for number, text in enumerate(texts)]


def sides(texts, fraction):
    return {text: split for split, text in split_documents(documents(texts), fraction)}


def test_about_the_wanted_share_is_held_out():
    texts = [f"text {number}" for number in range(10_000)]
    counts = Counter(sides(texts, 0.1).values())
    # Standard deviation 30.
    assert abs(counts["held_out"] - 1_000) < 120
    assert counts.total() == 10_000


def test_the_side_does_not_depend_on_the_order_or_on_the_other_documents():
    texts = [f"text {number}" for number in range(300)]
    shuffled = Random(0).sample(texts, len(texts))
    assert sides(texts, 0.2) == sides(shuffled, 0.2)
    more = sides([*texts, "one more", "and another"], 0.2)
    assert sides(texts, 0.2).items() <= more.items()


def test_copies_of_a_document_fall_on_the_same_side():
    texts = [f"text {number % 50}" for number in range(500)]
    found = list(split_documents(documents(texts), 0.3))
    assert len(found) == 500
    assert len(set(found)) == 50


@pytest.mark.parametrize("fraction", [1e-9, 0.01, 0.5, 0.99, 1 - 1e-9])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_no_side_stays_empty_when_there_are_two_different_documents(fraction, count):
    for start in range(20):
        texts = [f"text {start} {number}" for number in range(count)]
        found = [split for split, _ in split_documents(documents(texts * 2), fraction)]
        assert set(found) == {"train", "held_out"}
        assert len(found) == 2 * count


def test_which_document_fills_an_empty_side_does_not_depend_on_the_order():
    texts = [f"text {number}" for number in range(20)]
    expected = sides(texts, 1e-9)
    assert list(expected.values()).count("held_out") == 1
    for seed in range(10):
        assert sides(Random(seed).sample(texts, 20), 1e-9) == expected


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.99])
def test_a_single_document_is_for_training(fraction):
    for number in range(10):
        assert sides([f"only {number}"] * 3, fraction) == {f"only {number}": "train"}


def test_nothing_or_everything_is_held_out_at_0_and_1():
    texts = [f"text {number}" for number in range(100)]
    assert set(sides(texts, 0.0).values()) == {"train"}
    assert set(sides(texts, 1.0).values()) == {"held_out"}


def test_a_group_stays_together_across_sources():
    code = [Document(f"code {n}", "library", str(n), f"module {n}") for n in range(200)]
    prose = [Document(f"prose {n}", "docs", str(n), f"module {n}") for n in range(200)]
    of_code = {text.split()[1]: split for split, text in split_documents(code, 0.3)}
    of_prose = {text.split()[1]: split for split, text in split_documents(prose, 0.3)}
    assert of_code == of_prose


@pytest.mark.parametrize(
    ("fraction", "held_out"),
    [(0.0, []), (1e-9, [5]), (0.25, [5]), (0.5, [5, 2**62]), (0.999, [5, 2**62])],
)
def test_a_border_leaves_a_hash_on_each_side(fraction, held_out):
    hashes = [5, 2**62, 2**64 - 1]
    assert [value for value in hashes if value < border_of(hashes, fraction)] == held_out


def test_one_hash_alone_is_for_training():
    assert border_of([7, 7], 0.9) == border_of([], 0.9) == 0
