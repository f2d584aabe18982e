"""Rescale a decoder's channels, without changing what it computes, so that tables fit it well.

One table serves 16 whole rows, so columns and rows that differ in scale share its entries badly.
The scale of many channels is free: what a weight gains, another one loses.

    normalized stream   columns of q, k, v and of gate, up    the gain of the norm before them
    attention's values  columns of o, by KV head              rows of v
    feed-forward units  columns of down                       rows of up

The order of feed-forward units is free too: units whose rows of up and of gate are alike in scale
become neighbors, and share tables.

Source: arXiv:2211.10438 (SmoothQuant), equation 4, for scales from powers of inputs and weights;
here they are free, as they fold into weights that are there anyway, and are chosen for tables.

Shapes. O rows (outputs), I columns (inputs) of a linear layer, D width, F feed-forward units,
H query heads, K key/value heads, E width of one head.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx.compression.tables import fit_tables
from afm_mlx.decoder.decoder import Block, Decoder

INPUT_POWERS = (0.0, 0.25, 0.5)
"""Powers of E[x^2] to try. Ours."""

WEIGHT_POWERS = (0.0, -0.25, -0.5)
"""Powers of a column's mean squared weight to try. Ours."""

SAMPLED_GROUPS = 4
"""Groups of rows of each matrix by which scales are compared. Ours."""

SCORE_ROUNDS = 30
"""Rounds of fitting when scales are compared. Ours."""

Array = NDArray[np.float32]


def equalize(
    decoder: Decoder, moments: Mapping[str, mx.array], *, bits: int = 4, group_rows: int = 16
) -> dict[str, mx.array]:
    """Rescale channels in place; returns the moments of the decoder as it is afterwards.

    Args:
        decoder: with dense float linear layers.
        moments: of the inputs of all linear layers, E[x^2] [I] or E[x x^T] [I, I], as
            `collect_moments` gives them. The latter are given back as such.
        bits: of the tables that will be fitted.
        group_rows: rows that will share a table.
    """
    arrays = {name: np.array(moment, np.float32) for name, moment in moments.items()}
    for number, block in enumerate(decoder.layers):
        own = _Own(f"model.layers.{number}.", block, arrays, bits, group_rows)
        own.values()
        own.units()
        own.stream("self_attn", ("q_proj", "k_proj", "v_proj"), block.input_layernorm)
        own.stream("mlp", ("gate_proj", "up_proj"), block.post_attention_layernorm)
        mx.eval(block.parameters())
    return {name: mx.array(moment) for name, moment in arrays.items()}


