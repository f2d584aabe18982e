"""Find again, in a model's weights, the channels of tables that were made of it.

`equalize` moves scales between channels and puts feed-forward units in another order. What it did
is not kept, and need not be: the gains of norms tell the scales of the columns that read them, and
rows that are alike tell the rest. The block that comes out computes what the original does,
whatever was found; what was found decides how near its weights are to those in the tables.

Shapes. O rows (outputs), I columns (inputs) of a linear layer, F feed-forward units, H query heads,
K key/value heads, E width of one head.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx.decoder.decoder import Block
from afm_mlx.errors import ModelError
from afm_mlx.settings.sections import Shape

LEAST_LIKENESS = 0.3
"""Mean cosine between rows of the original and of tables, below which they are of other models.
Tables of 2 bits have 0.7 and more, and rows of two models 0. Ours."""

Array = NDArray[np.float32]


def in_coordinates_of(tables: Block, original: Block, shape: Shape, *, name: str) -> Block:
    """A block that computes what `original` does, its channels where those of `tables` are.

    Args:
        tables: a block in tables, equalized or not, its gains trained or not.
        original: the block it was made of, dense; it stays.
        shape: of the decoder.
        name: of the block, for errors.

    Returns:
        Float32, dense.

    Raises:
        ModelError: `tables` was made of another block.
    """
    moved = Block(shape)
    moved.update(original.parameters())
    pair = _Pair(moved, tables, name)
    pair.attention()
    pair.units()
    mx.eval(moved.parameters())
    return moved


class _Pair:
    """A block on its way, and the tables that it goes to."""

    def __init__(self, moved: Block, tables: Block, name: str) -> None:
        self.moved, self.tables, self.name = moved, tables, name

    def attention(self) -> None:
        """Against the gain before it, and by KV head from o into v."""
        attention = self.moved.self_attn
        columns = self._gains("input_layernorm")
        query, key, value = (
            _weight(attention[name]) * columns for name in ("q_proj", "k_proj", "v_proj")
        )
        for name, weight in (("q_proj", query), ("k_proj", key), ("v_proj", value)):
            self._check(f"self_attn.{name}", _cosines(weight, self._table("self_attn", name)))
        output, kv = _weight(attention.o_proj), attention.num_kv_heads
        shared = attention.num_heads // kv

        def by_value(weight: Array) -> Array:
            """Columns of o [O, H x E] as rows [K x E, H / K x O] for those of v that they read."""
            by_head = weight.T.reshape(kv, shared, -1, len(weight))
            return by_head.swapaxes(1, 2).reshape(-1, shared * len(weight))

        rows = _scales(
            (value, self._table("self_attn", "v_proj")),
            (by_value(output), by_value(self._table("self_attn", "o_proj"))),
        )
        wide = np.repeat(rows.reshape(kv, 1, -1), shared, axis=1).reshape(-1)
        for name, weight in (
            ("q_proj", query),
            ("k_proj", key),
            ("v_proj", value / rows[:, None]),
            ("o_proj", output * wide),
        ):
            attention[name].weight = mx.array(weight)

    def units(self) -> None:
        """Against the gain before them, from down into up, and their order."""
        mlp = self.moved.mlp
        columns = self._gains("post_attention_layernorm")
        gate, up = (_weight(mlp[name]) * columns for name in ("gate_proj", "up_proj"))
        down = _weight(mlp.down_proj)
        order = self._order(gate, up, down)
        gate, up, down = gate[order], up[order], down[:, order]
        rows = _scales(
            (up, self._table("mlp", "up_proj")), (down.T, self._table("mlp", "down_proj").T)
        )
        for name, weight in (
            ("gate_proj", gate),
            ("up_proj", up / rows[:, None]),
            ("down_proj", down * rows),
        ):
            mlp[name].weight = mx.array(weight)

    def _table(self, part: str, name: str) -> Array:
        return _weight(self.tables[part][name])

    def _gains(self, norm: str) -> Array:
        """What a norm's gain lost to the columns that read it; its gain becomes the tables'."""
        ours: Any = self.moved[norm]
        before = np.array(ours.weight.astype(mx.float32))
        after = np.array(self.tables[norm].weight.astype(mx.float32))
        ours.weight = mx.array(np.where(after == 0, before, after))
        lost = before / np.where(after == 0, np.where(before == 0, 1, before), after)
        return lost.astype(np.float32)

    def _order(self, gate: Array, up: Array, down: Array) -> NDArray[np.intp]:
        """Which of the original's units each unit of the tables is."""
        pairs = [
            (gate, self._table("mlp", "gate_proj")),
            (up, self._table("mlp", "up_proj")),
            (down.T, self._table("mlp", "down_proj").T),
        ]
        products = [_unit_rows(theirs) @ _unit_rows(ours).T for ours, theirs in pairs]
        likeness: Array = (products[0] + products[1] + products[2]) / 3
        order = _matched(likeness)
        self._check("mlp", likeness[np.arange(len(order)), order])
        return order

    def _check(self, part: str, cosines: Array) -> None:
        if (mean := float(cosines.mean())) < LEAST_LIKENESS:
            raise ModelError(
                f"the tables of {self.name}.{part} are not made of this model's weights: "
                f"rows have a cosine of {mean:.2f} in the mean",
                hint="--teacher is the model that was quantized",
            )


def _matched(likeness: Array) -> NDArray[np.intp]:
    """For each row of [F, F] a column of its own: each other's best among what is left."""
    likeness = likeness.copy()
    numbers = np.arange(len(likeness))
    order = np.full(len(likeness), -1, np.intp)
    while (open_rows := order < 0).any():
        best = likeness.argmax(1)
        rows = numbers[open_rows & (likeness.argmax(0)[best] == numbers)]
        order[rows] = best[rows]
        likeness[rows] = -np.inf
        likeness[:, best[rows]] = -np.inf
    return order


def _scales(rows: tuple[Array, Array], readers: tuple[Array, Array]) -> Array:
    """How many times larger rows are than those of tables, which what reads them makes up for.

    Each estimate counts by how sure it is: values by which it was made, and how alike they are.

    Args:
        rows: the original's and the tables', [O, I].
        readers: the same of the weights that read these outputs, [O, any].
    """
    logs, sure = np.zeros(len(rows[0])), np.zeros(len(rows[0]))
    for sign, (ours, theirs) in ((1, rows), (-1, readers)):
        together, alone = (ours * theirs).sum(1), np.square(theirs).sum(1)
        alike = np.clip(_cosines(ours, theirs), 0, 0.999) ** 2
        weight = np.where(together > 0, theirs.shape[1] * alike / (1 - alike), 0)
        ratio = np.where(together > 0, together, 1) / np.where(alone > 0, alone, 1)
        logs += sign * weight * np.log(ratio)
        sure += weight
    return np.exp(logs / np.where(sure > 0, sure, 1)).astype(np.float32)


def _cosines(ours: Array, theirs: Array) -> Array:
    return (_unit_rows(ours) * _unit_rows(theirs)).sum(1)


def _unit_rows(weight: Array) -> Array:
    return weight / np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), 1e-30)


def _weight(linear: Any) -> Array:
    return np.array(linear.weight.astype(mx.float32))
