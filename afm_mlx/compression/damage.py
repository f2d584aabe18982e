"""What it costs to store one matrix in few bits, in nats per token: what bits are given out by.

Two ways. An estimate, from one backward pass: to second order, an error E of a matrix costs

    KL = 1/2 sum_i E[g_i^2] (E H E^T)_ii        H = E[x x^T] of its inputs, g gradients at outputs

where inputs and gradients count as independent. Or a measurement: the matrix alone is replaced, and
the model reads texts again, from that block on.

Source. The estimate is K-FAC's (arXiv:1503.05671, section 3) with only the diagonal of its factor
of outputs.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from afm_mlx.compression.divergence import Reference
from afm_mlx.compression.moments import Stream, advance
from afm_mlx.compression.tables import Palette, fit_tables
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.palette import (
    INT8_BITS,
    Int8Linear,
    PaletteLinear,
    int8_rows,
    linears,
    pack,
    replace_linears,
)


def fit_alone(
    weight: mx.array,
    bits: int,
    importance: np.ndarray | None,
    *,
    group_rows: int,
    rounds: int,
    tolerance: float,
    name: str,
) -> Int8Linear | PaletteLinear:
    """A matrix [O, I] in few bits, without error feedback: integers at 8 bits, else tables.

    `importance` and the rest as `fit_tables` takes them.
    """
    if bits == INT8_BITS:
        return Int8Linear(*int8_rows(weight))
    palette = fit_tables(
        np.array(weight.astype(mx.float32)),
        bits=bits,
        group_rows=group_rows,
        importance=importance,
        rounds=rounds,
        tolerance=tolerance,
        name=name,
    )
    return palette_linear(palette, bits, group_rows)


def palette_linear(palette: Palette, bits: int, group_rows: int) -> PaletteLinear:
    """The layer of a fitted matrix."""
    return PaletteLinear(
        pack(mx.array(palette.ids), bits),
        mx.array(palette.tables),
        bits=bits,
        group_rows=group_rows,
        in_features=palette.ids.shape[1],
    )


def estimated_damage(
    weight: mx.array, stored: Int8Linear | PaletteLinear, moments: mx.array, gradients: mx.array
) -> float:
    """Nats per token that storing a matrix [O, I] costs, to second order.

    Args:
        weight: as it is.
        stored: as it would be stored.
        moments: E[x x^T] of its inputs, [I, I].
        gradients: E[g^2] at its outputs, [O], of the model's log-likelihood of its own words.
    """
    error = stored.dense() - weight.astype(mx.float32)
    return float(0.5 * (gradients * ((error @ moments) * error).sum(1)).sum())


def measured_damage(
    decoder: Decoder,
    number: int,
    stream: Stream,
    name: str,
    stored: nn.Module,
    reference: Reference,
) -> float:
    """KL to the reference, nats per token, when only the matrix `name` of a block is replaced.

    Args:
        decoder: the model, whose matrix is put back.
        number: of the block.
        stream: what goes into the block on the reference's texts.
        name: of the matrix, as in `palette.linears`.
        stored: what replaces it.
        reference: the model as it was.
    """
    before = linears(decoder)[name]
    replace_linears(decoder, {name: stored})
    try:
        for block in decoder.layers[number:]:
            stream = advance(block, stream)
        return reference.kl_of([decoder.model.norm(x) for x in stream], decoder.output_weight)
    finally:
        replace_linears(decoder, {name: before})