class _Own:
    """One block, and the moments of its inputs, kept up to date."""

    def __init__(
        self,
        prefix: str,
        block: Block,
        moments: dict[str, Array],
        bits: int,
        group_rows: int,
    ) -> None:
        self.prefix, self.block, self.moments = prefix, block, moments
        self.bits, self.group_rows = bits, group_rows

    def stream(self, part: str, names: Sequence[str], norm: object) -> None:
        """Columns of the linear layers that read a norm, against its gain."""
        weights = [self._weight(part, name) for name in names]
        inputs = [self._squares(part, name) for name in names]
        pairs = list(zip(weights, inputs, strict=True))
        columns = np.mean([_column_energy(*pair) for pair in pairs], axis=0)

        def score(scale: Array) -> float:
            return sum(self._error(weight * scale, own / scale**2) for weight, own in pairs)

        scale = _best_scale(np.exp(np.mean(np.log(inputs), axis=0)), columns, score)
        for name, weight in zip(names, weights, strict=True):
            self._set(part, name, weight * scale)
            self._divide(part, name, scale)
        norm.weight = norm.weight / mx.array(scale, norm.weight.dtype)  # type: ignore[attr-defined]

    def values(self) -> None:
        """Columns of o, against rows of v: all query heads of a KV head share a scale."""
        attention = self.block.self_attn
        kv, shared = attention.num_kv_heads, attention.num_heads // attention.num_kv_heads
        value, output = self._weight("self_attn", "v_proj"), self._weight("self_attn", "o_proj")
        inputs = self._squares("self_attn", "o_proj")
        value_inputs = self._squares("self_attn", "v_proj")

        def fold(columns: Array) -> Array:
            """[H x E] to means [K x E]."""
            return columns.reshape(kv, shared, -1).mean(1).reshape(-1)

        def spread(scale: Array) -> Array:
            """[K x E] to [H x E]."""
            return np.repeat(scale.reshape(kv, 1, -1), shared, axis=1).reshape(-1)

        worth = fold(np.square(output).sum(0))  # what an error of a row of v costs

        def score(scale: Array) -> float:
            wide = spread(scale)
            return self._error(output * wide, inputs / wide**2) + self._error(
                value / scale[:, None], np.outer(worth * scale**2, value_inputs)
            )

        scale = _best_scale(fold(inputs), fold(_column_energy(output, inputs)), score)
        wide = spread(scale)
        self._set("self_attn", "o_proj", output * wide)
        self._set("self_attn", "v_proj", value / scale[:, None])
        self._divide("self_attn", "o_proj", wide)

    def units(self) -> None:
        """Columns of down, against rows of up."""
        up, down = self._weight("mlp", "up_proj"), self._weight("mlp", "down_proj")
        inputs, up_inputs = self._squares("mlp", "down_proj"), self._squares("mlp", "up_proj")
        # An error of a row of up is multiplied by the gate, and weighed by a column of down.
        gates = inputs / np.maximum(np.square(up) @ up_inputs, np.finfo(np.float32).tiny)
        worth = np.square(down).sum(0) * gates

        def score(scale: Array) -> float:
            return self._error(down * scale, inputs / scale**2) + self._error(
                up / scale[:, None], np.outer(worth * scale**2, up_inputs)
            )

        scale = _best_scale(inputs, _column_energy(down, inputs), score)
        self._divide("mlp", "down_proj", scale)
        down, up = down * scale, up / scale[:, None]
        gate = self._weight("mlp", "gate_proj")
        gate_inputs = self._squares("mlp", "gate_proj")
        order = _alike(np.square(up) @ up_inputs, np.square(gate) @ gate_inputs, self.group_rows)
        self._set("mlp", "down_proj", down[:, order])
        self._set("mlp", "up_proj", up[order])
        self._set("mlp", "gate_proj", gate[order])
        self._reorder("mlp", "down_proj", order)

    def _error(self, weight: Array, importance: Array) -> float:
        """Relative error of tables on a sample of the groups of a matrix."""
        groups = max(1, len(weight) // self.group_rows)
        chosen = np.unique(np.linspace(0, groups - 1, SAMPLED_GROUPS).astype(int))
        rows = (chosen[:, None] * self.group_rows + np.arange(self.group_rows)).reshape(-1)
        rows = rows[rows < len(weight)]
        return fit_tables(
            weight[rows],
            bits=self.bits,
            group_rows=self.group_rows,
            importance=importance if importance.ndim == 1 else importance[rows],
            rounds=SCORE_ROUNDS,
        ).error

    def _weight(self, part: str, name: str) -> Array:
        return np.array(self.block[part][name].weight.astype(mx.float32))

    def _set(self, part: str, name: str, weight: Array) -> None:
        linear = self.block[part][name]
        linear.weight = mx.array(weight, linear.weight.dtype)

    def _divide(self, part: str, name: str, scale: Array) -> None:
        """Inputs were divided by `scale` [I]: so are the moments, once for each factor."""
        name = f"{self.prefix}{part}.{name}"
        moment = (
            self.moments[name] / scale**2
            if self.moments[name].ndim == 1
            else (self.moments[name] / scale / scale[:, None])
        )
        self.moments[name] = moment

    def _reorder(self, part: str, name: str, order: NDArray[np.intp]) -> None:
        name = f"{self.prefix}{part}.{name}"
        moment = self.moments[name][order]
        self.moments[name] = moment if moment.ndim == 1 else moment[:, order]

    def _squares(self, part: str, name: str) -> Array:
        """E[x^2]; an input that was never seen counts as the least one that was."""
        inputs = self.moments[f"{self.prefix}{part}.{name}"]
        if inputs.ndim == 2:
            inputs = np.diag(inputs)
        seen = inputs[inputs > 0]
        return np.maximum(inputs, seen.min() if seen.size else 1.0).astype(np.float32)


def _alike(first: Array, second: Array, group_rows: int) -> NDArray[np.intp]:
    """An order in which neighbors are alike in two measures: slices by one, sorted by the other."""
    slices = max(1, round((len(first) / group_rows) ** 0.5))
    by_first = np.array_split(np.argsort(first, kind="stable"), slices)
    return np.concatenate([rows[np.argsort(second[rows], kind="stable")] for rows in by_first])


def _column_energy(weight: Array, inputs: Array) -> Array:
    """Mean squares of columns [I], in units that make matrices alike."""
    energy = np.square(weight).mean(0)
    total = float(energy @ inputs)
    energy = energy / (total if total > 0 else 1.0)
    positive = energy[energy > 0]
    return np.maximum(energy, positive.min() if positive.size else 1.0).astype(np.float32)


def _best_scale(inputs: Array, columns: Array, score: Callable[[Array], float]) -> Array:
    """The scale with the least score, of geometric mean 1: of columns, whose inputs it divides."""
    best, least = np.ones_like(inputs), np.inf
    for a, b in itertools.product(INPUT_POWERS, WEIGHT_POWERS):
        logs = a * np.log(inputs) + b * np.log(columns)
        scale = np.exp(logs - logs.mean()).astype(np.float32)
        found = score(scale)
        if found < least:
            best, least = scale, found
    return best
