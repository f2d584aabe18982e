"""Scores and their intervals, by hand-computed values."""

import math

import pytest

from afm_mlx.evaluation.items import Mark
from afm_mlx.evaluation.scores import by_name, score_of, wilson


def test_a_share_has_wilsons_interval():
    # 15 of 148: Wilson's 95 % interval, by the formula on paper with z = 1.96.
    score = score_of([Mark(1.0)] * 15 + [Mark(0.0)] * 133)
    assert (score.value, score.n) == (pytest.approx(15 / 148), 148)
    assert (score.low, score.high) == (
        pytest.approx(0.0624, abs=1e-4),
        pytest.approx(0.1605, abs=1e-4),
    )


@pytest.mark.parametrize(("share", "inside"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_an_interval_holds_its_share_and_stays_a_share(share, inside):
    low, high = wilson(share, 7)
    assert 0 <= low <= inside <= high <= 1
    assert low < high


def test_a_mean_of_equal_items_has_the_usual_interval():
    values = [0.2, 0.4, 0.9, 0.5]
    score = score_of([Mark(value) for value in values])
    mean = sum(values) / 4
    error = 1.959964 * math.sqrt(sum((value - mean) ** 2 for value in values) / 3 / 4)
    assert score.value == pytest.approx(mean)
    assert (score.low, score.high) == (pytest.approx(mean - error), pytest.approx(mean + error))


def test_items_weigh_as_they_say():
    # Two instructions kept of three in one prompt, one of one in another: 3 of 4.
    assert score_of([Mark(2 / 3, 3.0), Mark(1.0, 1.0)]).value == pytest.approx(0.75)


def test_an_interval_of_shares_does_not_leave_0_to_1():
    score = score_of([Mark(0.99, 2.0), Mark(1.0, 5.0), Mark(0.5, 0.1)])
    assert 0 <= score.low <= score.value <= score.high <= 1


def test_the_interval_of_a_ratio_holds_the_true_one_in_about_95_of_100_draws():
    import numpy as np

    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        weights = rng.integers(1, 4, 200)
        marks = [Mark(float(rng.binomial(count, 0.3)) / count, float(count)) for count in weights]
        score = score_of(marks)
        held += score.low <= 0.3 <= score.high
    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.parametrize(
    ("values", "ends", "low", "high"),
    [
        ([10.0, 10.0, 1.0], (1, 10), 1.12, 10),  # mean 7, and 5.88 to either side
        ([0.9, 0.9, 0.3], (0, math.inf), 0.308, 1.092),  # no shares, though from 0 to 1
        ([1.0, 1.0], (1, 10), 1, 1),  # nor is this one 1 of 1
    ],
)
def test_an_interval_does_not_go_beyond_what_a_mark_can_be(values, ends, low, high):
    found = by_name([("x", Mark(value)) for value in values], {"x": ends})["x"]
    assert (found.low, found.high) == (
        pytest.approx(low, abs=1e-3),
        pytest.approx(high, abs=1e-3),
    )


def test_figures_may_be_above_1():
    score = score_of([Mark(3.0, 10.0), Mark(5.0, 10.0)])
    assert score.value == 4.0
    assert score.low < 4.0 < score.high
