"""Training of weights while they are rounded to 2 bits, to a grid that becomes a table.

    W~ = s (clamp(round(W / s + z), qmin, qmax) - z),    s = f max|W| / qmax

with qmin = -1, qmax = 2 and z = 1/2: each weight is one of {-1.5, -0.5, 0.5, 1.5} s. The gradient
goes straight through the rounding, to W where it is not clamped, and to the learned factors f.

There is one f and one s for the rows that share a table. So the four values of a group are its
table, and what was trained is what is stored: ids and tables of a palette, in 2 bits. The values
are rounded to float16 while training, too, as tables are.

Sources. QR, a reproduction of the 2-bit training of arXiv:2507.13575. The clip search is ours.

Shapes. O outputs and I inputs of a linear layer, G groups of rows.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.palette import (
    OUTPUT,
    PaletteLinear,
    linears,
    pack,
    replace_linears,
    round_ends,
)

BITS = 2
LOWEST, HIGHEST, ZERO = -1, 2, 0.5
"""Least and largest index of the grid, and where its zero is. Source: QR."""

GRID = tuple(index - ZERO for index in range(LOWEST, HIGHEST + 1))
"""Values of a weight, in units of s."""

SMALLEST_STEP = 2.0**-14
"""Of the grid; the smallest normal number of float16."""

CLIPS = 64
"""Clips that are tried for a group: as many shares of its largest weight. Ours."""


class QatLinear(nn.Module):
    """A linear layer whose weight is used rounded, and trained as it is."""

    def __init__(self, weight: mx.array, *, group_rows: int) -> None:
        """`weight` [O, I]; the factors start with the clips of least squared error."""
        super().__init__()
        self.weight = weight.astype(mx.float32)
        self.group_rows = group_rows
        self.factor = best_factors(self.weight, group_rows)  # [G]

    def rounded(self) -> mx.array:
        """W~ [O, I] float32."""
        s = self._steps()
        index = self.weight / s + ZERO
        nearest = mx.clip(mx.round(index), LOWEST, HIGHEST)
        # Straight through the rounding, but not where the clamp holds. (`mx.clip` itself has no
        # gradient at its borders, which are the outer values of the grid.)
        free = mx.stop_gradient(nearest == mx.round(index))
        nearest = mx.stop_gradient(nearest - index) + mx.where(free, index, mx.stop_gradient(index))
        value = s * (nearest - ZERO)
        # As float16 holds it: the gradient goes through this rounding, too.
        return value + mx.stop_gradient(value.astype(mx.float16).astype(mx.float32) - value)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., I] to [..., O]."""
        return x @ self.rounded().astype(x.dtype).T

    def palette(self) -> PaletteLinear:
        """The same layer, stored."""
        s = self._steps()
        index = mx.clip(mx.round(self.weight / s + ZERO), LOWEST, HIGHEST)
        values = mx.array(GRID)[None] * s[:: self.group_rows]  # [G, 4]
        return PaletteLinear(
            pack((index - LOWEST).astype(mx.uint32), BITS),
            values.astype(mx.float16),
            bits=BITS,
            group_rows=self.group_rows,
            in_features=self.weight.shape[1],
        )

    def _steps(self) -> mx.array:
        """S [O, 1]."""
        # Largest weights are constants: else each group's largest had all of f's gradient, too.
        largest = mx.stop_gradient(_largest(self.weight, self.group_rows))  # [G]
        s = mx.maximum(mx.abs(self.factor) * largest / HIGHEST, SMALLEST_STEP)
        return mx.repeat(s, self.group_rows)[: self.weight.shape[0], None]


def best_factors(weight: mx.array, group_rows: int) -> mx.array:
    """F [G] of the grid with the least squared error, among `CLIPS` of them.

    A clip C is a share of a group's largest weight; s = C / 2, so f = C / max|W|.
    """
    groups = _groups(weight.astype(mx.float32), group_rows)  # [G, n]
    largest = mx.abs(groups).max(axis=1, keepdims=True)
    best = mx.ones((groups.shape[0],))
    least = mx.full(best.shape, mx.inf)
    for number in range(1, CLIPS + 1):
        factor = number / CLIPS
        s = mx.maximum(factor * largest / HIGHEST, SMALLEST_STEP)
        grid = s * (mx.clip(mx.round(groups / s + ZERO), LOWEST, HIGHEST) - ZERO)
        error = mx.square(grid - groups).sum(axis=1)
        best = mx.where(error < least, factor, best)
        least = mx.minimum(error, least)
        mx.eval(best, least)
    return best


def prepare(model: Decoder, *, group_rows: int) -> None:
    """Let all linear layers of the blocks be trained rounded, and the norms' gains.

    The embedding, and an untied output layer, become 8-bit integers at once and stay: the rest is
    trained around them.
    """
    model.freeze()
    layers: dict[str, nn.Module] = {
        name: QatLinear(layer.weight, group_rows=group_rows)
        for name, layer in linears(model).items()
        if name != OUTPUT
    }
    replace_linears(model, layers)
    round_ends(model)
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            module.weight = module.weight.astype(mx.float32)
            module.unfreeze()


def store(model: Decoder) -> None:
    """Put palettes in the place of the layers that were trained rounded."""
    model.freeze()
    found = linears(model)
    layers: dict[str, nn.Module] = {
        name: layer.palette() for name, layer in found.items() if isinstance(layer, QatLinear)
    }
    replace_linears(model, layers)


class Averaged:
    """An update rule, and beside it a moving average of the weights that it makes."""

    def __init__(self, rule: Any, decay: float) -> None:
        """`decay`: what the average keeps at each step, 0 to below 1."""
        self.rule, self.decay = rule, decay

    def init(self, params: Any) -> dict[str, Any]:
        """State before the first step: that of the rule, and the weights themselves."""
        return {"rule": self.rule.init(params), "average": params}

    def update(
        self, params: Any, grads: Any, state: Any, **settings: Any
    ) -> tuple[Any, Any, dict[str, mx.array]]:
        """As the rule's."""
        params, inner, stats = self.rule.update(params, grads, state["rule"], **settings)
        keep = self.decay
        average = tree_map(lambda old, new: keep * old + (1 - keep) * new, state["average"], params)
        return params, {"rule": inner, "average": average}, stats


def _groups(weight: mx.array, group_rows: int) -> mx.array:
    """[G, n] weights of each group; the last one is filled up with zeros."""
    missing = -weight.shape[0] % group_rows
    padded = mx.pad(weight, [(0, missing), (0, 0)]) if missing else weight
    return padded.reshape(padded.shape[0] // group_rows, -1)


def _largest(weight: mx.array, group_rows: int) -> mx.array:
    """[G] largest absolute weight of each group."""
    return mx.abs(_groups(weight, group_rows)).max(axis=1)
