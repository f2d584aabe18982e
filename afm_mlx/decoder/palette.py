"""Linear layers of look-ups: ids of 2 or 4 bits into small tables, or 8-bit integers.

A palette is one table of 2**bits values for every 16 rows of a weight, flattened; a weight takes
`bits` bits and the tables next to nothing. Eight bits are integers with one scale per row.

Sources. OB, LS: notes on arXiv:2407.21075, for tables of 16 rows and the 8-bit embedding.

Shapes. O rows (outputs), I columns (inputs), G groups of rows, S words of a row, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from afm_mlx import compat
from afm_mlx.decoder.decoder import Decoder

WORD_BITS = 32
"""Bits of a word that ids are packed into."""

PALETTE_BITS = (2, 4)
"""Sizes of an id."""


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


class PaletteLinear(nn.Module):
    """A linear layer of ids and tables, without a bias. Frozen: its tables can be unfrozen."""

    def __init__(
        self, ids: mx.array, tables: mx.array, *, bits: int, group_rows: int, in_features: int
    ) -> None:
        """`ids` [O, S] uint32 as `pack` makes them, `tables` [G, 2**bits] float16."""
        super().__init__()
        self.ids, self.tables = ids, tables
        self.bits, self.group_rows = bits, group_rows
        self.in_features, self.out_features = in_features, ids.shape[0]
        self._dense: mx.array | None = None
        self.freeze()

    def dense(self, dtype: mx.Dtype = mx.float32) -> mx.array:
        """The weight [O, I]; differentiable in `tables`."""
        ids = unpack(self.ids, self.bits, self.in_features)
        groups = mx.arange(self.out_features, dtype=mx.uint32) // self.group_rows
        flat = mx.take(self.tables.reshape(-1), ids + (groups * 2**self.bits)[:, None])
        return flat.astype(dtype)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., I] to [..., O]."""
        return x @ self._weight(x.dtype).T

    def _weight(self, dtype: mx.Dtype) -> mx.array:
        """A dense copy, kept on the CPU as long as the tables are not trained."""
        if compat.on_gpu() or "tables" in self.trainable_parameters():
            return self.dense(dtype)
        if self._dense is None or self._dense.dtype != dtype:
            self._dense = self.dense(dtype)
            mx.eval(self._dense)
        return self._dense


class _Int8(nn.Module):
    def __init__(self, ids: mx.array, scales: mx.array) -> None:
        """`ids` [O, I] int8, `scales` [O] float16."""
        super().__init__()
        self.ids, self.scales = ids, scales
        self.freeze()

    def dense(self, dtype: mx.Dtype = mx.float32) -> mx.array:
        """The weight [O, I]."""
        return (self.ids.astype(mx.float32) * self.scales.astype(mx.float32)[:, None]).astype(dtype)


class Int8Linear(_Int8):
    """A linear layer of 8-bit integers and one scale per row."""

    def __call__(self, x: mx.array) -> mx.array:
        """[..., I] to [..., O]."""
        return x @ self.dense(x.dtype).T


class Int8Embedding(_Int8):
    """An embedding of 8-bit integers and one scale per row; also the tied output layer."""

    def __init__(self, ids: mx.array, scales: mx.array, *, dtype: mx.Dtype = mx.float32) -> None:
        """`dtype`: number format of the rows it gives, and so of the model's stream."""
        super().__init__(ids, scales)
        self.dtype = dtype

    def __call__(self, tokens: mx.array) -> mx.array:
        """[...] token ids to [..., I]."""
        rows = self.ids[tokens].astype(mx.float32)
        return (rows * self.scales[tokens].astype(mx.float32)[..., None]).astype(self.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """[..., I] to logits [..., O]."""
        return x @ self.weight.astype(x.dtype).T

    @property
    def weight(self) -> mx.array:
        """The weight [O, I], for whoever computes the output layer itself."""
        return self.dense()


def int8_rows(weight: mx.array) -> tuple[mx.array, mx.array]:
    """Integers [O, I] int8 and scales [O] float16 of a weight [O, I]; the largest becomes 127."""
    weight = weight.astype(mx.float32)
    scales = (mx.abs(weight).max(axis=1) / 127).astype(mx.float16)
    steps = mx.where(scales == 0, 1, scales).astype(mx.float32)
    return mx.clip(mx.round(weight / steps[:, None]), -127, 127).astype(mx.int8), scales


def linears(model: Decoder) -> dict[str, nn.Module]:
    """Linear layers by their dotted names: seven of each block, and an untied output layer."""
    found: dict[str, nn.Module] = {}
    for number, layer in enumerate(model.layers):
        for part, names in _PARTS.items():
            for name in names:
                found[f"model.layers.{number}.{part}.{name}"] = layer[part][name]
    if not model.shape.tied:
        found["lm_head"] = model.lm_head
    return found


def replace_linears(model: Decoder, modules: Mapping[str, nn.Module]) -> None:
    """Put `modules` in place of the linear layers, or the embedding, of those names."""
    for name, module in modules.items():
        *path, last = name.split(".")
        at: object = model
        for part in path:
            at = cast(list[object], at)[int(part)] if part.isdigit() else getattr(at, part)
        setattr(at, last, module)


_PARTS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
