"""Masked decoders: the definition, gradients, and that a cut model is the masked one."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from afm_mlx.compression.masks import MaskedDecoder, annealed, cut_units, scaled_units
from afm_mlx.decoder.decoder import count_parameters, named_parameters

from .conftest import KINDS, TINY, build

L, F = TINY.num_layers, TINY.intermediate_size


def draw(*shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed))


def tokens():
    return mx.random.randint(0, TINY.vocab_size, (2, 12), key=mx.random.key(1))


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def decoder(request):
    return build(**request.param)


def snapshot(decoder):
    return {name: np.array(array) for name, array in named_parameters(decoder).items()}


def test_masked_feed_forward_is_its_definition(decoder):
    """FFN(n) = Wdown (z * SiLU(Wgate n) * (Wup n)), in NumPy's float64."""
    masked = MaskedDecoder(decoder, draw(L, F))
    z = np.array(masked.masks(10.0, 0.5), np.float64)
    n = draw(3, TINY.hidden_size, seed=5)
    with masked.masked(10.0, 0.5) as model:
        found = [np.array(layer.mlp(n[None])[0]) for layer in model.layers]
    for layer in range(L):
        mlp = decoder.layers[layer].mlp
        gate, up, down = (
            np.array(part.weight, np.float64)
            for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )
        x = np.array(n, np.float64)
        gated = x @ gate.T / (1 + np.exp(-(x @ gate.T)))
        assert found[layer] == pytest.approx((z[layer] * gated * (x @ up.T)) @ down.T, abs=1e-5)


def test_masks_of_one_change_nothing(decoder):
    before = np.array(decoder(tokens()))
    with scaled_units(decoder, mx.ones((L, F))) as same:
        assert np.array_equal(np.array(same(tokens())), before)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradient_reaches_scores_and_all_weights(decoder, checkpoint):
    masked = MaskedDecoder(decoder, draw(L, F))

    def loss(params):
        masked.update(params)
        with masked.masked(10.0, 0.5) as model:
            return mx.square(model.hidden(tokens(), checkpoint=checkpoint)).sum()

    params = masked.trainable_parameters()
    gradients = dict(tree_flatten(mx.grad(loss)(params)))
    masked.update(params)
    untrained = {"decoder.lm_head.weight"}  # `hidden` stops before it
    for name, gradient in gradients.items():
        assert name in untrained or mx.abs(gradient).max() > 0, name
    assert {f"scores.{layer}" for layer in range(L)} < gradients.keys()
    step = 1e-2
    nudge = draw(L, F, seed=9)
    direct = sum((gradients[f"scores.{layer}"] * nudge[layer]).sum().item() for layer in range(L))
    moved = []
    for sign in (1, -1):
        shifted = [score + sign * step * nudge[i] for i, score in enumerate(params["scores"])]
        moved.append(loss(params | {"scores": shifted}).item())
    masked.update(params)
    assert direct == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=2e-2, abs=2e-3)


def test_cut_model_has_the_logits_of_the_hardened_one_and_the_planned_size(decoder):
    masked = MaskedDecoder(decoder, draw(L, F))
    student = masked.cut(10, 0.02)
    with masked.hardened(10, 0.02) as hard:
        wanted = np.array(hard(tokens()))
    assert np.array(student(tokens())) == pytest.approx(wanted, abs=1e-4)
    shape = decoder.shape.model_copy(update={"intermediate_size": 10})
    sizes = {name: array.size for name, array in named_parameters(student).items()}
    assert sizes == count_parameters(shape)
    assert student.shape == shape


def test_cut_model_is_near_the_masked_one_when_the_masks_are_cold(decoder):
    masked = MaskedDecoder(decoder, draw(L, F))
    assert min(masked.held_mass(10, 1e-4)) == pytest.approx(1, abs=1e-6)
    with masked.masked(10.0, 1e-4) as soft:
        wanted = np.array(soft(tokens()))
    assert np.array(masked.cut(10, 1e-4)(tokens())) == pytest.approx(wanted, abs=1e-4)


def test_held_mass_is_the_share_of_the_kept_masks():
    masked = MaskedDecoder(build(), draw(L, F))
    z = np.array(masked.masks(10.0, 0.5), np.float64)
    wanted = np.sort(z)[:, -10:].sum(-1) / z.sum(-1)
    assert masked.held_mass(10, 0.5) == pytest.approx(wanted, abs=1e-6)


def test_weights_are_put_back_also_after_an_error(decoder):
    masked = MaskedDecoder(decoder, draw(L, F))
    before = snapshot(decoder)
    for enter in (lambda: masked.masked(10.0, 0.5), lambda: masked.hardened(10, 0.5)):
        with pytest.raises(ZeroDivisionError), enter():
            raise ZeroDivisionError
        after = snapshot(decoder)
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_cutting_leaves_the_wide_model_alone_and_scales_columns(decoder):
    before = snapshot(decoder)
    kept = mx.array([[1, 4, 7], [0, 2, 23]])
    factors = mx.array([[1.0, 0.5, 2.0], [1.0, 1.0, 0.25]])
    narrow = cut_units(decoder, kept, factors)
    after = snapshot(decoder)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    down = "model.layers.1.mlp.down_proj.weight"
    up = "model.layers.1.mlp.up_proj.weight"
    cut = snapshot(narrow)
    assert np.array_equal(cut[down], before[down][:, [0, 2, 23]] * [1, 1, 0.25])
    assert np.array_equal(cut[up], before[up][[0, 2, 23]])


def test_number_format_of_the_weights_is_kept(decoder):
    decoder.set_dtype(mx.bfloat16)
    masked = MaskedDecoder(decoder, draw(L, F))
    with masked.masked(10.0, 0.5) as model:
        assert model.hidden(tokens()).dtype == mx.bfloat16
    assert {array.dtype for array in named_parameters(masked.cut(10, 0.5)).values()} == {
        mx.bfloat16
    }
    assert masked.scores[0].dtype == mx.float32


def test_width_falls_like_a_half_cosine_and_temperature_by_equal_factors():
    how = {"widths": (24.0, 8.0), "temperatures": (1.0, 0.01)}
    assert annealed(0.0, **how) == pytest.approx((24, 1))
    assert annealed(0.5, **how) == pytest.approx((16, 0.1))
    assert annealed(0.25, **how) == pytest.approx((16 + 8 * 0.5**0.5, 0.01**0.25))
    assert annealed(1.0, **how) == annealed(7.0, **how) == pytest.approx((8, 0.01))
    widths = [annealed(done / 10, **how)[0] for done in range(11)]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.metal
def test_masks_are_computed_beside_a_model_on_the_gpu():
    masked = MaskedDecoder(build(), draw(L, F))
    with masked.masked(10.0, 0.5) as model:
        gpu = np.array(model(tokens()))
    with mx.stream(mx.cpu), masked.masked(10.0, 0.5) as model:
        assert gpu == pytest.approx(np.array(model(tokens())), abs=1e-3)
