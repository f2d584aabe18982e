"""Where a recovery adapter begins: the low-rank part of what tables lost, without any training.

With R = W - Q, the error of a layer in tables on its inputs x is R x; an error of output o counts
g_o, its mean squared gradient. The factors of rank r that take most of it away are, with U [O, r]
the leading eigenvectors of S R E[x x^T] R^T S, and S = diag(sqrt(g)), those in

    Q x + (S^-1 U) (U^T S R) x

Errors of k-means lie in few directions, as inputs do. Those of error feedback were spread over
all of them when it made them small, and leave less to take: of the KL that 4 bits cost SmolLM2,
factors of rank 16 take 61 % of k-means with weights, and 17 % of error feedback.

Layers follow one another: what goes into each has gone through those before it, in tables and with
their factors.

Source: arXiv:2410.06040 (QERA), theorem 1, in the outputs' coordinates, where no matrix has to be
inverted; weights of outputs as in arXiv:2306.07629. Together they are ours.

Shapes. O outputs and I inputs of a linear layer, r rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx

from afm_mlx.compression.coordinates import in_coordinates_of
from afm_mlx.compression.moments import SITES, advance, block_moments, fisher, start_stream
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.lora import LoraLinear, lora_arrays, remove_lora
from afm_mlx.decoder.palette import replace_linears

LEAST_WORTH = 0.01
"""Added to what an output's error counts, as a share of the mean. Ours."""

# Directions beyond those wanted, and rounds, of the search for the largest ones. Ours.
_MORE_DIRECTIONS, _ROUNDS = 8, 4


def output_worths(model: Decoder, batches: Sequence[mx.array], *, seed: int) -> dict[str, mx.array]:
    """What an error of each output costs: `fisher` of token ids [B, L], one row at a time."""
    return fisher(model, (row[None] for batch in batches for row in batch), seed=seed)


def residual_factors(
    model: Decoder,
    original: Decoder,
    batches: Sequence[mx.array],
    gradients: Mapping[str, mx.array],
    *,
    rank: int,
    scale: float,
    seed: int,
    done: Callable[[int], None] = lambda _: None,
) -> dict[str, mx.array]:
    """Factors of an adapter that takes the largest part of the tables' errors away.

    Args:
        model: in tables; as it was, afterwards.
        original: the dense model that the tables were made of; it stays.
        batches: token ids [B, L] to measure inputs on.
        gradients: what an error of each output costs, [O], as `output_worths` gives it.
        rank: r; a layer with fewer outputs or inputs gets zeros for the rest.
        scale: of the adapter.
        seed: of the search's start.
        done: is told the number of each block that is done, from 1.

    Returns:
        As `lora_arrays`, float32.

    Raises:
        ModelError: the tables were made of another model.
    """
    stream = start_stream(model, batches)
    for number, block in enumerate(model.layers):
        prefix = f"model.layers.{number}"
        dense = in_coordinates_of(block, original.layers[number], model.shape, name=prefix)
        for site, names in SITES.items():
            moment = block_moments(block, stream, full=True, sites=(site,))[site]
            wrapped = {}
            for part in names:
                room, last = part.split(".")
                name, layer = f"{prefix}.{part}", block[room][last]
                error = dense[room][last].weight - layer.weight.astype(mx.float32)
                a, b = leading_part(
                    error, moment, gradients[name], rank, key=mx.random.key(seed * 1_000 + number)
                )
                wrapped[name] = LoraLinear(layer, a, b / scale, scale)
            replace_linears(model, wrapped)
            mx.eval(block.parameters())
        stream = advance(block, stream)
        done(number + 1)
    found = lora_arrays(model)
    remove_lora(model)
    return found


def leading_part(
    error: mx.array, moment: mx.array, worth: mx.array, rank: int, *, key: mx.array
) -> tuple[mx.array, mx.array]:
    """Factors [I, r] and [r, O] of the part of an error that costs most.

    Each column of the first gives numbers of the same mean square, that of the inputs, as a drawn
    factor does: one step of training then counts alike for all of them.

    Args:
        error: [O, I], what is missing to the layer.
        moment: [I, I], E[x x^T] of its inputs.
        worth: [O], what a squared error of each output costs; any unit.
        rank: r.
        key: of the search's start. Source: arXiv:0909.4061, algorithm 4.4.
    """
    kept = min(rank, *error.shape)
    with mx.stream(mx.cpu):  # where MLX has these decompositions
        mean = worth.mean()
        roots = mx.sqrt(worth / mx.where(mean > 0, mean, 1) + LEAST_WORTH)[:, None]
        weighted = roots * error

        def squares(directions: mx.array) -> mx.array:
            """Product with S R E[x x^T] R^T S, which need not exist."""
            return weighted @ (moment @ (weighted.T @ directions))

        width = min(kept + _MORE_DIRECTIONS, len(error))
        basis, _ = mx.linalg.qr(mx.random.normal((len(error), width), key=key))
        for _ in range(_ROUNDS):
            basis, _ = mx.linalg.qr(squares(basis))
        values, vectors = mx.linalg.eigh(basis.T @ squares(basis))  # ascending
        order = mx.argsort(-values)[:kept]
        largest, values = basis @ vectors[:, order], values[order]
        size = mx.trace(moment) / len(moment)
        # Where there is no error, both factors are zeros.
        lengths = mx.where(values > 0, mx.sqrt(size / mx.where(values > 0, values, 1)), 0)
        a = (weighted.T @ largest) * lengths
        b = (largest / roots).T * mx.where(lengths > 0, 1 / mx.where(lengths > 0, lengths, 1), 0)[
            :, None
        ]
        return mx.pad(a, [(0, 0), (0, rank - kept)]), mx.pad(b, [(0, rank - kept), (0, 0)])
