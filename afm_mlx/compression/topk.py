"""Soft top-k: a mask that keeps about the k highest of n scores, and has a gradient.

    z = argmax of z . s + eps * H(z)  over  0 <= z <= 1, sum z = k,    H(z) = -sum z log z

Its optimum is `z_i = min(1, exp((s_i + a) / eps))` with the one a that makes the sum k. When the m
highest scores are at 1, the others share what is left like a softmax: `z_i = (k - m) * exp(s_i /
eps) / sum over the others`. So a needs no search: sort, and take the smallest m with which no
other is above 1. (Published solvers iterate, and stop far from k when n is large and eps small.)

Source: the operator is that of arXiv:2303.09752 (CoLT5), appendix, and AFM's pruning uses it by
LS and OB, notes on arXiv:2407.21075; the closed form and the gradient are derived from it here.

Shapes. L layers, n scores of a layer.
"""

from __future__ import annotations

import math
from typing import Any, cast

import mlx.core as mx

Scalar = float | mx.array


def soft_top_k(scores: mx.array, k: Scalar, temperature: Scalar) -> mx.array:
    """Masks whose sum is k: near 1 for high scores, near 0 for low ones.

    Computed in float64, which MLX has on the CPU: a float32 threshold would be off by 1e-7 /
    `temperature` of each mask, and the sum of ten thousand of them by far more than 1e-6.

    Args:
        scores: [L, n], any float.
        k: sum of the masks of each layer; above 0, at most n; need not be whole.
        temperature: eps, above 0, in the unit of the scores. Near 0 the mask is the hard top-k.

    Returns:
        [L, n] float64, 0 to 1. The gradient goes to `scores` only.
    """
    with mx.stream(mx.cpu):
        exact = scores.astype(mx.float64)
        return cast(mx.array, _operator(exact, _double(k), _double(temperature)))


def hard_top_k(scores: mx.array, k: int) -> mx.array:
    """Places of the k highest of each row, in ascending order; among equals the first.

    Args:
        scores: [L, n].
        k: 1 to n.

    Returns:
        [L, k] integers.
    """
    with mx.stream(mx.cpu):
        return mx.sort(mx.argsort(-scores, axis=-1)[:, :k], axis=-1)


def _double(x: Scalar) -> mx.array:
    # `mx.array(0.1)` would round to float32 on the way.
    return x.astype(mx.float64) if isinstance(x, mx.array) else mx.array(x, mx.float64)


def _masks(scores: mx.array, k: mx.array, temperature: mx.array) -> mx.array:
    n = scores.shape[-1]
    heat = scores / temperature
    ordered = -mx.sort(-heat, axis=-1)
    # Entry m: logarithm of the sum of exp over all but the m highest.
    rest = mx.logcumsumexp(ordered, axis=-1, reverse=True)
    left = k - mx.arange(n).astype(mx.float64)  # entry m: what m masks of 1 leave to the others
    fits = mx.log(mx.maximum(left, 0)) + ordered - rest <= 0
    fits = mx.logical_or(fits, mx.arange(n) == n - 1)  # k = n, where rounding may say no
    saturated = mx.argmax(fits, axis=-1, keepdims=True)
    # The others once more, from the highest of them on, and their sum without logarithms.
    highest = mx.take_along_axis(ordered, saturated, axis=-1)
    powers = mx.where(heat > highest, 0, _exp(mx.minimum(heat - highest, 0)))
    shares = mx.take(left, saturated) * powers / powers.sum(-1, keepdims=True)
    return mx.where(heat > highest, 1, mx.minimum(shares, 1))


def _exp(x: mx.array) -> mx.array:
    """Exponential in float64: `mx.exp` is exact to 4e-7 there (MLX 0.32.4), `power` to 1e-15."""
    return mx.power(mx.array(math.e, mx.float64), x)


def _backward(
    primals: tuple[mx.array, ...], cotangent: mx.array, masks: mx.array
) -> tuple[mx.array, ...]:
    """dL/ds = (z g - z (z . g) / sum z) / eps over the masks below 1, and 0 for the others."""
    _, k, temperature = primals
    with mx.stream(mx.cpu):
        soft = mx.where(masks < 1, masks, 0)
        weighted = soft * cotangent
        share = weighted.sum(-1, keepdims=True) / mx.maximum(soft.sum(-1, keepdims=True), 1e-300)
        gradient = (weighted - soft * share) / temperature
        return gradient, mx.zeros_like(k), mx.zeros_like(temperature)


_operator: Any = mx.custom_function(_masks)
_operator.vjp(_backward)
