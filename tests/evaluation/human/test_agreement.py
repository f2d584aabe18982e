import pytest

from afm_mlx.evaluation.human.agreement import interval, krippendorff_alpha, nominal, share_equal

# Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, example C: four
# observers, twelve units, None where one was not asked.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
UNITS = [[value for value in unit if value is not None] for unit in zip(*OBSERVERS, strict=True)]


def test_alpha_is_the_published_one():
    assert krippendorff_alpha(UNITS, nominal) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(UNITS, interval) == pytest.approx(0.849, abs=5e-4)


def test_alpha_by_hand():
    # Values 1, 1 | 1, 2: one unlike pair. Observed 1/2 of unit 2 twice: 2 ordered pairs / 1 = 2.
    # Pooled 1, 1, 1, 2: 2 * 3 unlike ordered pairs. 1 - (4 - 1) * 2 / 6 = 0.
    assert krippendorff_alpha([[1, 1], [1, 2]], nominal) == pytest.approx(0)
    # All unlike: 1 - 3 * 4 / 8.
    assert krippendorff_alpha([[1, 2], [2, 1]], nominal) == pytest.approx(-0.5)


def test_full_agreement_is_one_and_a_single_value_says_nothing():
    assert krippendorff_alpha([[1, 1], [2, 2]], interval) == 1
    assert krippendorff_alpha([[1, 1], [1, 1]], nominal) is None
    assert krippendorff_alpha([[1], [2]], nominal) is None
    assert krippendorff_alpha([], nominal) is None


def test_units_of_one_grader_do_not_count():
    assert krippendorff_alpha([[1, 1], [2, 2], [5]], nominal) == 1
    assert share_equal([[1, 1], [2, 3], [5]]) == 0.5


def test_share_equal_counts_pairs_of_graders_and_units_alike():
    assert share_equal([[1, 1, 2], [3, 3]]) == pytest.approx((1 / 3 + 1) / 2)
    assert share_equal([[1]]) is None
