import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.decoder import exponential
from afm_mlx.decoder.exponential import LOG2_E, exp2, max_of_last, silu, softmax_base_2, sum_of_last

POINTS = mx.array([-300.0, -90.0, -20.0, -3.0, -0.5, 0.0, 0.5, 3.0, 20.0, 90.0, 300.0])


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(exponential, "on_gpu", lambda: False)


def test_silu_equals_its_definition_in_double_precision():
    x = np.array(POINTS, dtype=np.float64)
    with np.errstate(over="ignore"):
        wanted = x / (1 + np.exp(-x))
    np.testing.assert_allclose(np.array(silu(POINTS)), wanted, rtol=1e-5, atol=1e-30)


def test_silu_has_the_gradient_of_its_definition():
    x = np.array(POINTS, dtype=np.float64)
    with np.errstate(over="ignore"):
        s = 1 / (1 + np.exp(-x))
    grad = mx.grad(lambda x: silu(x).sum())(POINTS)
    np.testing.assert_allclose(np.array(grad), s * (1 + x * (1 - s)), rtol=1e-5, atol=1e-30)


def test_softmax_in_base_two_equals_softmax():
    x = 5 * mx.random.normal((7, 33), key=mx.random.key(0))
    weights = mx.random.normal((7, 33), key=mx.random.key(1))
    assert mx.abs(softmax_base_2(x * LOG2_E) - mx.softmax(x, axis=-1)).max() < 1e-6
    ours = mx.grad(lambda x: (softmax_base_2(x * LOG2_E) * weights).sum())(x)
    theirs = mx.grad(lambda x: (mx.softmax(x, axis=-1) * weights).sum())(x)
    assert mx.abs(ours - theirs).max() < 1e-6


def test_a_hidden_score_weighs_nothing():
    weights = softmax_base_2(mx.array([1.0, -mx.inf, 1.0]))
    assert weights[0].item() == weights[2].item() == 0.5
    assert weights[1].item() < 1e-37


def test_exp2_is_exact_to_three_parts_in_ten_million():
    x = mx.concatenate([mx.linspace(-126, 127, 200_001), mx.linspace(-2, 2, 100_001)])
    exact = np.exp2(np.array(x, np.float64))
    assert np.abs(np.array(exp2(x), np.float64) / exact - 1).max() < 3e-7


def test_exp2_is_cut_at_the_ends_of_float32():
    assert mx.all(exp2(mx.array([-127.0, -1e4, -1e30, -mx.inf])) < 2e-38).item()
    assert mx.all(exp2(mx.array([128.0, 1e30, mx.inf])) > 1e38).item()


@pytest.mark.parametrize("n", [1, 3, 64, 96, 1000])
def test_reductions_along_the_last_axis_are_those_of_mlx(n):
    x = mx.random.normal((5, 2, n), key=mx.random.key(n))
    assert mx.array_equal(max_of_last(x), x.max(axis=-1, keepdims=True))
    assert mx.allclose(sum_of_last(x), x.sum(axis=-1, keepdims=True), rtol=0, atol=1e-4)
