"""Linear layers of look-ups: ids of 2 or 4 bits into small tables, or 8-bit integers.

A palette is one table of 2**bits values for every 16 rows of a weight, flattened; a weight takes
`bits` bits and the tables next to nothing. Eight bits are integers with one scale per row.

Where they are computed. On a GPU, few rows of x go through a kernel that reads the ids; for many,
the weight is made anew each time, also in the backward pass, and never kept. The CPU has no such
kernel: a layer keeps a dense copy there, and is as fast and as large as a dense one.

Sources. OB, LS: notes on arXiv:2407.21075, for tables of 16 rows and the 8-bit embedding.

Shapes. O rows (outputs), I columns (inputs), G groups of rows, S words of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from afm_mlx import compat
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.palette_kernel import Kernels, device_kernels

WORD_BITS = 32
"""Bits of a word that ids are packed into."""

PALETTE_BITS = (2, 4)
"""Sizes of an id."""

INT8_BITS = 8
"""Size of a weight that is an integer, with a scale per row."""

EMBEDDING, OUTPUT = "model.embed_tokens", "lm_head"
"""Names of the embedding, which is also the output layer of a tied model, and of an untied one."""

MATVEC_ROWS = 8
"""Most rows of x for the kernel that reads ids. From bytes moved at 4 bits, not from a clock: it
reads half a byte of each weight for each row of x; making a 16-bit weight costs 4.5 bytes once."""


@dataclass(frozen=True)
class Layout:
    """What the arrays of a layer do not say themselves."""

    bits: int
    """Of an id: 2, 4, or 8, where the tables are scales."""
    group_rows: int
    """Rows of the weight that share a table; at 8 bits 1."""
    columns: int
    """Columns of the weight; rows of ids are padded to whole words."""


def pack(ids: mx.array, bits: int) -> mx.array:
    """Ids [O, I] below 2**bits as words [O, S] uint32, first id in the lowest bits."""
    per_word = WORD_BITS // bits
    rows, columns = ids.shape
    words = -(-columns // per_word)
    padded = mx.pad(ids.astype(mx.uint32), [(0, 0), (0, words * per_word - columns)])
    shifts = mx.arange(per_word, dtype=mx.uint32) * bits
    return mx.left_shift(padded.reshape(rows, words, per_word), shifts).sum(-1).astype(mx.uint32)


def unpack(words: mx.array, bits: int, columns: int) -> mx.array:
    """What `pack` was given, [O, I] uint32."""
    shifts = mx.arange(WORD_BITS // bits, dtype=mx.uint32) * bits
    ids = mx.bitwise_and(mx.right_shift(words[..., None], shifts), 2**bits - 1)
    return ids.reshape(words.shape[0], -1)[:, :columns]


def as_words(ids: mx.array) -> mx.array:
    """Ids as kernels read them: 8-bit ones [O, I] int8, four to a word, [O, S] uint32."""
    if ids.dtype != mx.int8:
        return ids
    padding = -ids.shape[1] % (WORD_BITS // INT8_BITS)
    return (mx.pad(ids, [(0, 0), (0, padding)]) if padding else ids).view(mx.uint32)


def int8_rows(weight: mx.array) -> tuple[mx.array, mx.array]:
    """Integers [O, I] int8 and scales [O] float16 of a weight [O, I]; the largest becomes 127."""
    weight = weight.astype(mx.float32)
    scales = (mx.abs(weight).max(axis=1) / 127).astype(mx.float16)
    steps = mx.where(scales == 0, 1, scales).astype(mx.float32)
    return mx.clip(mx.round(weight / steps[:, None]), -127, 127).astype(mx.int8), scales


def dense_weight(ids: mx.array, tables: mx.array, layout: Layout, dtype: mx.Dtype) -> mx.array:
    """The weight [O, I] in plain operations; differentiable in `tables`."""
    if layout.bits == INT8_BITS:
        return (ids.astype(mx.float32) * tables.astype(mx.float32)[:, None]).astype(dtype)
    wanted, groups = unpack(ids, layout.bits, layout.columns), tables.shape[0]
    if spare := groups * layout.group_rows - ids.shape[0]:
        wanted = mx.pad(wanted, [(0, spare), (0, 0)])
    # Along an axis, MLX's CPU back end looks up 10 times faster than with `mx.take`.
    values = mx.take_along_axis(tables.astype(dtype), wanted.reshape(groups, -1), axis=1)
    return values.reshape(-1, layout.columns)[: ids.shape[0]]


def palette_matmul(
    x: mx.array,
    ids: mx.array,
    tables: mx.array,
    layout: Layout,
    *,
    kernels: Kernels | None = None,
) -> mx.array:
    """`x` times the transposed weight, [..., O]; differentiable in `x` and `tables`.

    Nothing of the size of the weight is kept for the backward pass.

    Args:
        x: [..., I] float32, float16 or bfloat16.
        ids: [O, S] uint32 as `pack` makes them; at 8 bits [O, I] int8.
        tables: [G, 2**bits] float16 or float32; at 8 bits scales [O].
        layout: the rest.
        kernels: in place of the device's own.
    """
    if kernels is None and compat.on_gpu():
        kernels = device_kernels()
    rows = x.reshape(-1, layout.columns)
    y = _product(layout, kernels)(rows, ids, tables)
    return y.reshape(*x.shape[:-1], ids.shape[0])


@cache
def _product(layout: Layout, kernels: Kernels | None) -> Callable[..., mx.array]:
    """Rows [M, I], ids and tables to [M, O], with a gradient that makes the weight anew."""
    padding = -layout.columns % (WORD_BITS // layout.bits)

    def weight(ids: mx.array, tables: mx.array, dtype: mx.Dtype) -> mx.array:
        if kernels is None:
            return dense_weight(ids, tables, layout, dtype)
        return kernels.expand(
            as_words(ids),
            tables,
            bits=layout.bits,
            group_rows=layout.group_rows,
            columns=layout.columns,
            dtype=dtype,
        )

    @mx.custom_function
    def product(rows: mx.array, ids: mx.array, tables: mx.array) -> mx.array:
        if kernels is None or rows.shape[0] > MATVEC_ROWS:
            return rows @ weight(ids, tables, rows.dtype).T
        padded = mx.pad(rows, [(0, 0), (0, padding)]) if padding else rows
        return kernels.matvec(
            padded, as_words(ids), tables, bits=layout.bits, group_rows=layout.group_rows
        )

    @product.vjp
    def backward(
        primals: tuple[mx.array, ...], to_y: mx.array, output: mx.array
    ) -> tuple[mx.array, ...]:
        rows, ids, tables = primals
        to_rows = to_y @ weight(ids, tables, to_y.dtype)
        to_weight = to_y.astype(mx.float32).T @ rows.astype(mx.float32)
        _, (to_tables,) = mx.vjp(
            lambda tables: dense_weight(ids, tables, layout, mx.float32), [tables], [to_weight]
        )
        return to_rows, mx.zeros_like(ids), to_tables

    return cast(Callable[..., mx.array], product)


class _Lookup(nn.Module):
    """A weight of ids and values, which are tables or scales. Frozen: values can be unfrozen."""

    values_name: str
    """What the values are called: "tables" or "scales"."""

    def __init__(self, ids: mx.array, values: mx.array, layout: Layout) -> None:
        super().__init__()
        self.ids = ids
        self[self.values_name] = values
        self.layout = layout
        self.in_features, self.out_features = layout.columns, ids.shape[0]
        self._kept: tuple[mx.array, mx.array] | None = None
        self.freeze()

    def dense(self, dtype: mx.Dtype = mx.float32) -> mx.array:
        """The weight [O, I]; differentiable in the values."""
        return dense_weight(self.ids, self[self.values_name], self.layout, dtype)

    @property
    def weight(self) -> mx.array:
        """The weight [O, I] float32, for whoever computes an output layer itself."""
        return self.kept(mx.float32) if self.keeps_copy else self.dense()

    @property
    def keeps_copy(self) -> bool:
        """Whether it is computed from a dense copy: on the CPU, while the values are constant."""
        return not compat.on_gpu() and compat.is_frozen(self, self.values_name)

    def kept(self, dtype: mx.Dtype) -> mx.array:
        """The dense copy, made at first and again when the values or `dtype` are others."""
        values, kept = self[self.values_name], self._kept
        if kept is None or kept[0] is not values or kept[1].dtype != dtype:
            kept = (values, self.dense(dtype))
            mx.eval(kept[1])
            self._kept = kept
        return kept[1]

    @property
    def copy_bytes(self) -> int:
        """Bytes of the dense copy, as far as one was made."""
        return 0 if self._kept is None else self._kept[1].nbytes

    def project(self, x: mx.array) -> mx.array:
        """`x` [..., I] times the transposed weight, [..., O]."""
        if self.keeps_copy:
            return x @ self.kept(x.dtype).T
        return palette_matmul(x, self.ids, self[self.values_name], self.layout)


class PaletteLinear(_Lookup):
    """A linear layer of ids and tables, without a bias."""

    values_name = "tables"

    def __init__(
        self, ids: mx.array, tables: mx.array, *, bits: int, group_rows: int, in_features: int
    ) -> None:
        """`ids` [O, S] uint32 as `pack` makes them, `tables` [G, 2**bits] float16."""
        super().__init__(ids, tables, Layout(bits, group_rows, in_features))
        self.bits, self.group_rows = bits, group_rows

    def __call__(self, x: mx.array) -> mx.array:
        """[..., I] to [..., O]."""
        return self.project(x)


class Int8Linear(_Lookup):
    """A linear layer of 8-bit integers and one scale per row."""

    values_name = "scales"

    def __init__(self, ids: mx.array, scales: mx.array) -> None:
        """`ids` [O, I] int8, `scales` [O] float16."""
        super().__init__(ids, scales, Layout(INT8_BITS, 1, ids.shape[1]))

    def __call__(self, x: mx.array) -> mx.array:
        """[..., I] to [..., O]."""
        return self.project(x)


class Int8Embedding(_Lookup):
    """An embedding of 8-bit integers and one scale per row; also the tied output layer."""

    values_name = "scales"

    def __init__(self, ids: mx.array, scales: mx.array, *, dtype: mx.Dtype = mx.float32) -> None:
        """`ids` [O, I] int8, `scales` [O] float16; `dtype` of the rows that it gives."""
        super().__init__(ids, scales, Layout(INT8_BITS, 1, ids.shape[1]))
        self.dtype = dtype

    def __call__(self, tokens: mx.array) -> mx.array:
        """[...] token ids to [..., I]."""
        rows = self.ids[tokens].astype(mx.float32)
        return (rows * self.scales[tokens].astype(mx.float32)[..., None]).astype(self.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """[..., I] to logits [..., O]."""
        return self.project(x)


def copied_bytes(model: Decoder) -> int:
    """Bytes of the dense copies that a model's look-up layers keep on the CPU, once it has read."""
    return sum(each.copy_bytes for each in model.modules() if isinstance(each, _Lookup))


