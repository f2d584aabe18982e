"""Finding a model's channels again in tables that were made of it."""

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.coordinates import _matched, in_coordinates_of
from afm_mlx.compression.equalize import equalize
from afm_mlx.compression.moments import collect_moments
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.palette import linears
from afm_mlx.errors import ModelError

from .conftest import KINDS, SHARED, build, drawn_tokens, in_tables


def follow(original: Decoder, tables: Decoder) -> Decoder:
    """The original, in the coordinates of the tables."""
    moved = Decoder(original.shape)
    moved.update(original.parameters())
    for number, (ours, theirs) in enumerate(zip(original.layers, tables.layers, strict=True)):
        moved.model.layers[number] = in_coordinates_of(
            theirs, ours, original.shape, name=f"model.layers.{number}"
        )
    return moved


@pytest.mark.parametrize("changes", [*KINDS.values(), SHARED], ids=[*KINDS, "shared"])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_original_moves_to_the_tables_and_computes_what_it_did(changes, bits):
    original, tables = build(**changes), build(**changes)
    equalize(tables, collect_moments(tables, [drawn_tokens()]), group_rows=4)
    exact = {name: np.array(layer.weight) for name, layer in linears(tables).items()}
    up = "model.layers.0.mlp.up_proj"
    assert not np.allclose(exact[up], np.array(linears(original)[up].weight))
    in_tables(tables, bits)
    moved = follow(original, tables)
    before, after = np.array(original(drawn_tokens())), np.array(moved(drawn_tokens()))
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()
    for name, layer in linears(moved).items():
        if name == "lm_head":
            continue
        stored, ours = np.array(linears(tables)[name].weight), np.array(layer.weight)
        # As near to the tables as the weights that they were fitted to, but for scales of so short
        # rows in so few bits.
        lost = np.square(stored - exact[name]).sum()
        assert np.square(stored - ours).sum() < {2: 1.5, 4: 1.1}[bits] * lost, name


def test_a_block_that_nothing_moved_stays():
    original, tables = build(), build()
    in_tables(tables, 4)
    moved = follow(original, tables)
    for name in ("self_attn.q_proj", "mlp.gate_proj"):
        name = f"model.layers.1.{name}"
        assert mx.array_equal(linears(moved)[name].weight, linears(original)[name].weight), name


def test_gains_may_have_been_trained_and_be_zero():
    original, tables = build(), build()
    original.layers[0].input_layernorm.weight[3] = 0
    norm = tables.layers[0].input_layernorm
    norm.weight = norm.weight * (1 + 0.3 * mx.random.normal(norm.weight.shape))
    tables.layers[1].post_attention_layernorm.weight[5] = 0
    in_tables(tables, 4)
    moved = follow(original, tables)
    before, after = np.array(original(drawn_tokens())), np.array(moved(drawn_tokens()))
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()
    assert mx.array_equal(moved.layers[0].input_layernorm.weight, norm.weight)


def test_tables_of_another_model_are_refused():
    original, tables = build(), build(seed=8)
    in_tables(tables, 4)
    with pytest.raises(ModelError, match=r"model.layers.0.self_attn.q_proj are not made of this"):
        follow(original, tables)


def test_each_unit_gets_a_partner_of_its_own():
    alike = np.array([[0.9, 0.8, 0.1], [0.95, 0.2, 0.1], [0.9, 0.1, 0.3]], np.float32)
    assert _matched(alike).tolist() == [1, 0, 2]
    assert _matched(np.ones((4, 4), np.float32)).tolist() == [0, 1, 2, 3]
