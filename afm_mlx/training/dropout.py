"""Dropout on the residual branches, as a function of a key.

Nothing here has a state: the same key drops the same values, also when a block is computed again
in the backward pass, and in a run that goes on.

Shapes. B rows, T tokens of a row, D width.
"""

from __future__ import annotations

import mlx.core as mx

from afm_mlx.decoder.decoder import Branch


def residual_dropout(fraction: float, key: mx.array, *, num_layers: int) -> Branch | None:
    """Drops values of what attention and feed-forward add to the stream; None for `fraction` 0.

    Each value is 0 with probability `fraction`, and else divided by 1 - `fraction`, so that its
    mean stays. Source: arXiv:1207.0580; LS and OB, notes on arXiv:2407.21075, have dropout 0.1, and
    do not say where.

    Args:
        fraction: 0 to below 1.
        key: random key of the step.
        num_layers: blocks of the decoder.
    """
    if not fraction:
        return None
    keys = mx.random.split(key, 2 * num_layers)

    def branch(number: int, added: mx.array) -> mx.array:
        kept = mx.random.bernoulli(1 - fraction, added.shape, key=keys[number])
        return mx.where(kept, added * (1 / (1 - fraction)), mx.array(0, added.dtype))

    return branch