def linears(model: Decoder) -> dict[str, nn.Module]:
    """Linear layers by their dotted names: seven of each block, and an untied output layer."""
    found: dict[str, nn.Module] = {}
    for number, layer in enumerate(model.layers):
        for part, names in _PARTS.items():
            for name in names:
                found[f"model.layers.{number}.{part}.{name}"] = layer[part][name]
    if not model.shape.tied:
        found[OUTPUT] = model.lm_head
    return found


def replace_linears(model: Decoder, modules: Mapping[str, nn.Module]) -> None:
    """Put `modules` in place of the linear layers, or the embedding, of those names."""
    for name, module in modules.items():
        *path, last = name.split(".")
        at: object = model
        for part in path:
            at = cast(list[object], at)[int(part)] if part.isdigit() else getattr(at, part)
        setattr(at, last, module)


def round_ends(model: Decoder) -> None:
    """Put 8-bit integers in place of the embedding and an untied output layer."""
    embedding = model.model.embed_tokens.weight
    ends: dict[str, nn.Module] = {
        EMBEDDING: Int8Embedding(*int8_rows(embedding), dtype=embedding.dtype)
    }
    if not model.shape.tied:
        ends[OUTPUT] = Int8Linear(*int8_rows(model.lm_head.weight))
    replace_linears(model, ends)


_PARTS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
