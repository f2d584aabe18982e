"""Rescaling: the same function, and tables that fit it better."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from afm_mlx.compression.equalize import equalize
from afm_mlx.compression.moments import collect_moments
from afm_mlx.compression.tables import fit_tables
from afm_mlx.decoder.palette import linears

from .conftest import KINDS, SHARED, build, drawn_tokens


@pytest.fixture(params=[*KINDS.values(), SHARED], ids=[*KINDS, "shared"])
def decoder(request):
    model = build(**request.param)
    for number, (name, linear) in enumerate(linears(model).items()):
        if name != "lm_head":  # columns of scales that differ as a real model's do
            columns = mx.random.normal((linear.weight.shape[1],), key=mx.random.key(number))
            linear.weight = linear.weight * mx.exp(columns)
    return model


def error(decoder, moments):
    return sum(
        fit_tables(
            np.array(linear.weight), bits=4, group_rows=8, importance=np.array(moments[name])
        ).error
        for name, linear in linears(decoder).items()
    )


def test_the_decoder_computes_what_it_did(decoder):
    before = np.array(decoder(drawn_tokens(8)))
    equalize(decoder, collect_moments(decoder, [drawn_tokens(8)]), group_rows=8)
    after = np.array(decoder(drawn_tokens(8)))
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()


def test_tables_fit_better(decoder):
    moments = collect_moments(decoder, [drawn_tokens(8)])
    before = error(decoder, moments)
    assert error(decoder, equalize(decoder, moments, group_rows=8)) < 0.8 * before


def test_the_moments_that_come_back_are_those_of_the_new_decoder(decoder):
    after = equalize(decoder, collect_moments(decoder, [drawn_tokens(8)]), group_rows=8)
    for name, wanted in collect_moments(decoder, [drawn_tokens(8)]).items():
        np.testing.assert_allclose(np.array(after[name]), np.array(wanted), rtol=1e-3, atol=1e-6)


def test_full_moments_come_back_as_such(decoder):
    before = collect_moments(decoder, [drawn_tokens(8)], full=True)
    after = equalize(decoder, before, group_rows=8)
    for name, wanted in collect_moments(decoder, [drawn_tokens(8)], full=True).items():
        limit = 1e-3 * np.abs(np.array(wanted)).max()
        np.testing.assert_allclose(np.array(after[name]), np.array(wanted), atol=limit)


def test_units_that_share_a_table_are_alike():
    model = build(intermediate_size=64)
    up = model.layers[0].mlp.up_proj
    up.weight = up.weight * mx.exp(2 * mx.random.normal((64, 1), key=mx.random.key(0)))
    equalize(model, collect_moments(model, [drawn_tokens(8)]), group_rows=8)
    rows = np.log(np.linalg.norm(np.array(up.weight), axis=1)).reshape(-1, 8)
    assert rows.std(1).mean() < 0.5 * rows.std()


def test_types_and_shapes_stay():
    model = build()
    model.set_dtype(mx.bfloat16)
    facts = [(name, array.shape, array.dtype) for name, array in tree_flatten(model.parameters())]
    equalize(model, collect_moments(model, [drawn_tokens(8)]), group_rows=8)
    after = [(name, array.shape, array.dtype) for name, array in tree_flatten(model.parameters())]
    assert after == facts
