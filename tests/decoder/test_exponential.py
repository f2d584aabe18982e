import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.decoder import exponential
from afm_mlx.decoder.exponential import LOG2_E, silu, softmax_base_2

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
    assert weights.tolist() == [0.5, 0.0, 0.5]
