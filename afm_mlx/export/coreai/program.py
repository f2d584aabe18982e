"""The graphs of an `.aimodel`: what Apple's language-model runner calls on the Neural Engine.

    load_embeddings                 the table of the embedding, as the other functions take it
    gather_embeddings_<q>           rows of q tokens
    extend_<context>_<q>            q tokens through all layers; their logits
    prompt_opt_<context>_<q>        the same for a part of a prompt: only the cache is written
    adapter_<name>_extend_...       the same two, with an adapter

All shapes are fixed. Tensors are (1, channels, 1, tokens), linear layers are convolutions of one
pixel, attention is computed head by head: Apple's rules for the Neural Engine.

Sources. CM: apple/coreai-models 86b363d, python/src/coreai_models/models/ios/qwen3.py and base.py,
swift/Sources/CoreAILanguageModels/InferenceEngines/CoreAIStaticShapeEngine.swift, and
skills/model-authoring/references/neural_engine_rules.md. Written against coreai-core 1.0.0b3.

Shapes. q tokens of a call, C tokens of the cache, D width, H query heads, K key/value heads,
E width of one head, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coreai.authoring as authoring  # must be imported before coreai._compiler
import numpy as np
from coreai._compiler.dialects import coreai as ops
from coreai._compiler.dialects.coreai.constant import ConstantOp, create_elements_attr
from coreai._compiler.ir import (
    ArrayAttr,
    DictAttr,
    IntegerType,
    Location,
    RankedTensorType,
    StringAttr,
)

from afm_mlx.decoder.palette import EMBEDDING, INT8_BITS
from afm_mlx.export.coreai.bundle import EXTEND, GATHER, LOAD, PROMPT, Sizes, function_name
from afm_mlx.export.tables import Adapter, Array, Weights, rotations

MASKED = -40_000.0
"""What the runner adds to scores of tokens that may not be seen. Source: CM, the Swift file."""

SMALLEST_PEAK = 2.0**-4
"""Values are divided by their largest before they are squared, or by this. Ours: squares stay
between what float16 can hold, and what rounds to nothing."""

KEYS, VALUES = "key_cache", "value_cache"

# Names of inputs and outputs. Source: CM, _constants.py.
TABLE = "embedding_table"
TOKENS = "in_new_token_ids"
GATHERED = "gathered_embeddings"
INPUT = "transformer_input"
POSITIONS = "position_ids"
STEP = "in_step"
MASK = "causal_mask"
LOGITS = "out_logits"


def write_program(
    file: Path,
    weights: Weights,
    sizes: Sizes,
    variants: Sequence[tuple[str, Adapter | None]],
    *,
    description: str,
) -> None:
    """Write an `.aimodel`.

    Args:
        file: to make, a folder whose name ends in `.aimodel`.
        weights: of the model.
        sizes: of its functions.
        variants: prefix of the functions' names, and their adapter.
        description: one line about the model.
    """
    module = authoring.Module.create()
    with module:
        author = _Author(weights, sizes)
        author.load_embeddings()
        for query in sizes.queries:
            author.gather_embeddings(query)
            for prefix, adapter in variants:
                for role in (EXTEND, PROMPT):
                    author.layers(function_name(role, sizes, query, prefix), role, query, adapter)
    module.verify()
    asset = authoring.AIProgram(module).save_asset(file)
    asset.update_metadata(lambda facts: setattr(facts, "model_description", description))


class _Author:
    """Builds the graphs of one program. Constants are made once, and used by all of them."""

    def __init__(self, weights: Weights, sizes: Sizes) -> None:
        self.weights, self.shape, self.sizes = weights, weights.shape, sizes
        self._made: dict[tuple[Any, ...], Any] = {}
        embedding = weights.matrix(EMBEDDING)  # config.json allows 8 bits of it, or none
        self.scales = None if embedding.values is None else embedding.values[:, :, None]
        self.table = embedding.ids

    def load_embeddings(self) -> None:
        graph = ops.GraphOp(name=LOAD, input_types=[], result_types=[])
        with graph.block:
            table = self._constant(self.table[:, None, :])
        graph.outputs_spec = [(TABLE, table)]

    def gather_embeddings(self, query: int) -> None:
        inputs = [(TOKENS, (1, query), np.int32), self._table_spec()]
        graph = self._graph(f"{GATHER}_{query}", inputs)
        with graph.block:
            tokens, table = graph.arguments
            places = _reshape(tokens, (query, 1))
            rows = ops.gather_nd(table, places)  # [q, 1, D]
            if self.scales is not None:
                steps = ops.gather_nd(self._constant(self.scales), places)  # [q, 1, 1]
                rows = ops.broadcasting_mul(ops.cast(rows, dtype=np.float16), steps)
            rows = _reshape(rows, (1, query, 1, self.shape.hidden_size))
        graph.outputs_spec = [(GATHERED, rows)]

    def layers(self, name: str, role: str, query: int, adapter: Adapter | None) -> None:
        shape, context = self.shape, self.sizes.context
        cache = (shape.num_layers, 1, shape.num_kv_heads * shape.head_dim, 1, context)
        inputs = [
            (INPUT, (1, query, 1, shape.hidden_size), np.float16),
            (POSITIONS, (1, query), np.uint16),
            (STEP, (1,), np.int32),
            (MASK, (1, context, 1, query), np.float16),
            (KEYS, cache, np.float16),
            (VALUES, cache, np.float16),
        ]
        if shape.tied:
            inputs.append(self._table_spec())
        graph = self._graph(name, inputs, states=(KEYS, VALUES))
        with graph.block:
            given = dict(zip([name for name, _, _ in inputs], graph.arguments, strict=True))
            logits, keys, values = _Layers(self, given, query, adapter).outputs(role)
        graph.outputs_spec = [(LOGITS, logits), (KEYS, keys), (VALUES, values)]

    def matrix(self, name: str) -> Any:
        """The weight [O, I, 1, 1] of a linear layer, made from what the file holds of it."""
        matrix = self.weights.matrix(name)
        ids = matrix.ids[:, :, None, None]
        if matrix.values is None:
            return self._constant(ids)
        if matrix.bits == INT8_BITS:
            return self.scaled(self._constant(ids), matrix.values[:, :, None, None])
        tables = self._constant(matrix.values.reshape(-1, 1, 1, 1, 2**matrix.bits, 1))
        packed = self._packed(ids, matrix.bits)
        return ops.lut_to_dense(packed, tables, self._constant(np.array(0, np.int16)))

    def scaled(self, integers: Any, scales: Array) -> Any:
        """Integers times what a step of their row is worth, in float16."""
        return ops.blockwise_shift_scale(
            integers,
            self._constant(scales),
            self._constant(np.zeros(scales.shape, np.int8)),
            self._constant(np.zeros(scales.shape, np.float16)),
        )

    def factor(self, values: Array) -> Any:
        return self._constant(values[:, :, None, None])

    def gain(self, name: str, shape: tuple[int, ...]) -> Any:
        return self._constant(self.weights.gain(name).reshape(shape))

    def number(self, value: float) -> Any:
        return self._constant(np.full((1, 1, 1, 1), value, np.float16))

    def rotation(self) -> tuple[Any, Any]:
        """Cosines and sines [C, E / 2] of all positions."""
        cosines, sines = rotations(self.shape, self.sizes.context)
        return self._constant(cosines), self._constant(sines)

    def _constant(self, array: Array) -> Any:
        array = np.asarray(array, order="C")
        key = (array.dtype, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._made:
            self._made[key] = ops.create_constant_attr(array)
        return ConstantOp(value=self._made[key]).result

    def _packed(self, ids: Array, bits: int) -> Any:
        """Ids of 2 or 4 bits, the first in the lowest bits of a byte.

        coreai-core 1.0.0b3 keeps an array of ml_dtypes.uint4 as one byte each, and reads it back as
        packed: other weights, without a word. So they are packed here.
        """
        key = (bits, ids.shape, hashlib.sha256(ids.data).digest())
        if key not in self._made:
            per_byte = 8 // bits
            flat = np.pad(ids.ravel(), (0, -ids.size % per_byte)).reshape(-1, per_byte)
            packed = np.bitwise_or.reduce(flat << (bits * np.arange(per_byte, dtype=np.uint8)), 1)
            kind = RankedTensorType.get(list(ids.shape), IntegerType.get_unsigned(bits))
            self._made[key] = create_elements_attr(
                Location.unknown(), kind, packed.astype(np.uint8)
            )
        return ConstantOp(value=self._made[key]).result

    def _table_spec(self) -> tuple[str, tuple[int, ...], Any]:
        rows, width = self.table.shape
        return TABLE, (rows, 1, width), self.table.dtype.type

    def _graph(
        self,
        name: str,
        inputs: Sequence[tuple[str, tuple[int, ...], Any]],
        states: Sequence[str] = (),
    ) -> Any:
        graph = ops.GraphOp(
            name=name,
            input_types=[
                authoring.TensorSpec(list(shape), kind)._to_mlir_type() for _, shape, kind in inputs
            ],
            result_types=[],
            input_names=[each for each, _, _ in inputs],
        )
        marked = []
        for (each, _, _), attributes in zip(inputs, graph.arg_attrs, strict=True):
            known = {one.name: one.attr for one in attributes}
            if each in states:  # an output of the same name is what becomes of it
                known["MutableBuffers.buffer_mutation"] = StringAttr.get(each)
            marked.append(DictAttr.get(known))
        graph.arg_attrs = ArrayAttr.get(marked)
        return graph


class _Layers:
    """One function of the layers, in the making."""

    def __init__(
        self, author: _Author, given: dict[str, Any], query: int, adapter: Adapter | None
    ) -> None:
        self.author, self.shape, self.context = author, author.shape, author.sizes.context
        self.given, self.query, self.adapter = given, query, adapter
        self.caches = {KEYS: given[KEYS], VALUES: given[VALUES]}
        places = _reshape(ops.cast(given[POSITIONS], dtype=np.int32), (query, 1))
        half = self.shape.head_dim // 2
        self.cosines, self.sines = (
            _reshape(_transpose(ops.gather_nd(table, places), (1, 0)), (1, 1, half, query))
            for table in author.rotation()
        )

    def outputs(self, role: str) -> tuple[Any, Any, Any]:
        """Logits and both caches. For a part of a prompt, a number in place of the logits."""
        x = _transpose(self.given[INPUT], (0, 3, 2, 1))  # [1, D, 1, q]
        for layer in range(self.shape.num_layers):
            x = ops.add(x, self._attention(layer, x))
            x = ops.add(x, self._feed_forward(layer, x))
        keys, values = self.caches[KEYS], self.caches[VALUES]
        if role == PROMPT:
            corner = (0, 0, 0, 0, 0), (1, 1, 1, 1, 1)
            return ops.add(_cut(keys, *corner), _cut(values, *corner)), keys, values
        return self._logits(self._norm(x, "model.norm", axis=1)), keys, values

    def _attention(self, layer: int, x: Any) -> Any:
        shape, query, context = self.shape, self.query, self.context
        name, width = f"model.layers.{layer}.self_attn", shape.head_dim
        x = self._norm(x, f"model.layers.{layer}.input_layernorm", axis=1)
        q, k, v = (self._linear(f"{name}.{each}_proj", x) for each in "qkv")
        q = _reshape(q, (1, shape.num_heads, width, query))
        k = _reshape(k, (1, shape.num_kv_heads, width, query))
        if shape.qk_norm:
            q, k = self._norm(q, f"{name}.q_norm", axis=2), self._norm(k, f"{name}.k_norm", axis=2)
        q, k = self._rotated(q), self._rotated(k)
        q = ops.broadcasting_mul(q, self.author.number(width**-0.5))
        keys, values = self._cached(layer, KEYS, k), self._cached(layer, VALUES, v)
        heads = []
        for head in range(shape.num_heads):
            own = head * shape.num_kv_heads // shape.num_heads
            part = (0, own, 0, 0), (1, own + 1, width, context)
            turned = _transpose(_cut(keys, *part), (0, 1, 3, 2))  # [1, 1, C, E]
            asked = _cut(q, (0, head, 0, 0), (1, head + 1, width, query))
            scores = _reshape(ops.batch_matmul(turned, asked), (1, context, 1, query))
            shares = ops.softmax(ops.add(scores, self.given[MASK]), np.array(1, np.int32))
            shares = _reshape(shares, (1, 1, context, query))
            heads.append(ops.batch_matmul(_cut(values, *part), shares))  # [1, 1, E, q]
        joined = ops.concat(1, heads) if len(heads) > 1 else heads[0]
        wide = _reshape(joined, (1, shape.num_heads * width, 1, query))
        return self._linear(f"{name}.o_proj", wide)

    def _feed_forward(self, layer: int, x: Any) -> Any:
        name = f"model.layers.{layer}"
        x = self._norm(x, f"{name}.post_attention_layernorm", axis=1)
        gate = ops.silu(self._linear(f"{name}.mlp.gate_proj", x))
        return self._linear(
            f"{name}.mlp.down_proj", ops.mul(gate, self._linear(f"{name}.mlp.up_proj", x))
        )

    def _linear(self, name: str, x: Any) -> Any:
        y = _convolve(x, self.author.matrix(name))
        if self.adapter is not None and (factors := self.adapter.factors.get(name)) is not None:
            a, b = self.author.factor(factors.a), self.author.factor(factors.b)
            y = ops.add(y, _convolve(_convolve(x, a), b))
        return y

    def _norm(self, x: Any, name: str, *, axis: int) -> Any:
        """RMSNorm of values divided by their largest: the square of 256 is too large for float16.

        x / m / sqrt(mean((x / m)^2) + eps / m^2), which is the same for any m.
        """
        number, axes = self.author.number, np.array([axis], np.int32)
        kept = [1 if each == axis else size for each, size in enumerate(x.type.shape)]
        peak = _reshape(ops.reduce_max(ops.abs_(x), axes), kept)
        peak = ops.broadcasting_maximum(peak, number(SMALLEST_PEAK))
        y = ops.broadcasting_divide(x, peak)
        least = ops.broadcasting_divide(number(self.shape.norm_eps**0.5), peak)
        mean = _reshape(ops.reduce_mean(ops.mul(y, y), axes), kept)
        mean = ops.add(mean, ops.mul(least, least))
        y = ops.broadcasting_mul(y, ops.rsqrt(mean))
        gain = self.author.gain(name, (1, -1, 1, 1) if axis == 1 else (1, 1, -1, 1))
        return ops.broadcasting_mul(y, gain)

    def _rotated(self, x: Any) -> Any:
        """[1, H, E, q] with its halves turned by the positions."""
        _, heads, width, query = x.type.shape
        first = _cut(x, (0, 0, 0, 0), (1, heads, width // 2, query))
        second = _cut(x, (0, 0, width // 2, 0), (1, heads, width, query))
        times = ops.broadcasting_mul
        return ops.concat(
            2,
            [
                ops.sub(times(first, self.cosines), times(second, self.sines)),
                ops.add(times(second, self.cosines), times(first, self.sines)),
            ],
        )

    def _cached(self, layer: int, cache: str, new: Any) -> Any:
        """Write a layer's new keys or values; all of the layer's, [1, K, E, C]."""
        shape, query, context = self.shape, self.query, self.context
        rows, step = shape.num_kv_heads * shape.head_dim, self.given[STEP]
        start = ops.concat(0, [_whole([layer, 0, 0, 0]), step])
        end = ops.concat(0, [_whole([layer + 1, 1, rows, 1]), ops.add(step, _whole([query]))])
        written = ops.slice_update(
            self.caches[cache], start, end, _whole([1] * 5), _reshape(new, (1, 1, rows, 1, query))
        )
        self.caches[cache] = written  # read it once and hand it on
        own = _cut(written, (layer, 0, 0, 0, 0), (layer + 1, 1, rows, 1, context))
        return _reshape(own, (1, shape.num_kv_heads, shape.head_dim, context))

    def _logits(self, x: Any) -> Any:
        """[1, 1, q, V] of states [1, D, 1, q]."""
        rows, width = self.shape.vocab_size, self.shape.hidden_size
        if not self.shape.tied:
            return _transpose(self._linear("lm_head", x), (0, 2, 3, 1))
        table = self.given[TABLE]
        if self.author.scales is not None:
            table = self.author.scaled(table, self.author.scales)
        wide = _reshape(x, (1, 1, width, self.query))
        logits = ops.batch_matmul(_reshape(table, (1, 1, rows, width)), wide)  # [1, 1, V, q]
        return _transpose(logits, (0, 1, 3, 2))


def _whole(numbers: Sequence[int]) -> Any:
    return ops.constant(np.array(numbers, np.int32))


def _reshape(x: Any, shape: Sequence[int]) -> Any:
    return ops.reshape(x, _whole(shape))


def _transpose(x: Any, axes: Sequence[int]) -> Any:
    return ops.transpose(x, ops.constant(np.array(axes, np.uint32)))


def _cut(x: Any, start: Sequence[int], end: Sequence[int]) -> Any:
    return ops.slice_(x, _whole(start), _whole(end), _whole([1] * len(start)))


def _convolve(x: Any, weight: Any) -> Any:
    """A linear layer of the channels: a convolution of one pixel."""
    ones = ops.constant(np.array([1, 1], np.uint32))
    return ops.conv2d(x, weight, ones, ones, ops.constant(np.array(1, np.uint32)))
