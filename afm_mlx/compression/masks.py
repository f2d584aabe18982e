"""A decoder whose feed-forward units carry masks, and the narrower decoder that is cut out of it.

    FFN(n) = Wdown (z * SiLU(Wgate n) * (Wup n))

A mask z scales columns of Wdown, so the decoder needs no part for it: Wdown diag(z) takes the
place of Wdown for the time of a pass, and stays there when the units with z = 0 are cut away.
Source: LS and OB, notes on arXiv:2407.21075; the form of the mask is that of arXiv:2310.06694.

Shapes. L layers, D width, F feed-forward units, k of them kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import cos, pi

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from afm_mlx.compression.topk import Scalar, hard_top_k, soft_top_k
from afm_mlx.decoder.decoder import Decoder, named_parameters

# Names of the matrices whose rows, and whose columns, are feed-forward units.
_ROWS, _COLUMNS = ("gate_proj", "up_proj"), "down_proj"


class MaskedDecoder(nn.Module):
    """A decoder and the scores [F] of each layer's units, which are trained together."""

    def __init__(self, decoder: Decoder, scores: mx.array) -> None:
        """`scores` [L, F] decide which units have high masks at the start."""
        super().__init__()
        self.decoder = decoder
        self.scores = list(scores.astype(mx.float32))

    def masks(self, k: Scalar, temperature: Scalar) -> mx.array:
        """[L, F] float32, 0 to 1, with sum k in each layer."""
        with mx.stream(mx.cpu):  # where float64 exists
            return soft_top_k(mx.stack(self.scores), k, temperature).astype(mx.float32)

    @contextmanager
    def masked(self, k: Scalar, temperature: Scalar) -> Iterator[Decoder]:
        """The decoder with its masks applied; also inside a function that is differentiated."""
        with scaled_units(self.decoder, self.masks(k, temperature)) as decoder:
            yield decoder

    def kept(self, k: int) -> mx.array:
        """[L, k] numbers of the units with the highest scores, ascending."""
        return hard_top_k(mx.stack(self.scores), k)

    @contextmanager
    def hardened(self, k: int, temperature: Scalar) -> Iterator[Decoder]:
        """As `masked`, with the masks of all units but the k highest at 0: what `cut` leaves."""
        masks, kept = self.masks(k, temperature), self.kept(k)
        hard = mx.put_along_axis(
            mx.zeros_like(masks), kept, mx.take_along_axis(masks, kept, axis=-1), axis=-1
        )
        with scaled_units(self.decoder, hard) as decoder:
            yield decoder

    def cut(self, k: int, temperature: Scalar) -> Decoder:
        """The k highest units of each layer, with their masks folded in, and nothing else."""
        masks, kept = self.masks(k, temperature), self.kept(k)
        return cut_units(self.decoder, kept, mx.take_along_axis(masks, kept, axis=-1))

    def held_mass(self, k: int, temperature: Scalar) -> list[float]:
        """Share of each layer's masks, 0 to 1, that the k highest units hold; the rest is cut."""
        masks = self.masks(k, temperature)
        held = mx.take_along_axis(masks, self.kept(k), axis=-1).sum(-1) / masks.sum(-1)
        return [float(share) for share in held.tolist()]  # type: ignore[union-attr, arg-type]


def annealed(
    done: float, *, widths: tuple[float, float], temperatures: tuple[float, float]
) -> tuple[float, float]:
    """Width and temperature of the masks at a moment of mask learning.

    The width falls like a half cosine, the temperature by the same factor in equal times.

    Args:
        done: share of the annealing that is over; 1 or more: the last values.
        widths: sum of the masks of a layer, at the start and at the end.
        temperatures: softness of the masks, likewise.
    """
    done = min(done, 1.0)
    (wide, narrow), (hot, cold) = widths, temperatures
    return narrow + (wide - narrow) * (1 + cos(pi * done)) / 2, hot * (cold / hot) ** done


@contextmanager
def scaled_units(decoder: Decoder, factors: mx.array) -> Iterator[Decoder]:
    """`decoder` with its feed-forward units scaled by `factors` [L, F], as long as it lasts."""
    linears = [layer.mlp.down_proj for layer in decoder.layers]
    weights = [linear.weight for linear in linears]
    for linear, weight, factor in zip(linears, weights, factors, strict=True):
        linear.weight = weight * factor.astype(weight.dtype)
    try:
        yield decoder
    finally:
        for linear, weight in zip(linears, weights, strict=True):
            linear.weight = weight


def cut_units(decoder: Decoder, kept: mx.array, factors: mx.array | None = None) -> Decoder:
    """A narrower decoder of some units; all other tensors are shared with `decoder`.

    Args:
        decoder: with F units in each layer.
        kept: [L, k] numbers of the units to keep.
        factors: [L, k], what each is scaled by; None: 1.
    """
    narrow = Decoder(decoder.shape.model_copy(update={"intermediate_size": kept.shape[1]}))
    weights = []
    for name, array in named_parameters(decoder).items():
        parts = name.split(".")
        if parts[-2] in _ROWS:
            array = array[kept[int(parts[2])]]
        elif parts[-2] == _COLUMNS:
            layer = int(parts[2])
            array = array[:, kept[layer]]
            if factors is not None:
                array = array * factors[layer].astype(array.dtype)
        weights.append((name, array))
    narrow.update(tree_unflatten(weights))
    return narrow
