"""Dropout on the residual branches, as a function of keys.

Nothing here has a state: the same keys drop the same values, also when a block is computed again
in the backward pass, and in a run that goes on. Each row has its key, so it does not matter which
rows are in memory together.

Shapes. B rows, T tokens of a row, D width, A additions to the stream.
"""

from __future__ import annotations

import mlx.core as mx

from afm_mlx.decoder.decoder import Branch


def residual_dropout(fraction: float, keys: mx.array, *, num_layers: int) -> Branch | None:
    """Drops values of what attention and feed-forward add to the stream; None for `fraction` 0.

    Each value is 0 with probability `fraction`, and else divided by 1 - `fraction`, so that its
    mean stays. Source: arXiv:1207.0580; LS and OB, notes on arXiv:2407.21075, have dropout 0.1, and
    do not say where.

    Args:
        fraction: 0 to below 1.
        keys: [B, 2], the random key of each row.
        num_layers: blocks of the decoder.
    """
    if not fraction:
        return None
    split = mx.vmap(lambda key: mx.random.split(key, 2 * num_layers))(keys)  # [B, A, 2]

    def branch(number: int, added: mx.array) -> mx.array:
        def kept_of(key: mx.array) -> mx.array:
            return mx.random.bernoulli(1 - fraction, added.shape[1:], key=key)

        kept = mx.vmap(kept_of)(split[:, number])  # [B, T, D]
        return mx.where(kept, added * (1 / (1 - fraction)), mx.array(0, added.dtype))

    return branch
