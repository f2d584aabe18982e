"""How much each feed-forward unit matters, measured on texts: where masks start from.

Two measures. `activation_importance` needs forward passes only. `gradient_importance`, the mean
|a dL/da| of a unit's activation a, is the first-order estimate of what its loss would cost.
Sources: arXiv:2407.14679 (Minitron), section 2.2, for activations, with the weights behind them
added, as in arXiv:2306.11695 (Wanda); arXiv:1905.10650, equation 2, for the gradient.

Shapes. B rows, T tokens of a row, L layers, F feed-forward units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from afm_mlx.decoder.decoder import Decoder

Loss = Callable[[Decoder, mx.array], mx.array]
"""Summed loss of a decoder on one batch, in nats."""


class _Probe(nn.Module):
    """Stands in for a layer's down projection, and sees what goes into it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        # No underscore: a block that is recomputed differentiates what it knows as a weight.
        self.gain: mx.array | None = None
        self._seen: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        self._seen = x
        return self.linear(x if self.gain is None else x * self.gain)


@contextmanager
def _probed(decoder: Decoder) -> Iterator[list[_Probe]]:
    probes = [_Probe(layer.mlp.down_proj) for layer in decoder.layers]
    for layer, probe in zip(decoder.layers, probes, strict=True):
        layer.mlp.down_proj = cast(nn.Linear, probe)
    try:
        yield probes
    finally:
        for layer, probe in zip(decoder.layers, probes, strict=True):
            layer.mlp.down_proj = probe.linear


def activation_importance(decoder: Decoder, batches: Iterable[mx.array]) -> mx.array:
    """Root mean square of what each unit adds to the stream: of its activation, times its weights.

    Args:
        decoder: the model; its weights stay.
        batches: token ids [B, T] that it reads.

    Returns:
        [L, F] float32, 0 or above.
    """
    squares, tokens = mx.zeros((len(decoder.layers), decoder.shape.intermediate_size)), 0
    with _probed(decoder) as probes:
        for inputs in batches:
            decoder.hidden(inputs)
            seen = [_sum_over_tokens(mx.square(_float(probe._seen))) for probe in probes]
            squares = squares + mx.stack(seen)
            tokens += inputs.size
            mx.eval(squares)
    norms = mx.stack(
        [mx.sqrt(mx.square(_float(layer.mlp.down_proj.weight)).sum(0)) for layer in decoder.layers]
    )
    return mx.sqrt(squares / max(tokens, 1)) * norms


def gradient_importance(decoder: Decoder, batches: Iterable[mx.array], loss: Loss) -> mx.array:
    """Mean |activation x gradient| of each unit over tokens, [L, F] float32, 0 or above.

    Keeps a gradient like every activation of the feed-forward layers: 4 x L x B x T x F bytes.

    Args:
        decoder: the model; its weights stay.
        batches: rows of tokens [B, T], as `loss` takes them.
        loss: summed loss of a batch.
    """
    total, tokens = mx.zeros((len(decoder.layers), decoder.shape.intermediate_size)), 0
    with _probed(decoder) as probes:

        def probed_loss(gains: Sequence[mx.array], rows: mx.array) -> mx.array:
            for probe, gain in zip(probes, gains, strict=True):
                probe.gain = gain
            return loss(decoder, rows)

        for rows in batches:
            size = (*rows.shape, decoder.shape.intermediate_size)
            ones = [mx.ones(size) for _ in probes]
            gradients = mx.grad(probed_loss)(ones, rows)  # of a gain of 1: activation x gradient
            total = total + mx.stack([_sum_over_tokens(mx.abs(each)) for each in gradients])
            tokens += rows.size
            mx.eval(total)
    return total / max(tokens, 1)


def standardized_logs(importance: mx.array) -> mx.array:
    """Logarithms, with mean 0 and deviation 1 in each layer: scores to start from, [L, F].

    A unit that never acts counts as the least one that does, so that no score is infinite.
    """
    positive = mx.where(importance > 0, importance, mx.inf).min(-1, keepdims=True)
    logs = mx.log(mx.maximum(importance, mx.where(mx.isinf(positive), 1.0, positive)))
    centered = logs - logs.mean(-1, keepdims=True)
    deviation = mx.sqrt(mx.square(centered).mean(-1, keepdims=True))
    return centered / mx.where(deviation > 0, deviation, 1.0)


def _float(array: mx.array | None) -> mx.array:
    assert array is not None
    return array.astype(mx.float32)


def _sum_over_tokens(values: mx.array) -> mx.array:
    """[B, T, F] to [F]."""
    return values.sum((0, 1))
