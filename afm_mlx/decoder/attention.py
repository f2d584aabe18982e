"""Attention for training, where no cache is in the way: MLX's fused kernel, or blocks on the CPU.

Shapes. B batch, L tokens, H query heads, K key/value heads, R = H / K, E width of one head.
"""

from __future__ import annotations

import mlx.core as mx

from afm_mlx.compat import on_gpu
from afm_mlx.decoder.exponential import LOG2_E, softmax_base_2

Mask = mx.array | str | None
"""None or "causal", or booleans that broadcast to [B, 1, L, L], True where a query may attend."""

BLOCK_TOKENS = 128
"""Queries in one block on the CPU. Measured on two cores, B 4, H 8, K 2, E 32, forward and
backward: of 32, 64, 128 and 256, 64 and 128 are fastest from L = 256 to 1,024."""


def causal_attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None
) -> mx.array:
    """Weighted means of values, [B, H, L, E]; of no later token than the query's own.

    Args:
        q: [B, H, L, E] queries.
        k: [B, K, L, E] keys; each serves H / K query heads.
        v: [B, K, L, E] values.
        scale: of the scores, usually E**-0.5.
        mask: as `Mask`; an array is False above the diagonal and has a True in every row.
    """
    if on_gpu():
        chosen = "causal" if mask is None else mask
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=chosen)
    return blocked_attention(q, k, v, scale=scale, mask=mask)


def blocked_attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None
) -> mx.array:
    """`causal_attention` in plain operations: a block of queries, and the keys up to its end.

    MLX's CPU back end has no fused attention: it takes L x L exponentials forward and again
    backward. This takes about half of them, and only forward: twice as fast at L = 256 to 1,024.
    Keeps the weights, 2 x B x H x L x (L + BLOCK_TOKENS) bytes in float32, for the backward pass.
    """
    B, H, L, E = q.shape
    K = k.shape[1]
    q = (q * (scale * LOG2_E)).reshape(B, K, H // K, L, E)
    keys = k.swapaxes(-1, -2)  # [B, K, E, L]
    blocks = []
    for start in range(0, L, BLOCK_TOKENS):
        end = min(start + BLOCK_TOKENS, L)
        # The query heads of a key are rows of one product.
        rows = q[:, :, :, start:end].reshape(B, K, -1, E)  # [B, K, R x block, E]
        scores = (rows @ keys[..., :end]).reshape(B, K, H // K, end - start, end)
        weights = softmax_base_2(scores + _bias(mask, start, end, scores.dtype))
        means = weights.reshape(B, K, -1, end) @ v[:, :, :end]
        blocks.append(means.reshape(B, K, H // K, end - start, E))
    return mx.concatenate(blocks, axis=3).reshape(B, H, L, E)


def _bias(mask: Mask, start: int, end: int, dtype: mx.Dtype) -> mx.array:
    """Zero where queries start..end may attend to keys 0..end, minus infinity elsewhere."""
    if isinstance(mask, mx.array):
        allowed = mask[..., start:end, :end]
        if allowed.ndim == 4:
            allowed = allowed[:, :, None]  # [B, 1, 1, block, end]: one more axis for R
    else:
        allowed = mx.arange(start, end)[:, None] >= mx.arange(end)
    return mx.where(allowed, mx.array(0, dtype), mx.array(-mx.inf, dtype))
