import pytest

from afm_mlx.settings.sections import rope_base


def test_rope_base_reproduces_the_published_value():
    assert rope_base(500_000, 8_192, 32_768) == pytest.approx(6_315_088.77, abs=0.01)


def test_rope_base_of_the_same_context_is_unchanged():
    assert rope_base(500_000, 4_096, 4_096) == pytest.approx(500_000)
