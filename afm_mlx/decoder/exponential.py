"""Exponentials for MLX's CPU back end, where `mx.exp` is the largest cost of a training step.

There, `mx.exp` takes 12 ns a number (its wheel for Linux is built without FMA), `exp2` 1.4, a
sum along a middle axis 0.3 and along the last one four times that (MLX 0.32.4, x86-64). A GPU
uses MLX's own functions. Results differ from MLX's by a few units in the last place.

Shapes. ... any axes, n the last one.
"""

from __future__ import annotations

import math
from typing import cast

import mlx.core as mx

from afm_mlx.compat import on_gpu

LOG2_E = math.log2(math.e)

# 2**f for f from -1/2 to 1/2, lowest power first: the polynomial of degree 5 with the smallest
# relative error, 7.5e-8. Ours, fitted in float64.
EXP2_COEFFICIENTS = (
    1.00000007,
    0.693146967,
    0.240221197,
    0.0555071331,
    0.00967554124,
    0.00132764606,
)
EXPONENTS = (-126.0, 127.0)  # of normal float32 numbers
MANTISSA_BITS = 23  # of a float32
# Float32 numbers near it lie 1 apart: added and taken away again, it leaves the nearest whole
# number. `mx.floor` does the same with a call for each number, which made `exp2` take 1.8 times
# as long (measured on x86-64, where the kernel may use SSE2 alone).
WHOLE_ABOVE = 1.5 * 2.0**MANTISSA_BITS

# Columns are folded into this many rows, or fewer, before a reduction along them; a power of 2.
LARGEST_FOLD = 64


def _exp2(x: mx.array) -> mx.array:
    x = mx.clip(x, *EXPONENTS)
    whole = (x + WHOLE_ABOVE) - WHOLE_ABOVE
    rest = x - whole
    power = mx.array(EXP2_COEFFICIENTS[-1])
    for coefficient in EXP2_COEFFICIENTS[-2::-1]:
        power = power * rest + coefficient
    bits = power.view(mx.int32) + mx.left_shift(whole.astype(mx.int32), MANTISSA_BITS)
    return bits.view(mx.float32)  # power * 2**whole


# One kernel instead of fifteen passes: the only thing that is compiled on the CPU. Without a C++
# compiler, or with MLX_DISABLE_COMPILE=1, it is the fifteen passes, and still faster than `mx.exp`.
exp2 = mx.compile(_exp2)
"""2 to the power x, float32, to a relative error of 3e-7; x is cut to -126..127.

NaN may become a number: whoever calls this must pass NaN on by another way.
"""


def max_of_last(x: mx.array) -> mx.array:
    """Largest along the last axis, [..., n] to [..., 1]."""
    return mx.max(mx.max(_folded(x), axis=-2), axis=-1, keepdims=True)


def sum_of_last(x: mx.array) -> mx.array:
    """Sum along the last axis, [..., n] to [..., 1]."""
    return mx.sum(mx.sum(_folded(x), axis=-2), axis=-1, keepdims=True)


def _folded(x: mx.array) -> mx.array:
    """[..., n] as [..., f, n / f], f a power of 2: a middle axis is reduced faster on the CPU.

    It also adds up fewer numbers in a row, which is more exact.
    """
    fold = 1
    while not on_gpu() and fold < LARGEST_FOLD and x.shape[-1] % (2 * fold) == 0:
        fold *= 2
    return x.reshape(*x.shape[:-1], fold, -1)


def softmax_base_2(scores: mx.array) -> mx.array:
    """2**scores over their sum along the last axis, same shape and dtype.

    The softmax of x is that of `x * LOG2_E` here. Needs a finite score in every row. A score of
    minus infinity weighs 2**-126 and not 0, which no float32 sum with a real weight can show.
    """
    return cast(mx.array, _softmax_base_2(scores))


@mx.custom_function
def _softmax_base_2(scores: mx.array) -> mx.array:
    x = scores.astype(mx.float32)
    powers = exp2(x - max_of_last(x))
    return (powers * (1 / sum_of_last(powers))).astype(scores.dtype)


@_softmax_base_2.vjp
def _softmax_base_2_vjp(scores: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    weighted = cotangent * output
    return (weighted - output * sum_of_last(weighted)) * math.log(2)


@mx.custom_function
def _sigmoid(x: mx.array) -> mx.array:
    return 1 / (1 + exp2(x * -LOG2_E))


@_sigmoid.vjp
def _sigmoid_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * (output * (1 - output))


def silu(x: mx.array) -> mx.array:
    """X times its logistic sigmoid, same shape."""
    if on_gpu() or x.dtype != mx.float32:
        return x * mx.sigmoid(x)
    return x * cast(mx.array, _sigmoid(x))
