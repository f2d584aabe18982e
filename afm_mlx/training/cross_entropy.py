"""Cross entropy of a linear output layer, without the matrix of all logits.

The gradient is formed together with the loss, chunk by chunk: each logit is computed once and
exponentiated once, and no more than a fixed budget of them exists at any time.

Shapes. N tokens, n tokens of one chunk, D width, V vocabulary, K targets of one token.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from afm_mlx.compat import on_gpu
from afm_mlx.decoder.exponential import LOG2_E, exp2, max_of_last, sum_of_last

# Arrays of the shape of a chunk's logits that exist at once, measured: the CPU back end frees late.
ARRAYS_PER_CHUNK = 7

# Stands for 0 where a logit's gradient loses its softmax part; below what float32 adds to 1.
SMALLEST_FACTOR = 1e-8


def linear_cross_entropy(
    hidden: mx.array,
    weight: mx.array,
    targets: mx.array,
    weights: mx.array,
    *,
    z_loss: float,
    chunk_bytes: int,
    shares: mx.array | None = None,
    train_weight: bool = True,
    gradient: bool = True,
) -> tuple[mx.array, mx.array]:
    """Summed loss and summed cross entropy of the logits `hidden @ weight.T`, in nats.

    The loss of one token is `w * (CE + z_loss * log(Z)**2)`, Z the softmax normalizer. Logits,
    sums and gradients are float32 whatever the inputs are; gradients leave in the inputs' dtype.

    Args:
        hidden: [N, D], last hidden states.
        weight: [V, D], output layer.
        targets: [N] integers, 0 to V - 1 where `weights` is not 0, anything elsewhere; or with
            `shares` [N, K]: first the text's own token, then K - 1 different candidates, among
            which it may be again.
        weights: [N], how much each token counts; 0 for padding, which trains nothing. Constants,
            like `targets`: they get no gradient.
        z_loss: weight of the squared log normalizer, 0 or above.
        chunk_bytes: about the most bytes of logits, and of arrays of their shape, at once; one
            token is the least. Gradients come on top, and one more array like `weight`.
        shares: [N, K], the probability that each of K targets is to have, 0 to 1. What is missing
            to a sum of 1 is for all tokens together that are no candidates: the loss is the cross
            entropy with these as one. None: all on the one target. Constants, like `weights`.
        train_weight: form the gradient of `weight`; False leaves it zero, and saves a third.
        gradient: form gradients at all. They are computed here even if nobody differentiates, so
            an evaluation says False; then both are zero.

    Returns:
        Two float32 scalars: the sum of losses, and the sum of `w * CE` of the text's own tokens
        for reports. Only the first has a gradient, the second counts as a constant.

    Source: gradients in the forward pass are Liger Kernel's idea, arXiv:2410.10989, section 3.2.
    """
    train_weight = train_weight and gradient
    num_tokens, vocab_size = hidden.shape[0], weight.shape[0]
    most_tokens = max(1, chunk_bytes // (ARRAYS_PER_CHUNK * mx.float32.size * vocab_size))
    chunk_tokens = -(-num_tokens // -(-num_tokens // most_tokens))  # chunks of even size
    if targets.ndim == 1:
        targets = targets[:, None]
    targets = mx.where(weights[:, None] > 0, targets, 0)

    def sums(hidden: mx.array, weight: mx.array) -> list[mx.array]:
        """Loss and cross entropy, then the gradients that were asked for."""
        table = weight.astype(mx.float32)
        totals: list[mx.array] = []  # loss, cross entropy, and the weight's gradient
        hidden_gradients: list[mx.array] = []
        for start in range(0, num_tokens, chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            part = hidden[rows].astype(mx.float32)
            if totals:
                # Without this order MLX evaluates the loss of all chunks first, and keeps their
                # logits for the gradients.
                part = mx.depends(part, totals + hidden_gradients[-1:])
            share = None if shares is None else shares[rows].astype(mx.float32)
            *terms, powers, scale = _chunk_loss(
                part, table, targets[rows], share, weights[rows], z_loss
            )
            if train_weight:
                terms.append(powers.T @ (scale * part))
            if gradient:
                hidden_gradients.append((scale * (powers @ table)).astype(hidden.dtype))
            totals = [a + b for a, b in zip(totals, terms, strict=True)] if totals else terms
        loss, nll, *weight_gradient = totals
        return [
            loss,
            nll,
            *([mx.concatenate(hidden_gradients)] if gradient else []),
            *weight_gradient,
        ]

    def backward(
        primals: list[mx.array], cotangents: list[mx.array], outputs: list[mx.array]
    ) -> list[mx.array]:
        gradients = outputs[2:] + [mx.zeros_like(primal) for primal in primals[len(outputs) - 2 :]]
        return [
            (cotangents[0] * each).astype(primal.dtype)
            for primal, each in zip(primals, gradients, strict=True)
        ]

    differentiable: Any = mx.custom_function(sums)
    differentiable.vjp(backward)
    loss, nll, *_ = differentiable(hidden, weight)
    return loss, nll


def _chunk_loss(
    hidden: mx.array,
    table: mx.array,
    targets: mx.array,
    shares: mx.array | None,
    weights: mx.array,
    z_loss: float,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Loss, cross entropy, and the logits' gradient as `scale` [n, 1] times `powers` [n, V].

    The gradient stays in two factors because scaling [n, D] is cheaper than scaling [n, V].
    """
    # On the CPU, logits are multiples of log(2): the fast exponential has base 2.
    unit = 1.0 if on_gpu() else LOG2_E
    logits = (hidden * unit) @ table.T
    weights = weights[:, None].astype(mx.float32)
    at_targets = mx.take_along_axis(logits, targets, axis=-1)  # [n, K]
    top = max_of_last(logits)
    powers = mx.exp(logits - top) if on_gpu() else exp2(logits - top)
    total = sum_of_last(powers)
    log_normalizer = top / unit + mx.log(total)
    nll = weights * (log_normalizer - at_targets[:, :1] / unit)
    # d loss / d logit = weight * ((1 + 2 z log Z) * powers / total - [share of the target])
    factor = 1 + 2 * z_loss * log_normalizer
    if shares is None:
        ce = nll
        factor = mx.where(factor == 0, SMALLEST_FACTOR, factor)  # divided by below
        at_places = mx.take_along_axis(powers, targets, axis=-1) - total / factor
        powers = mx.put_along_axis(powers, targets, at_places, axis=-1)
    else:
        # The others, all tokens but the candidates: what they are to have together, and have.
        of_candidates = mx.take_along_axis(powers, targets[:, 1:], axis=-1)
        others = mx.maximum(1 - shares.sum(-1, keepdims=True), 0)
        left = total - of_candidates.sum(-1, keepdims=True)
        left = mx.maximum(left, SMALLEST_FACTOR * total)
        log_left = top / unit + mx.log(left)
        wanted = (shares * at_targets).sum(-1, keepdims=True) / unit + others * log_left
        ce = weights * (log_normalizer - wanted)
        # `others` are spread over them as the model has it; the gradient's factor shrinks by that.
        spread = others / left
        factor = factor - spread * total
        factor = mx.where(mx.abs(factor) < SMALLEST_FACTOR, SMALLEST_FACTOR, factor)
        extra = mx.concatenate([mx.zeros_like(total), spread * of_candidates], axis=-1)
        places = mx.arange(targets.shape[0])[:, None]
        powers = powers.at[places, targets].add((extra - shares) * total / factor)
    scale = weights * factor / total
    loss = ce + z_loss * weights * mx.square(log_normalizer)
    return mx.sum(loss), mx.sum(nll), powers, scale
