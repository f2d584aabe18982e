"""Patterns of numbers between bounds: exactly those, whatever the bounds."""

import random
import re
from decimal import Decimal

import pytest

from afm_mlx.inference.forms.numbers import ANY_NUMBER, integers_between, numbers_between


@pytest.mark.parametrize("seed", range(20))
def test_integers_match_where_they_are_in_bounds(seed):
    draw = random.Random(seed)
    low = draw.randrange(-1_200, 1_200)
    high = low + draw.randrange(1_500)
    pattern = re.compile(integers_between(low, high))
    for number in range(-3_000, 3_000):
        assert bool(pattern.fullmatch(str(number))) == (low <= number <= high), number


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("above", "below"), [(False, False), (True, False), (False, True)])
def test_numbers_match_where_they_are_in_bounds(seed, above, below):
    draw = random.Random(seed)
    low = Decimal(draw.randrange(-3_000, 3_000)).scaleb(-draw.randrange(4))
    high = low + Decimal(1 + draw.randrange(3_000)).scaleb(-draw.randrange(4))
    pattern = re.compile(numbers_between(low, high, above=above, below=below))
    for _ in range(2_000):
        number = Decimal(draw.randrange(-4_000, 4_000)).scaleb(-draw.randrange(4))
        inside = low <= number <= high and not (above and number == low)
        inside &= not (below and number == high)
        if number:  # zero has several spellings
            assert bool(pattern.fullmatch(format(number, "f"))) == inside, number


def test_spellings_that_json_does_not_have_do_not_match():
    for pattern in (integers_between(-10, 10), numbers_between(Decimal(-10), Decimal(10))):
        for text in ("", "-", "-0", "00", "01", "+1", "1.", ".5", "-0.0"):
            assert not re.fullmatch(pattern, text), text


def test_no_double_is_rounded_across_a_bound():
    pattern = re.compile(numbers_between(Decimal(0), Decimal(10**6), above=True, below=True))
    assert pattern.fullmatch("999999.999999")
    assert not pattern.fullmatch("999999.9999999999999")
    assert float("999999.999999") < 10**6


def test_bounds_that_leave_nothing_have_no_pattern():
    assert numbers_between(Decimal(1), Decimal(1), above=True) is None


def test_a_number_without_bounds_is_never_too_large_to_read():
    assert re.fullmatch(ANY_NUMBER, "-12.5e-9")
    assert not re.fullmatch(ANY_NUMBER, "1e999")
    assert not re.fullmatch(ANY_NUMBER, "9" * 16)
