import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from afm_mlx.compat import is_frozen
from afm_mlx.decoder.palette import (
    Int8Embedding,
    Int8Linear,
    Layout,
    PaletteLinear,
    int8_rows,
    linears,
    pack,
    palette_matmul,
    unpack,
)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("columns", [1, 7, 16, 33])
def test_packed_ids_come_back(bits, columns):
    ids = mx.random.randint(0, 2**bits, (5, columns), key=mx.random.key(columns)).astype(mx.uint32)
    words = pack(ids, bits)
    assert words.shape == (5, -(-columns * bits // 32))
    assert words.dtype == mx.uint32
    assert mx.array_equal(unpack(words, bits, columns), ids)


def test_the_first_id_is_in_the_lowest_bits():
    assert pack(mx.array([[1, 2, 3, 0, 0, 0, 0, 15, 7]]), 4).tolist() == [[0xF0000321, 7]]
    assert pack(mx.array([[1, 2, 3]]), 2).tolist() == [[0b111001]]


def test_a_table_serves_its_rows_and_the_last_one_those_that_are_left():
    ids = np.arange(5 * 3).reshape(5, 3) % 4
    tables = np.array([[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]], dtype=np.float16)
    packed = pack(mx.array(ids), 2)
    layer = PaletteLinear(packed, mx.array(tables), bits=2, group_rows=2, in_features=3)
    wanted = [[float(tables[row // 2, k]) for k in ids[row]] for row in range(5)]
    assert np.array_equal(np.array(layer.dense()), wanted)
    assert mx.array_equal(layer(mx.eye(3)), mx.array(wanted).T)
    assert (layer.in_features, layer.out_features) == (3, 5)


def test_eight_bits_are_within_half_a_step_and_keep_the_largest():
    weight = (
        mx.random.normal((40, 64), key=mx.random.key(0)) * 10 ** mx.linspace(-3, 1, 40)[:, None]
    )
    ids, scales = int8_rows(weight)
    assert (ids.dtype, scales.dtype) == (mx.int8, mx.float16)
    assert mx.abs(ids).max(1).tolist() == [127] * 40
    error = mx.abs(Int8Linear(ids, scales).dense() - weight)
    # Half a step, and what rounding the scale to 11 bits moves a value of 127 steps.
    assert mx.all(error <= (0.5 + 127 * 2.0**-11) * scales.astype(mx.float32)[:, None])


def test_rows_of_zeros_stay_zeros():
    ids, scales = int8_rows(mx.zeros((2, 8)))
    assert mx.all(Int8Linear(ids, scales).dense() == 0)


def test_an_embedding_gives_its_rows_and_is_the_output_layer():
    layer = Int8Embedding(*int8_rows(mx.random.normal((9, 8), key=mx.random.key(1))))
    tokens = mx.array([[3, 0], [8, 8]])
    assert mx.array_equal(layer(tokens), layer.weight[tokens])
    x = mx.random.normal((2, 8), key=mx.random.key(2))
    assert mx.allclose(layer.as_linear(x), x @ layer.dense().T, atol=1e-5)
    half = Int8Embedding(layer.ids, layer.scales, dtype=mx.bfloat16)
    assert half(tokens).dtype == mx.bfloat16


def test_nothing_of_a_layer_is_trained_until_asked_for(make, palettize):
    model = palettize(make(), bits=4)
    trained = {name for name, _ in tree_flatten(model.trainable_parameters())}
    assert all(name.endswith("norm.weight") for name in trained)
    layer = model.layers[0].mlp.up_proj
    assert is_frozen(layer, "tables")
    layer.unfreeze(keys="tables", recurse=False)
    assert not is_frozen(layer, "tables")
    assert list(layer.trainable_parameters()) == ["tables"]
    model.freeze()
    assert is_frozen(layer, "tables")


def test_linears_are_named_as_in_a_checkpoint(any_shape, make):
    found = linears(make(any_shape))
    assert len(found) == 7 * any_shape.num_layers + (not any_shape.tied)
    assert isinstance(found["model.layers.1.mlp.down_proj"], nn.Linear)
    assert ("lm_head" in found) is not any_shape.tied


def test_the_backward_pass_keeps_no_weight():
    side, number = 256, 80
    values = mx.random.normal((number, side // 16, 16), key=mx.random.key(0)).astype(mx.float16)
    ids = mx.random.randint(0, 16, (number, side, side), key=mx.random.key(1))
    packed = [pack(each, 4) for each in ids]
    x = mx.random.normal((16, side), key=mx.random.key(2))
    mx.eval(values, packed, x)
    del ids

    def loss(x):
        for each, tables in zip(packed, values, strict=True):
            x = x + 0.01 * palette_matmul(x, each, tables, Layout(4, 16, side))
        return mx.square(x).sum()

    mx.eval(mx.grad(loss)(x))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(mx.grad(loss)(x))
    weights = (mx.get_peak_memory() - before) / (side * side * 4)
    assert weights < number / 4
