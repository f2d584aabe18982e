"""The kernels' bodies, compiled as C++ here and run on the GPU of a Mac."""

import ctypes
import shutil
import subprocess
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.decoder import Decoder, named_parameters
from afm_mlx.decoder.lora import add_lora, lora_arrays
from afm_mlx.decoder.palette import (
    MATVEC_ROWS,
    Layout,
    as_words,
    dense_weight,
    linears,
    pack,
    palette_matmul,
)
from afm_mlx.decoder.palette_kernel import (
    EXPAND,
    LANES,
    MATVEC,
    METAL,
    SIZES,
    TEAM_ROWS,
    TEAMS,
    Kernels,
    device_kernels,
)

FORMATS = {mx.float32: 0, mx.float16: 1, mx.bfloat16: 2}
STORED = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16}


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """The kernels as C++, to be used in place of a GPU's."""
    compiler = shutil.which("clang++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler here: neither clang++ nor g++")
    folder = tmp_path_factory.mktemp("twin")
    for name, text in {"sizes": SIZES, "matvec": MATVEC, "expand": EXPAND}.items():
        (folder / f"{name}.inc").write_text(text)
    source, library = Path(__file__).with_name("palette_twin.cpp"), folder / "twin.so"
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", f"-I{folder}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    run = ctypes.CDLL(str(library)).run_kernel
    return Kernels(partial(twin_matvec, run), partial(twin_expand, run))


