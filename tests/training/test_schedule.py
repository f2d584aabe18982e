import pytest

from afm_mlx.training.schedule import warmup_cosine

CORE = {"steps": 751_018, "warmup_steps": 5_000, "final_fraction": 0.005}


def test_schedule_has_the_published_values():
    assert warmup_cosine(2_500, **CORE) == 0.5
    assert warmup_cosine(5_000, **CORE) == 1.0
    assert warmup_cosine(751_018, **CORE) == 0.005


def test_first_step_already_trains():
    assert warmup_cosine(1, **CORE) == pytest.approx(1 / 5_000)


def test_half_way_down_is_the_mean_of_peak_and_floor():
    middle = warmup_cosine(60, steps=100, warmup_steps=20, final_fraction=0.2)
    assert middle == pytest.approx((1 + 0.2) / 2)


def test_schedule_only_rises_and_then_only_falls():
    values = [warmup_cosine(t, steps=50, warmup_steps=10, final_fraction=0.1) for t in range(1, 61)]
    assert values[:10] == sorted(values[:10])
    assert values[9:] == sorted(values[9:], reverse=True)
    assert values[49:] == [0.1] * 11


def test_no_warmup_starts_next_to_the_peak():
    assert warmup_cosine(1, steps=1_000, warmup_steps=0, final_fraction=0.0) > 0.99999


def test_warmup_longer_than_the_stage_is_cut_short():
    assert warmup_cosine(5, steps=5, warmup_steps=10, final_fraction=0.1) == 0.5


def test_one_step_stage_without_warmup_is_defined():
    assert warmup_cosine(1, steps=1, warmup_steps=0, final_fraction=0.3) == 0.3
