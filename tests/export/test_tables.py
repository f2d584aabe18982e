import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.decoder.adapters import read_adapter
from afm_mlx.decoder.checkpoint import read_tensors, save_checkpoint
from afm_mlx.decoder.decoder import Rotation
from afm_mlx.decoder.palette import EMBEDDING, PaletteLinear, linears, pack, replace_linears
from afm_mlx.errors import ExportError
from afm_mlx.export.tables import (
    Weights,
    planned_sizes,
    read_adapters,
    refusals,
    rotation_angles,
)
from afm_mlx.export.targets import find_target

from .conftest import LLAMA3_ROPE, SMALL, palettize, random_model


def test_tables_and_integers_are_the_weights_that_our_layers_compute_with(source):
    exported = source(palettized=True)
    weights = Weights(exported.folder, exported.shape)
    model = random_model()
    palettize(model)
    for name, layer in linears(model).items():
        matrix = weights.matrix(name)
        assert (matrix.bits, matrix.ids.dtype) == (4, np.uint8)
        spread = np.repeat(matrix.values, layer.group_rows, axis=0)
        found = np.take_along_axis(spread, matrix.ids.astype(int), axis=1)
        assert np.array_equal(found.astype(np.float32), np.array(layer.dense()))
    embedding = weights.matrix(EMBEDDING)
    assert (embedding.bits, embedding.ids.dtype) == (8, np.int8)
    found = embedding.ids.astype(np.float32) * embedding.values.astype(np.float32)
    assert np.array_equal(found, np.array(model.model.embed_tokens.dense()))


def test_a_dense_model_is_numbers_in_float16(source):
    exported = source(tied=False)
    weights = Weights(exported.folder, exported.shape)
    for name, array in read_tensors(exported.folder, exported.shape).items():
        layer = name.removesuffix(".weight")
        if array.ndim == 1:
            found = weights.gain(layer)
        else:
            assert (weights.matrix(layer).bits, weights.matrix(layer).values) == (16, None)
            found = weights.matrix(layer).ids
        assert found.dtype == np.float16
        assert np.array_equal(found, np.array(array.astype(mx.float16))), name


def test_an_adapters_scale_is_in_its_second_factor(source, with_adapter):
    adapted = with_adapter(source())
    (adapter,) = read_adapters(adapted)
    read = read_adapter(adapted.adapters[0], adapted.folder)
    name = "model.layers.1.mlp.down_proj"
    factors = adapter.factors[name]
    a, b = (read.arrays[f"{name}.lora_{each}"].astype(mx.float32) for each in "ab")
    wanted = np.array((read.facts.scale * (a @ b)).T)
    product = factors.b.astype(np.float32) @ factors.a.astype(np.float32)
    assert np.allclose(product, wanted, atol=0.02)


@pytest.mark.parametrize("changes", [{}, {"rope_scaling": LLAMA3_ROPE}], ids=["plain", "llama3"])
def test_angles_turn_pairs_as_our_rotation_does(changes):
    shape = SMALL.model_copy(update=changes)
    heads = mx.random.normal((1, 1, 50, shape.head_dim), key=mx.random.key(0))
    wanted = np.array(Rotation(shape)(heads))[0, 0]
    angles = rotation_angles(shape, 50)
    first, second = np.split(np.array(heads)[0, 0], 2, axis=-1)
    cosines, sines = np.cos(angles), np.sin(angles)
    found = np.concatenate(
        [first * cosines - second * sines, second * cosines + first * sines], axis=-1
    )
    assert np.allclose(found, wanted, atol=1e-4)


def test_the_plan_has_the_bits_of_tables(source, with_adapter):
    planned: dict[str, int] = {}
    for _, component, size in planned_sizes(with_adapter(source(palettized=True))):
        planned[component] = planned.get(component, 0) + size
    weights = sum(layer.weight.size for layer in linears(random_model()).values())
    rows = sum(layer.weight.shape[0] for layer in linears(random_model()).values())
    assert planned["linears"] == weights // 2 + rows // 16 * 16 * 2
    assert planned["embedding"] == SMALL.vocab_size * (SMALL.hidden_size + 2)
    assert planned["adapters"] > 0


def test_tables_that_end_within_a_group_are_refused(source):
    wide = source(intermediate_size=72)
    odd = random_model(wide.shape)
    name = "model.layers.0.mlp.gate_proj"
    ids, tables = mx.zeros((72, 32), mx.uint32), mx.zeros((5, 16), mx.float16)
    layer = PaletteLinear(pack(ids, 4), tables, bits=4, group_rows=16, in_features=32)
    replace_linears(odd, {name: layer})
    save_checkpoint(wide.folder, odd, wide.folder)
    assert list(refusals(wide)) == [f"{name} has 72 rows, not a multiple of the 16 of a table"]


@pytest.mark.parametrize(
    ("names", "said"), [(["a-b", "a_b"], "none, a-b, a_b"), (["none"], "none, none")]
)
def test_adapters_whose_functions_would_have_one_name_are_refused(
    source, with_adapter, names, said
):
    model = source()
    for name in names:
        model = with_adapter(model, name)
    assert list(refusals(model)) == [f"functions of {said} would have the same names"]


def test_nothing_of_other_models_is_refused(source, with_adapter):
    two = with_adapter(with_adapter(source(palettized=True)), "dogs")
    assert list(refusals(two)) == []


@pytest.mark.parametrize("target", ["coreml", "coreai"])
def test_targets_with_tables_refuse_it_before_anything_is_written(source, with_adapter, target):
    two = with_adapter(with_adapter(source(), "a-b"), "a_b")
    found = find_target(target)
    assert list(found.refusals(two, found.section())) == list(refusals(two))


def test_a_number_that_float16_cannot_hold_is_named(source):
    model, damaged = source(), random_model()
    damaged.model.norm.weight = mx.full((SMALL.hidden_size,), 70_000.0)
    save_checkpoint(model.folder, damaged, model.folder, facts={})
    with pytest.raises(ExportError, match=r"model\.norm\.weight has 70,000 in it"):
        Weights(model.folder, model.shape).gain("model.norm")