def twin_matvec(run, x, ids, tables, *, bits, group_rows):
    blocks = -(-ids.shape[0] // (TEAMS * TEAM_ROWS))
    call = partial(run_twin, run, 1, x.dtype, bits, x, ids, tables, group_rows)
    return call(x.shape[0], blocks, (x.shape[0], ids.shape[0]))


def twin_expand(run, ids, tables, *, bits, group_rows, columns, dtype):
    blocks = -(-ids.size // (LANES * TEAMS))
    call = partial(run_twin, run, 0, dtype, bits, None, ids, tables, group_rows)
    return call(columns, blocks, (ids.shape[0], columns))


def run_twin(run, which, dtype, bits, x, ids, tables, group_rows, count, blocks, shape):
    out = np.full(shape, 77, dtype=STORED[dtype])
    arrays = [None if x is None else stored(x), stored(ids), np.array(ids.shape, np.int32)]
    arrays += [stored(tables), out]
    pointers = [None if a is None else a.ctypes.data_as(ctypes.c_void_p) for a in arrays]
    error = run(
        which, FORMATS[dtype], FORMATS[tables.dtype], bits, *pointers, group_rows, count, blocks
    )
    assert error == 0
    result = mx.array(out)
    return result.view(mx.bfloat16) if dtype == mx.bfloat16 else result


def stored(array: mx.array) -> np.ndarray:
    """Contiguous numbers; bfloat16 as the 16 bits that it is."""
    return np.ascontiguousarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def drawn(rows: int, columns: int, bits: int, group_rows: int, seed: int = 0):
    """Random ids, tables and layout."""
    rng = np.random.default_rng(seed)
    if bits == 8:
        ids = mx.array(rng.integers(-127, 128, (rows, columns)).astype(np.int8))
        return (
            ids,
            mx.array(rng.uniform(0.001, 0.01, rows).astype(np.float16)),
            Layout(8, 1, columns),
        )
    ids = pack(mx.array(rng.integers(0, 2**bits, (rows, columns)).astype(np.uint32)), bits)
    tables = mx.array(rng.normal(size=(-(-rows // group_rows), 2**bits)).astype(np.float16))
    return ids, tables, Layout(bits, group_rows, columns)


SHAPES = [
    (16, 32, 16),
    (48, 576, 16),
    (37, 100, 16),  # the last group is short, columns are no whole words
    (5, 3, 16),  # fewer rows than a block, less than a word
    (64, 1030, 8),
    (70, 2050, 64),
    (33, 257, 5),  # tables of rows that two teams share
]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("rows", "columns", "group_rows"), SHAPES)
@pytest.mark.parametrize("dtype", list(FORMATS))
def test_the_kernels_compute_what_plain_operations_do(twin, bits, rows, columns, group_rows, dtype):
    assert differences(twin, bits, rows, columns, group_rows, dtype) == []


@pytest.mark.metal
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("rows", "columns", "group_rows"), SHAPES)
@pytest.mark.parametrize("dtype", list(FORMATS))
def test_the_gpu_computes_what_plain_operations_do(bits, rows, columns, group_rows, dtype):
    kernels = device_kernels()
    assert kernels is not None
    assert differences(kernels, bits, rows, columns, group_rows, dtype) == []


def differences(kernels, bits, rows, columns, group_rows, dtype):
    """Numbers of rows of inputs whose products are not those of plain operations; "expand", too."""
    found = []
    ids, tables, layout = drawn(rows, columns, bits, group_rows)
    weight = dense_weight(ids, tables, layout, mx.float32)
    for count in (1, 3, MATVEC_ROWS + 1):  # the last one takes the weight as a matrix
        x = mx.random.normal((count, columns), key=mx.random.key(count)).astype(dtype)
        y = palette_matmul(x, ids, tables, layout, kernels=kernels)
        exact = x.astype(mx.float32) @ weight.T
        # One rounding of the result, and for many rows one of each weight.
        digits = {mx.float32: 22, mx.float16: 10, mx.bfloat16: 7}[dtype]
        bound = 2.0**-digits * (mx.abs(x.astype(mx.float32)) @ mx.abs(weight).T)
        close = mx.all(mx.abs(y.astype(mx.float32) - exact) <= bound + 1e-6).item()
        if y.dtype != dtype or not close:
            found.append(count)
    made = kernels.expand(
        as_words(ids),
        tables,
        bits=bits,
        group_rows=layout.group_rows,
        columns=columns,
        dtype=dtype,
    )
    return found if mx.array_equal(made, weight.astype(dtype)) else [*found, "expand"]


def test_batches_of_rows_keep_their_axes(twin):
    ids, tables, layout = drawn(20, 24, 4, 16)
    x = mx.random.normal((2, 3, 24), key=mx.random.key(0))
    y = palette_matmul(x, ids, tables, layout, kernels=twin)
    assert y.shape == (2, 3, 20)
    assert mx.allclose(y, x @ dense_weight(ids, tables, layout, mx.float32).T, atol=1e-4)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("count", [3, MATVEC_ROWS + 1])
@pytest.mark.parametrize("back_end", ["plain", "twin"])
def test_gradients_to_inputs_and_tables_are_those_of_the_dense_product(
    bits, count, back_end, request
):
    kernels = request.getfixturevalue("twin") if back_end == "twin" else None
    ids, tables, layout = drawn(37, 100, bits, 16)
    tables = tables.astype(mx.float32)
    x = mx.random.normal((count, 100), key=mx.random.key(1))
    to_y = mx.random.normal((count, 37), key=mx.random.key(2))

    def ours(x, tables):
        return palette_matmul(x, ids, tables, layout, kernels=kernels)

    def dense(x, tables):
        return x @ dense_weight(ids, tables, layout, mx.float32).T

    _, got = mx.vjp(ours, [x, tables], [to_y])
    _, wanted = mx.vjp(dense, [x, tables], [to_y])
    for one, other in zip(got, wanted, strict=True):
        assert mx.allclose(one, other, rtol=1e-4, atol=1e-4 * mx.abs(other).max())


def computed_by(model: Decoder, kernels: Kernels | None) -> Decoder:
    """The model without dense copies: its look-ups go through `kernels`, or plain operations."""
    layers = [*linears(model).values(), model.model.embed_tokens]
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            layer.project = partial(product_of, layer, kernels)
    return model


def product_of(layer, kernels, x):
    return palette_matmul(x, layer.ids, layer[layer.values_name], layer.layout, kernels=kernels)


def dense_twin(model: Decoder) -> Decoder:
    """A model of numbers that computes the same."""
    other = Decoder(model.shape)
    weights = {
        name: array
        for name, array in named_parameters(model).items()
        if name.endswith("norm.weight")
    }
    layers = linears(model) | {"model.embed_tokens": model.model.embed_tokens}
    weights |= {f"{name}.weight": layer.weight for name, layer in layers.items()}
    other.load_weights(list(weights.items()))
    return other


def greedy(model: Decoder, prompt: list[int], count: int) -> tuple[list[int], mx.array]:
    """Tokens after a prompt, and the last logits."""
    cache = import_mlx_lm("mlx_lm.models.cache").make_prompt_cache(model)
    found, tokens = [], prompt
    for _ in range(count):
        logits = model(mx.array([tokens]), cache)[0, -1]
        tokens = [int(logits.argmax().item())]
        found += tokens
    return found, logits


def test_all_ways_to_compute_a_model_give_the_same_tokens(any_shape, make, palettize, twin):
    prompt = [(5 * number) % any_shape.vocab_size for number in range(MATVEC_ROWS + 3)]
    wanted, logits = greedy(dense_twin(palettize(make(any_shape))), prompt, 24)
    assert len(set(wanted)) > 3
    ways = {
        "dense copy": palettize(make(any_shape)),
        "plain": computed_by(palettize(make(any_shape)), None),
        "twin": computed_by(palettize(make(any_shape)), twin),
    }
    for way, model in ways.items():
        got, near = greedy(model, prompt, 24)
        assert got == wanted, way
        assert mx.allclose(near, logits, atol=1e-4), way


@pytest.mark.parametrize("count", [MATVEC_ROWS, 40])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_all_ways_give_an_adapter_the_same_gradients(count, checkpoint, make, palettize, twin):
    tokens = mx.random.randint(0, 64, (1, count), key=mx.random.key(5))

    def loss(model: Decoder) -> mx.array:
        return mx.square(model.hidden(tokens, checkpoint=checkpoint) @ model.output_weight.T).mean()

    gradients = []
    for way in ("dense", "dense copy", "plain", "twin"):
        model = palettize(make())
        if way == "dense":
            model = dense_twin(model)
        elif way != "dense copy":
            computed_by(model, twin if way == "twin" else None)
        add_lora(model, rank=3, scale=2.0, seed=1)
        factors = lora_arrays(model)
        some = {
            n: a + 0.1 * mx.random.normal(a.shape, key=mx.random.key(9)) for n, a in factors.items()
        }
        model.load_weights(list(some.items()), strict=False)
        _, found = nn.value_and_grad(model, loss)(model)
        gradients.append(tree_flatten(found, destination={}))
    assert len(gradients[0]) == 2 * 14
    for other in gradients[1:]:
        assert other.keys() == gradients[0].keys()
        for name, wanted in gradients[0].items():
            assert mx.abs(wanted).max() > 0
            assert mx.allclose(other[name], wanted, rtol=1e-3, atol=1e-4 * mx.abs(wanted).max()), (
                name
            )


def test_trained_tables_are_followed_and_not_a_copy(make, palettize, tokens):
    model = palettize(make(), bits=4)
    before = model(tokens)
    layer = model.layers[0].mlp.up_proj
    layer.tables = layer.tables * 1.5
    assert mx.abs(model(tokens) - before).max() > 1e-3
    model.freeze()
    layer.unfreeze(keys="tables", recurse=False)
    _, found = nn.value_and_grad(model, lambda model: mx.square(model(tokens)).mean())(model)
    ((name, gradient),) = tree_flatten(found)
    assert name == "model.layers.0.mlp.up_proj.tables"
    assert mx.abs(gradient).max() > 0


# What Metal has and C++ has not, for the eyes of a C++ compiler.
METAL_WORDS = """
#include <algorithm>
#include <cstdint>
#define device
#define constant
#define threadgroup
#define kernel maybe_unused
using std::min;
typedef unsigned uint;
typedef float float16_t;
struct uint3 { uint x, y, z; };
enum class mem_flags { mem_threadgroup };
inline void simdgroup_barrier(mem_flags) {}
inline float simd_sum(float value) { return value; }
"""


@pytest.mark.parametrize("body", ["matvec", "expand"])
def test_what_mlx_makes_of_a_body_for_metal_is_well_formed(body, tmp_path, capfd):
    compiler = shutil.which("clang++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler here: neither clang++ nor g++")
    x, ids, tables = mx.zeros((1, 32), mx.float16), mx.zeros((16, 4), mx.uint32), mx.zeros((1, 16))
    names, arrays = ["x", "ids", "tables"], [x, ids, tables]
    if body == "expand":
        names, arrays = names[1:], arrays[1:]
    made = mx.fast.metal_kernel(
        name=body,
        input_names=names,
        output_names=["y" if body == "matvec" else "w"],
        source=METAL.start + (MATVEC if body == "matvec" else EXPAND),
        header=METAL.header,
    )

    def call(*arrays):
        return made(
            inputs=list(arrays),
            template=[("T", mx.float16), ("BITS", 4), ("GROUP_ROWS", 16), ("COLUMNS", 32)],
            grid=(64, 1, 1),
            threadgroup=(64, 1, 1),
            output_shapes=[(16, 32)],
            output_dtypes=[mx.float16],
            verbose=True,
        )[0]

    mx.export_function(str(tmp_path / "function"), call, *arrays)  # runs nothing
    printed = capfd.readouterr().out
    source = printed.split("```")[1].rpartition("template [[host_name")[0]
    for word in ("simdgroup_index_in_threadgroup", "thread_index_in_simdgroup"):
        assert f"uint {word} [[{word}]]" in source
    assert "uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]]" in source
    instance = source[source.index("custom_kernel") :].partition("(")[0]
    text = METAL_WORDS + source + f"\nauto used = &{instance}<float, 4, 16, 32>;\n"
    (tmp_path / "kernel.cpp").write_text(text)
    flags = ["-std=c++17", "-fsyntax-only", "-Wno-attributes", "-Wno-unknown-attributes"]
    subprocess.run([compiler, *flags, str(tmp_path / "kernel.cpp")], check=True)
