"""The decoder as an ML Program: one function for each length of input and each adapter.

Every function has the same inputs and states, and gives the logits of the last token that counts:

    input_ids    [1, S] int32    ids; those after the ones that count are ignored
    position     [1] int32       of the first
    token_count  [1] int32       how many count, 1 to S
    key_cache, value_cache       states [N, K, C, E] float16, shared by all functions
    logits       [1, 1, V] float16

A large model is several packages, each with some of the layers. Then the first gives `hidden_out`
[1, D, 1, S] in place of logits, the others take it as `hidden`, the last gives `last_hidden`
[1, D, 1, 1], and a function `head` of the first makes logits of that: the embedding, which is in
both ends, is stored once.

Layout and operations are those that the Neural Engine is reported to take: fixed shapes, tensors
[1, D, 1, S], projections as 1x1 convolutions, attention head by head, no mask of infinity.

Three traps of coremltools 9.0, each of which gives a wrong model and no error:
- Two reads of one state are merged, even with a write between. Each state is read once, and what
  `coreml_update_state` returns is read from then on. (apple/coremltools #2786)
- `select` with two scalars has the shape of a scalar, hence the mask by arithmetic.
- Its default passes cast positions to 16 bits; none is run, see package.py.

Sources. apple/ml-ane-transformers; apple/coremltools 9.0. RMSNorm as LayerNorm of [x, -x], whose
mean is 0: Anemll/Anemll.

Shapes. N layers, D width, H query heads, K key/value heads, E width of one head, V vocabulary,
C context, S tokens of one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from afm_mlx.decoder.palette import EMBEDDING, INT8_BITS
from afm_mlx.export.coreml.package import import_coremltools
from afm_mlx.export.coreml.parts import Part, pieces
from afm_mlx.export.tables import Adapter, Array, Matrix, Weights, plain, rotations

HIDDEN = 4e4
"""Taken from the scores of keys that a query may not see: float16 ends at 65,504."""

KEYS, VALUES = "key_cache", "value_cache"
HEAD, LAST = "head", "last_hidden"


@dataclass(frozen=True)
class Call:
    """One function of the program."""

    name: str
    tokens: int
    """S."""
    adapter: Adapter | None


def build(weights: Weights, calls: Sequence[Call], context_tokens: int, part: Part) -> Any:
    """A coremltools program of these functions, of which the first is the default one."""
    import_coremltools()
    from coremltools.converters.mil.mil import Program

    program = Program()
    for call in calls:
        program.add_function(call.name, _function(weights, call, context_tokens, part))
    if part.is_first and not part.is_last:
        program.add_function(HEAD, _head(weights))
    program.default_function_name = calls[0].name
    program.export_as_multifunction = True
    return program


def _function(weights: Weights, call: Call, context_tokens: int, part: Part) -> Any:
    coremltools = import_coremltools()
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import Function, types

    shape = weights.shape
    cache = (len(part.layers), shape.num_kv_heads, context_tokens, shape.head_dim)
    inputs = {"position": Builder.TensorSpec((1,), types.int32)}
    if part.is_first:
        inputs["input_ids"] = Builder.TensorSpec((1, call.tokens), types.int32)
    else:
        inputs["hidden"] = Builder.TensorSpec((1, shape.hidden_size, 1, call.tokens), types.fp16)
    if part.is_last:
        inputs["token_count"] = Builder.TensorSpec((1,), types.int32)
    for name in (KEYS, VALUES):
        inputs[name] = Builder.StateTensorSpec(cache, types.fp16)
    with Function(inputs, opset_version=coremltools.target.iOS18) as function:
        body = _Body(weights, Builder, function.inputs, call.tokens)
        function.set_outputs([body.blocks(part, call.adapter, context_tokens)])
    return function


def _head(weights: Weights) -> Any:
    """The function that makes logits of the last part's result."""
    coremltools = import_coremltools()
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import Function, types

    state = Builder.TensorSpec((1, weights.shape.hidden_size, 1, 1), types.fp16)
    with Function({LAST: state}, opset_version=coremltools.target.iOS18) as function:
        body = _Body(weights, Builder, function.inputs, tokens=1)
        function.set_outputs([body.logits(function.inputs[LAST])])
    return function


