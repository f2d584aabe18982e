"""Importance of units, against their definitions."""

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.importance import (
    activation_importance,
    gradient_importance,
    standardized_logs,
)
from afm_mlx.decoder.exponential import silu

from .conftest import KINDS, TINY, build

L, F = TINY.num_layers, TINY.intermediate_size


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def decoder(request):
    return build(**request.param)


def batches():
    """Two, of different sizes."""
    return [
        mx.random.randint(0, TINY.vocab_size, (rows, 9), key=mx.random.key(rows)) for rows in (2, 3)
    ]


def squared(decoder, rows, checkpoint=False):
    """A loss in which every token matters."""
    return mx.square(decoder.hidden(rows, checkpoint=checkpoint)[..., 0]).sum()


class Offset:
    """A feed-forward layer whose activations can be moved, and are noted."""

    def __init__(self, mlp, offset):
        self.mlp, self.offset, self.seen = mlp, offset, None

    def __call__(self, x):
        self.seen = silu(self.mlp.gate_proj(x)) * self.mlp.up_proj(x)
        return self.mlp.down_proj(self.seen + self.offset)


def activations_and_gradients(decoder, rows, loss):
    """[L, B, T, F] activations and d loss / d activation, by explicit differentiation."""
    layers = [layer.mlp for layer in decoder.layers]
    seen = []

    def moved(offsets):
        stand_ins = [Offset(mlp, offset) for mlp, offset in zip(layers, offsets, strict=True)]
        for layer, stand_in in zip(decoder.layers, stand_ins, strict=True):
            layer.mlp = stand_in
        total = loss(decoder, rows)
        seen[:] = [stand_in.seen for stand_in in stand_ins]
        return total

    zeros = [mx.zeros((*rows.shape, F)) for _ in layers]
    gradients = mx.grad(moved)(zeros)
    moved(zeros)
    for layer, mlp in zip(decoder.layers, layers, strict=True):
        layer.mlp = mlp
    return np.array(mx.stack(seen)), np.array(mx.stack(gradients))


def test_gradient_importance_is_the_mean_of_activation_times_gradient(decoder):
    found = np.array(gradient_importance(decoder, batches(), squared))
    products = []
    for rows in batches():
        a, g = activations_and_gradients(decoder, rows, squared)
        products.append(np.abs(a * g).reshape(L, -1, F))
    wanted = np.concatenate(products, axis=1).mean(1)
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_gradient_importance_is_the_same_with_activation_checkpointing(decoder):
    plain = gradient_importance(decoder, batches(), squared)
    less = gradient_importance(decoder, batches(), lambda *batch: squared(*batch, checkpoint=True))
    assert mx.abs(plain).max() > 0
    assert mx.allclose(plain, less, rtol=1e-5, atol=1e-7)


def test_activation_importance_is_the_size_of_what_a_unit_adds(decoder):
    found = np.array(activation_importance(decoder, batches()))
    squares = []
    for rows in batches():
        a, _ = activations_and_gradients(decoder, rows, squared)
        squares.append(np.square(a).reshape(L, -1, F))
    rms = np.sqrt(np.concatenate(squares, axis=1).mean(1))
    for layer in range(L):
        columns = np.linalg.norm(np.array(decoder.layers[layer].mlp.down_proj.weight), axis=0)
        assert found[layer] == pytest.approx(rms[layer] * columns, rel=1e-4, abs=1e-7)


def test_unit_that_never_acts_has_no_importance_and_the_lowest_score(decoder):
    weight = decoder.layers[0].mlp.up_proj.weight
    decoder.layers[0].mlp.up_proj.weight = weight * (mx.arange(F) != 5)[:, None]
    for importance in (
        activation_importance(decoder, batches()),
        gradient_importance(decoder, batches(), squared),
    ):
        assert importance[0, 5].item() == 0
        scores = np.array(standardized_logs(importance))
        assert np.isfinite(scores).all()
        assert scores[0, 5] == scores[0].min()


def test_measuring_leaves_the_model_as_it_was(decoder):
    before = [layer.mlp.down_proj for layer in decoder.layers]

    def failing(decoder, rows):
        raise ZeroDivisionError

    gradient_importance(decoder, batches(), squared)
    with pytest.raises(ZeroDivisionError):
        gradient_importance(decoder, batches(), failing)
    assert all(
        layer.mlp.down_proj is linear for layer, linear in zip(decoder.layers, before, strict=True)
    )


def test_scores_have_mean_0_and_deviation_1_in_each_layer():
    importance = mx.exp(mx.random.normal((3, 40), key=mx.random.key(0)) * 3 - 20)
    scores = np.array(standardized_logs(importance), np.float64)
    assert scores.mean(-1) == pytest.approx(0, abs=1e-5)
    assert scores.std(-1) == pytest.approx(1, rel=1e-4)
    assert np.array_equal(np.argsort(scores), np.argsort(np.array(importance)))


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_scores_of_equal_units_are_0(value):
    assert np.array_equal(np.array(standardized_logs(mx.full((2, 6), value))), np.zeros((2, 6)))
