from collections import Counter

import pytest

from afm_mlx.synthetic.draws import Draw, share_of


def choices(*key):
    draw = Draw(*key)
    return [draw.below(1_000) for _ in range(20)]


def test_the_same_key_makes_the_same_choices():
    assert choices("math", 1, 7) == choices("math", 1, 7)
    assert choices("math", 1, 7) != choices("math", 1, 8)
    assert choices("math", 11, 7) != choices("math", 1, 17)


def test_choices_of_a_key_never_change():
    # They decide what every record of a seed is.
    draw = Draw("pinned")
    assert [draw.below(100) for _ in range(6)] == PINNED


PINNED = [25, 31, 47, 50, 33, 15]


def test_draws_are_even():
    counts = Counter(Draw("even", number).below(6) for number in range(6_000))
    assert set(counts) == set(range(6))
    assert max(counts.values()) - min(counts.values()) < 250


def test_bounds_are_included_and_items_differ():
    draw = Draw("bounds")
    assert {draw.between(2, 8, 3) for _ in range(60)} == {2, 5, 8}
    assert len(set(draw.some(range(5), 5))) == 5
    assert draw.some("ab", 9) in (["a", "b"], ["b", "a"])
    assert sum(draw.chance(0.25) for _ in range(4_000)) == pytest.approx(1_000, abs=120)


def test_the_share_of_a_name_is_fixed():
    assert share_of("math/trip") == share_of("math/trip") != share_of("math/tank")
    assert 0 <= share_of("") < 1
