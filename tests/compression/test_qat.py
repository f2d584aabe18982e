"""Weights rounded to 2 bits while they are trained, and stored as they were used."""

import math

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from afm_mlx.compression.qat import (
    GRID,
    Averaged,
    QatLinear,
    best_factors,
    prepare,
    store,
)
from afm_mlx.decoder.palette import Int8Embedding, Int8Linear, PaletteLinear, linears
from tests.compression.conftest import build


@pytest.fixture
def weight():
    """[40, 24], whose last group of 16 rows has only 8."""
    return mx.random.normal((40, 24), key=mx.random.key(1))


def test_the_grid_is_the_published_one():
    assert GRID == (-1.5, -0.5, 0.5, 1.5)


def test_a_weight_is_one_of_four_values_of_its_group(weight):
    layer = QatLinear(weight, group_rows=16)
    s = layer.factor * mx.stack([mx.abs(weight[i : i + 16]).max() for i in (0, 16, 32)]) / 2
    for group, first in enumerate((0, 16, 32)):
        found = set(layer.rounded()[first : first + 16].reshape(-1).tolist())
        grid = [float(mx.array(g * s[group].item()).astype(mx.float16)) for g in GRID]
        assert found == set(grid)


def test_rounding_by_hand():
    layer = QatLinear(mx.array([[0.1, -0.6, 0.8, 2.0]]), group_rows=1)
    layer.factor = mx.array([0.5])  # s = 0.5 x 2 / 2
    assert layer.rounded().tolist() == [[0.25, -0.75, 0.75, 0.75]]


def test_the_clip_of_gaussian_weights_is_two_deviations():
    # Brute force over clips gives 1.99 deviations and a squared error of 0.119.
    weight = mx.random.normal((1, 400_000), key=mx.random.key(3))
    factor = best_factors(weight, 1)
    clip = float(factor[0] * mx.abs(weight).max())
    assert clip == pytest.approx(1.99, abs=0.05)
    layer = QatLinear(weight, group_rows=1)
    assert float(mx.square(layer.rounded() - weight).mean()) == pytest.approx(0.119, abs=0.002)


def test_gradient_goes_straight_through_where_nothing_is_clipped():
    layer = QatLinear(mx.array([[0.1, -0.6, 0.8, 2.0]]), group_rows=1)
    layer.factor = mx.array([0.5])

    def total(weight):
        layer.weight = weight
        return (layer.rounded() * mx.array([[1.0, 2.0, 3.0, 4.0]])).sum()

    # s = 0.5: what lies within a half s of the grid's ends, -0.75 and 0.75, is not clamped.
    assert mx.grad(total)(layer.weight).tolist() == [[1.0, 2.0, 3.0, 0.0]]


def test_gradient_of_a_factor_moves_what_is_clipped_and_what_is_rounded():
    layer = QatLinear(mx.array([[0.1, -0.6, 0.8, 2.0]]), group_rows=1)

    def total(factor):
        layer.factor = factor
        return layer.rounded().sum()

    # dW~ / ds is index - W / s inside, and the grid's end where it is clipped; ds / df = 1.
    wanted = (0.5 - 0.2) + (-1.5 + 1.2) + (1.5 - 1.6) + 1.5
    assert mx.grad(total)(mx.array([0.5])).item() == pytest.approx(wanted, abs=1e-5)


def test_what_is_stored_is_what_was_trained(weight):
    layer = QatLinear(weight, group_rows=16)
    layer.factor = layer.factor * mx.array([1.1, 0.9, 1.03])
    palette = layer.palette()
    assert palette.bits == 2
    assert palette.tables.dtype == mx.float16
    assert mx.array_equal(palette.dense(), layer.rounded())


def test_a_group_of_zeros_is_stored_small():
    palette = QatLinear(mx.zeros((16, 8)), group_rows=16).palette()
    assert mx.abs(palette.dense()).max().item() <= 2**-13


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_trained_rounded_and_stored_with_equal_logits(tied):
    model = build(tied=tied)
    prepare(model, group_rows=8)
    names = {name.rpartition(".")[2] for name, _ in tree_flatten(model.trainable_parameters())}
    assert names == {"weight", "factor"}
    tokens = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    before = model(tokens)
    store(model)
    stored = linears(model)
    assert tied or isinstance(stored.pop("lm_head"), Int8Linear)
    assert all(isinstance(layer, PaletteLinear) for layer in stored.values())
    assert isinstance(model.model.embed_tokens, Int8Embedding)
    assert mx.allclose(model(tokens), before, atol=1e-5)
    assert not tree_flatten(model.trainable_parameters())


class Slope:
    """An update rule that adds the gradient."""

    def init(self, params):
        return {"steps": mx.array(0)}

    def update(self, params, grads, state, **_):
        return {"x": params["x"] + grads["x"]}, {"steps": state["steps"] + 1}, {}


def test_the_average_follows_the_weights():
    rule = Averaged(Slope(), 0.5)
    params = {"x": mx.array(0.0)}
    state = rule.init(params)
    for _ in range(3):
        params, state, _ = rule.update(params, {"x": mx.array(1.0)}, state)
    assert params["x"].item() == 3
    assert state["average"]["x"].item() == 2.125  # ((0 + 1) / 2 + 2) / 2, and so on
    assert math.isclose(state["rule"]["steps"].item(), 3)