class _Body:
    """The operations of one function, in the order in which they are computed."""

    def __init__(self, weights: Weights, builder: Any, inputs: Any, tokens: int) -> None:
        self.weights, self.shape = weights, weights.shape
        self.inputs, self.mb, self.tokens = inputs, builder, tokens
        self.adapter: Adapter | None = None
        self.context_tokens = 0
        self.caches: dict[str, Any] = {}

    def blocks(self, part: Part, adapter: Adapter | None, context_tokens: int) -> Any:
        """What a part gives: logits if it is the only one, else states."""
        mb = self.mb
        self.adapter, self.context_tokens = adapter, context_tokens
        # Read once; from then on what an update returns, see above.
        self.caches = {name: mb.read_state(input=self.inputs[name]) for name in (KEYS, VALUES)}
        x = self._embedded() if part.is_first else self.inputs["hidden"]
        for place, number in enumerate(part.layers):
            x = self._block(f"model.layers.{number}", place, x)
        if not part.is_last:
            x.set_name("hidden_out")
            return x
        last = mb.sub(x=self.inputs["token_count"], y=np.array([1], np.int32))
        x = mb.gather(x=x, indices=last, axis=3, validate_indices=False, name=LAST)
        return self.logits(x) if part.is_first else x

    def logits(self, x: Any) -> Any:
        """[1, 1, V] of the state [1, D, 1, 1] of the last token that counts."""
        mb = self.mb
        x = self._norm("model.norm", x, axis=1)
        rows = [mb.conv(x=x, weight=piece, pad_type="valid") for _, _, piece in self._pieces]
        joined = rows[0] if len(rows) == 1 else mb.concat(values=rows, axis=1)  # [1, V, 1, 1]
        return mb.reshape(x=joined, shape=[1, 1, self.shape.vocab_size], name="logits")

    @cached_property
    def _pieces(self) -> list[tuple[int, int, Any]]:
        """First row, number of rows, and the rows [rows, D, 1, 1] of the embedding's pieces."""
        whole = self.weights.matrix(EMBEDDING)
        return [
            (start, end - start, self._weight(f"{EMBEDDING}.{number}", whole.rows(start, end)))
            for number, (start, end) in enumerate(pieces(self.shape.vocab_size))
        ]

    def _embedded(self) -> Any:
        """[1, D, 1, S]: each token's row, from the one piece that has it."""
        mb = self.mb
        ids = mb.reshape(x=self.inputs["input_ids"], shape=[self.tokens])
        found = []
        for start, rows, piece in self._pieces:
            if len(self._pieces) == 1:
                found.append(mb.gather(x=piece, indices=ids, axis=0, validate_indices=False))
                continue
            own = mb.sub(x=ids, y=np.int32(start))
            near = mb.minimum(x=mb.maximum(x=own, y=np.int32(0)), y=np.int32(rows - 1))
            inside = mb.cast(x=mb.equal(x=own, y=near), dtype="fp16")
            inside = mb.reshape(x=inside, shape=[self.tokens, 1, 1, 1])
            looked_up = mb.gather(x=piece, indices=near, axis=0, validate_indices=False)
            found.append(mb.mul(x=looked_up, y=inside))
        x = found[0]
        for other in found[1:]:
            x = mb.add(x=x, y=other)
        return mb.transpose(x=x, perm=[3, 1, 2, 0])

    def _block(self, name: str, place: int, x: Any) -> Any:
        """[1, D, 1, S] to the same. `place`: among the layers of the part, as in its caches."""
        mb = self.mb
        attended = self._attention(name, place, self._norm(f"{name}.input_layernorm", x, axis=1))
        x = mb.add(x=x, y=attended)
        normed = self._norm(f"{name}.post_attention_layernorm", x, axis=1)
        gate = mb.silu(x=self._linear(f"{name}.mlp.gate_proj", normed))
        hidden = mb.mul(x=gate, y=self._linear(f"{name}.mlp.up_proj", normed))
        return mb.add(x=x, y=self._linear(f"{name}.mlp.down_proj", hidden))

    def _attention(self, name: str, place: int, x: Any) -> Any:
        """[1, D, 1, S] to the same, over the keys and values of all tokens up to each."""
        mb, shape = self.mb, self.shape
        H, K, E, S, C = (
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            self.tokens,
            self.context_tokens,
        )
        split = {
            part: mb.reshape(x=self._linear(f"{name}.self_attn.{part}", x), shape=[1, heads, E, S])
            for part, heads in (("q_proj", H), ("k_proj", K), ("v_proj", K))
        }
        q, k, v = split.values()
        if shape.qk_norm:
            q = self._norm(f"{name}.self_attn.q_norm", q, axis=2)
            k = self._norm(f"{name}.self_attn.k_norm", k, axis=2)
        q = mb.mul(x=self._rotated(q), y=np.float16(E**-0.5))
        k = self._rotated(k)
        keys = self._remembered(KEYS, place, mb.transpose(x=k, perm=[0, 1, 3, 2]))
        values = self._remembered(VALUES, place, mb.transpose(x=v, perm=[0, 1, 3, 2]))
        found = []
        for group in range(K):  # keys and values of a group of query heads are read once
            own = {"begin": [place, group, 0, 0], "size": [1, 1, C, E]}
            group_keys, group_values = (mb.slice_by_size(x=a, **own) for a in (keys, values))
            for head in range(group * H // K, (group + 1) * H // K):
                query = mb.slice_by_size(x=q, begin=[0, head, 0, 0], size=[1, 1, E, S])
                scores = mb.matmul(x=query, y=group_keys, transpose_x=True, transpose_y=True)
                weights = mb.softmax(x=mb.add(x=scores, y=self._mask), axis=-1)  # [1, 1, S, C]
                found.append(
                    mb.matmul(x=group_values, y=weights, transpose_x=True, transpose_y=True)
                )
        joined = mb.reshape(x=mb.concat(values=found, axis=1), shape=[1, H * E, 1, S])
        return self._linear(f"{name}.self_attn.o_proj", joined)

    def _remembered(self, state: str, layer: int, new: Any) -> Any:
        """All keys or values [N, K, C, E], with the new ones [1, K, S, E] of a layer put in."""
        mb, position, shape = self.mb, self.inputs["position"], self.shape
        end = mb.add(x=position, y=np.array([self.tokens], np.int32))
        first = np.array([layer, 0], np.int32)
        last = np.array([layer + 1, shape.num_kv_heads], np.int32)
        full = mb.slice_update(
            x=self.caches[state],
            update=new,
            begin=mb.concat(values=[first, position, np.array([0], np.int32)], axis=0),
            end=mb.concat(values=[last, end, np.array([shape.head_dim], np.int32)], axis=0),
        )
        self.caches[state] = mb.coreml_update_state(state=self.inputs[state], value=full)
        return self.caches[state]

    @cached_property
    def _positions(self) -> Any:
        """[S] int32: never float16, which has all integers only to 2,048."""
        offsets = np.arange(self.tokens, dtype=np.int32)
        own = self._const(offsets, f"offsets_{self.tokens}")
        return self.mb.add(x=self.inputs["position"], y=own, name="positions")

    @cached_property
    def _mask(self) -> Any:
        """[1, 1, S, C]: 0 where a query may see a key, -40,000 elsewhere."""
        mb = self.mb
        slots = self._const(np.arange(self.context_tokens, dtype=np.int32)[None], "slots")
        seen = mb.less_equal(x=slots, y=mb.expand_dims(x=self._positions, axes=[1]))
        mask = mb.sub(x=mb.cast(x=seen, dtype="fp16"), y=np.float16(1))
        mask = mb.mul(x=mask, y=np.float16(HIDDEN))
        return mb.reshape(x=mask, shape=[1, 1, self.tokens, self.context_tokens], name="mask")

    @cached_property
    def _angles(self) -> tuple[Any, Any]:
        """Cosines and sines of the positions, [1, 1, E / 2, S] each."""
        mb, found = self.mb, []
        tables = rotations(self.shape, self.context_tokens)
        for name, table in zip(("cosines", "sines"), tables, strict=True):
            own = self._const(table, f"rotation_{name}")
            rows = mb.gather(x=own, indices=self._positions, axis=0, validate_indices=False)
            columns = mb.transpose(x=rows, perm=[1, 0])
            shape = [1, 1, self.shape.head_dim // 2, self.tokens]
            found.append(mb.reshape(x=columns, shape=shape, name=name))
        return found[0], found[1]

    def _rotated(self, x: Any) -> Any:
        """[1, heads, E, S] to the same: pairs (i, i + E / 2) turned by their positions."""
        mb, half = self.mb, self.shape.head_dim // 2
        cosines, sines = self._angles
        size = [1, x.shape[1], half, self.tokens]
        a = mb.slice_by_size(x=x, begin=[0, 0, 0, 0], size=size)
        b = mb.slice_by_size(x=x, begin=[0, 0, half, 0], size=size)
        turned = [
            mb.sub(x=mb.mul(x=a, y=cosines), y=mb.mul(x=b, y=sines)),
            mb.add(x=mb.mul(x=b, y=cosines), y=mb.mul(x=a, y=sines)),
        ]
        return mb.concat(values=turned, axis=2)

    def _norm(self, name: str, x: Any, *, axis: int) -> Any:
        """RMSNorm over an axis. x * x would overflow float16 from 256 on, LayerNorm does not."""
        mb = self.mb
        both = mb.concat(values=[x, mb.mul(x=x, y=np.float16(-1))], axis=axis)
        epsilon = np.float16(self.shape.norm_eps)
        normed = mb.layer_norm(x=both, axes=[axis], epsilon=epsilon)
        half = mb.slice_by_size(x=normed, begin=[0, 0, 0, 0], size=list(x.shape))
        gain = self.weights.gain(name)
        sizes = [gain.size if at == axis else 1 for at in range(4)]
        return mb.mul(x=half, y=self._const(gain.reshape(sizes), plain(name)))

    def _linear(self, name: str, x: Any) -> Any:
        """[1, I, 1, S] to [1, O, 1, S], with the adapter's part where it has one."""
        mb = self.mb
        weight = self._weight(name, self.weights.matrix(name))
        y = mb.conv(x=x, weight=weight, pad_type="valid")
        if self.adapter is not None and (factors := self.adapter.factors.get(name)) is not None:
            for which, factor in (("a", factors.a), ("b", factors.b)):
                own = f"{plain(name)}_lora_{which}_{plain(self.adapter.name)}"
                x = mb.conv(x=x, weight=self._const(factor[..., None, None], own), pad_type="valid")
            y = mb.add(x=y, y=x)
        return y

    def _weight(self, name: str, matrix: Matrix) -> Any:
        """[O, I, 1, 1] float16, made from what is stored when the model is loaded."""
        from coremltools.converters.mil.mil import types

        mb, own, ids = self.mb, plain(name), matrix.ids[..., None, None]
        if matrix.values is None:
            return self._const(ids, own)
        if matrix.bits == INT8_BITS:
            scales = matrix.values[..., None, None]
            made = mb.constexpr_blockwise_shift_scale(data=ids, scale=scales, name=own)
        else:
            # NumPy has no such type: it rides in the metadata of uint8, which operations drop.
            small = types.nptype_from_builtin(types.string_to_builtin(f"uint{matrix.bits}"))
            tables = matrix.values.reshape(-1, 1, 1, 1, 2**matrix.bits, 1)
            made = mb.constexpr_lut_to_dense(indices=ids.view(small), lut=tables, name=own)
        for parameter, stored in made.op.inputs.items():
            stored.op.weight_id = f"{own}/{parameter}"
        return made

    def _const(self, value: Array, name: str) -> Any:
        """An array that is stored once for all functions that have one of this name."""
        found = self.mb.const(val=value, name=name)
        found.op.weight_id = name
        return found
