"""Differences of scores, and how scores are written."""

import pytest

from afm_mlx.evaluation.report import figures
from afm_mlx.evaluation.report.scores import Score, difference


def wilson(hits, n, z=1.959964):
    """A share with its Wilson interval, as the scorers give it."""
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    side = z * ((share * (1 - share) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return Score("task", "accuracy", "sft", share, middle - side, middle + side)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [  # Newcombe 1998, table II, method 10: 56/70 - 48/80, 9/10 - 3/10, 6/7 - 2/7, 5/56 - 0/29
        ((48, 80), (56, 70), 0.0524, 0.3339),
        ((3, 10), (9, 10), 0.1705, 0.8090),
        ((2, 7), (6, 7), 0.0582, 0.8062),
        ((0, 29), (5, 56), -0.0381, 0.1926),
    ],
)
def test_intervals_of_differences_are_the_published_ones(first, second, low, high):
    gain, found_low, found_high = difference(wilson(*first), wilson(*second))
    assert gain == pytest.approx(second[0] / second[1] - first[0] / first[1])
    assert (found_low, found_high) == pytest.approx((low, high), abs=5e-5)


def test_without_intervals_there_is_none_of_the_difference():
    bare = Score("task", "accuracy", "sft", 0.5, None, None)
    assert difference(bare, wilson(5, 10)) is None


@pytest.mark.parametrize(
    ("metric", "words"),
    [("accuracy", "50.0%"), ("perplexity", "0.5000"), ("bits_per_byte", "0.5000")],
)
def test_a_score_is_a_share_unless_its_name_says_otherwise(metric, words):
    assert figures.score(0.5, metric) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.01234, "+0.0123"), (-0.5, "-0.5000"), (0.00001, "0.0000"), (-0.00001, "0.0000")],
)
def test_a_difference_has_a_sign_unless_it_is_nothing(value, words):
    assert figures.signed(value) == words


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1_500, "1.50 kB"), (2.5e9, "2.50 GB")],
)
def test_sizes_are_in_thousands(num_bytes, words):
    assert figures.size(num_bytes) == words
