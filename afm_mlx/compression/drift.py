"""Making up for what layers do to the inputs of those behind them, once they are in tables.

A layer that gets inputs y in place of x is asked for W x all the same. The best that it can do of
y is W E[x y^T] E[y y^T]^-1 = W + W E[(x - y) y^T] E[y y^T]^-1; that is what is rounded. So the
errors of a model's first layers are met by those behind them, and not handed on to the end.

Source. arXiv:2504.02692 (GPTAQ) for the aim; regression before the rounding, and its damping, are
ours.

Shapes. B rows, L tokens of a row, D width, O outputs and I inputs of a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from afm_mlx.compression.moments import (
    SITES,
    Stream,
    Worths,
    advance,
    inputs_at,
    shares,
    stream_shares,
)
from afm_mlx.decoder.decoder import Block
from afm_mlx.settings.sections import Shape


@dataclass(frozen=True)
class Seen:
    """What a linear layer sees on the texts, by tokens that count as `moments` says."""

    moments: mx.array
    """[I, I] float32, E[y y^T] of what the layers before it hand on now."""
    drift: mx.array
    """[I, I] float32, E[(x - y) y^T], x being what they handed on before."""

    def corrected(self, weight: mx.array, *, damping: float) -> mx.array:
        """The weight [O, I], float32, that makes of y what `weight` makes of x, as far as it can.

        `damping` times the mean of the diagonal is added to the diagonal of the moments: where
        inputs are small, the weight stays.
        """
        moments = np.array(self.moments, np.float64)
        mean = float(np.diag(moments).mean())
        moments[np.diag_indices_from(moments)] += damping * mean if mean > 0 else 1.0
        change = np.linalg.solve(moments, np.array(self.drift, np.float64).T).T
        weight = weight.astype(mx.float32)
        return weight + weight @ mx.array(change.astype(np.float32))


class BlockPair:
    """A block that is being put in tables, and the same block as it was."""

    def __init__(self, block: Block, shape: Shape, stream: Stream, before: Stream) -> None:
        """`stream` is what goes into the block now, and `before` what went into it, [B, L, D]."""
        self._block, self._stream = block, stream
        self._original = Block(shape)
        self._original.update(block.parameters())  # the same arrays
        self._before = before
        self.after = advance(self._original, before)
        """What came out of it."""
        self._shares = [stream_shares(each) for each in self.after]

    def seen(self, site: str, worths: Worths) -> dict[str, Seen]:
        """What the layers at one of `SITES` see, by names such as `mlp.up_proj`.

        `worths` are what tokens count, as for `block_moments`.
        """
        names = SITES[site]
        moments = {name: mx.zeros(()) for name in names}
        drift, counted = dict(moments), dict(moments)
        for number, (now, before) in enumerate(zip(self._stream, self._before, strict=True)):
            y, x = inputs_at(self._block, now, site), inputs_at(self._original, before, site)
            for name in names:
                counts = (self._shares[number] + shares(worths[name][number])) / 2
                counted[name] = counted[name] + counts.sum()
                weighted = y * counts.reshape(-1, 1)
                moments[name] = moments[name] + weighted.T @ y
                drift[name] = drift[name] + (x - y).T @ weighted
            mx.eval(moments, drift, counted)
        return {
            name: Seen(moments[name] / counted[name], drift[name] / counted[name]) for name in names
        }
