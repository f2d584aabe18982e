"""The part of the tables' errors that an adapter begins with."""

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.divergence import Reference
from afm_mlx.compression.equalize import equalize
from afm_mlx.compression.moments import collect_moments
from afm_mlx.compression.residual import LEAST_WORTH, leading_part, output_worths, residual_factors
from afm_mlx.decoder.lora import load_lora
from afm_mlx.decoder.palette import linears

from .conftest import KINDS, SHARED, TINY, build, drawn_tokens, in_tables

KEY = mx.random.key(0)


def drawn(outputs=12, inputs=20, seed=2):
    """An error, the moments of inputs of very different sizes, and what outputs count."""
    draw = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(draw.normal(size=(inputs, inputs)))
    moment = (basis * np.exp(draw.normal(size=inputs, scale=2))) @ basis.T
    worth = np.exp(draw.normal(size=outputs))
    arrays = draw.normal(size=(outputs, inputs)), moment, worth
    return tuple(each.astype(np.float32) for each in arrays)


def cost(error, moment, worth):
    return float((np.einsum("oi,ij,oj->o", error, moment, error) * worth).sum())


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_what_is_left_is_what_no_factors_of_that_rank_can_take(shape):
    error, moment, worth = drawn(*shape)
    a, b = leading_part(*(mx.array(each) for each in (error, moment, worth)), 4, key=KEY)
    counts = worth / worth.mean() + LEAST_WORTH
    root = np.linalg.cholesky(moment.astype(np.float64))
    sizes = np.linalg.svd((np.sqrt(counts)[:, None] * error) @ root, compute_uv=False)
    left = cost(error - np.array(a @ b).T, moment, counts)
    assert left == pytest.approx(np.square(sizes[4:]).sum(), rel=1e-3)
    squares = np.diag(np.array(a).T @ moment @ np.array(a))  # E[(x a)^2]
    assert squares == pytest.approx([np.trace(moment) / len(moment)] * 4, rel=1e-3)


def test_all_of_an_error_of_low_rank_is_taken_and_the_rest_is_zeros():
    error, moment, worth = drawn()
    error[3:] = error[:3].sum(0)
    a, b = leading_part(*(mx.array(each) for each in (error, moment, worth)), 16, key=KEY)
    assert (a.shape, b.shape) == ((20, 16), (16, 12))
    np.testing.assert_allclose(np.array(a @ b).T, error, atol=1e-2)
    assert not mx.any(a[:, 12:])
    assert mx.isfinite(a).all()


def test_where_nothing_was_lost_both_factors_are_zeros():
    _, moment, worth = drawn()
    a, b = leading_part(mx.zeros((12, 20)), mx.array(moment), mx.array(worth), 4, key=KEY)
    assert not mx.any(a)
    assert not mx.any(b)


@pytest.mark.parametrize("changes", [*KINDS.values(), SHARED], ids=[*KINDS, "shared"])
def test_a_model_in_tables_is_nearer_to_what_it_was_without_training(changes):
    original, model = build(**changes), build(**changes)
    equalize(model, collect_moments(model, [drawn_tokens()]), group_rows=4)
    in_tables(model, 2)
    before = model(drawn_tokens())
    reference = Reference(original, [drawn_tokens()], chunk_bytes=2**20)
    lost = reference.kl(model)
    worths = output_worths(model, [drawn_tokens()], seed=0)
    left = []
    for rank in (2, 6):
        steps, given = [], [drawn_tokens()]
        factors = residual_factors(
            model, original, given, worths, rank=rank, scale=0.5, seed=0, done=steps.append
        )
        assert steps == [1, 2]
        assert mx.array_equal(model(drawn_tokens()), before)  # as it was
        again = build(**changes)
        equalize(again, collect_moments(again, [drawn_tokens()]), group_rows=4)
        in_tables(again, 2)
        load_lora(again, factors, scale=0.5)
        left.append(reference.kl(again))
    assert left[1] < left[0] < lost
    assert left[1] < 0.3 * lost
    wanted = {f"{name}.lora_{f}" for name in linears(model) for f in "ab" if name != "lm_head"}
    assert set(factors) == wanted
    assert {each.dtype for each in factors.values()} == {mx.float32}
    assert factors["model.layers.0.mlp.down_proj.lora_a"].shape == (TINY.intermediate_size, 6)
