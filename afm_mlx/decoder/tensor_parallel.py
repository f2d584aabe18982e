"""Tensor parallelism: each rank computes some of the heads and of the feed-forward units.

Queries, keys, values, gate and up are cut by rows (outputs), the two matrices that lead back to the
stream by columns (inputs), so a rank's part of a layer needs nothing of the others' until its end:
one sum over the ranks after attention and one after the feed-forward, and in the backward pass
likewise. Embedding, norms and output layer are whole on every rank, as is the stream.

A rank's part is a `Decoder` of a narrower shape, whose layers are of the kinds they were. What is
cut is known by a tensor's name, see `cut_axis`. We do not use MLX's `shard_linear`: it knows dense
and affine layers only, and sums three times where queries, keys and values share one input.

Source: arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.distributed import sum_gradients
from mlx.utils import tree_unflatten

from afm_mlx.decoder.attention import Mask
from afm_mlx.decoder.decoder import Attention, Decoder, FeedForward, named_parameters
from afm_mlx.decoder.palette import INT8_BITS, WORD_BITS
from afm_mlx.decoder.palette_format import PaletteFormat, format_of_model, place, tensors
from afm_mlx.decoder.parts import part_shape
from afm_mlx.errors import ModelError
from afm_mlx.ranks import Ranks
from afm_mlx.settings.sections import Shape

BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Linear layers that give each rank its part of the outputs."""

BY_COLUMNS = ("o_proj", "down_proj")
"""Linear layers that take each rank's part of the inputs."""

_AXES = {
    "weight": (0, 1),
    "ids": (0, 1),  # columns in whole words
    "tables": (0, None),
    "scales": (0, None),
    "lora_a": (None, 0),
    "lora_b": (1, None),
}
"""Axis along which a tensor is cut: of a layer by rows, and of one by columns."""


def cut_axis(name: str) -> int | None:
    """Axis along which a tensor of this name is cut, as `model.layers.0.mlp.up_proj.weight`.

    None: it is whole on every rank.
    """
    *_, last, tensor = name.replace(".linear.", ".").split(".")
    if last in BY_ROWS:
        return _AXES[tensor][0]
    return _AXES[tensor][1] if last in BY_COLUMNS else None


def cut(name: str, array: mx.array, ranks: Ranks) -> mx.array:
    """This rank's part of a tensor; lazy, and all of it where it is not cut."""
    axis = cut_axis(name)
    if axis is None or ranks.size == 1:
        return array
    # Contiguous, or a slice would keep the whole alive.
    return mx.contiguous(mx.split(array, ranks.size, axis=axis)[ranks.rank])


def checked_part(shape: Shape, size: int, palette: PaletteFormat | None) -> Shape:
    """`part_shape`, where tables and words of ids divide, too.

    Args:
        shape: of the whole model.
        size: number of ranks.
        palette: which layers are palettized; None: none is.

    Raises:
        ModelError: something does not divide among the ranks.
    """
    part = part_shape(shape, size)
    if palette is not None and size > 1:
        _check_tables(part, size, palette)
    return part


def _check_tables(part: Shape, size: int, palette: PaletteFormat) -> None:
    """Raise ModelError unless tables and words of ids belong to one rank each."""
    sizes = {name.removesuffix(".weight"): each.shape for name, each in tensors(part, None).items()}
    for name, bits in palette.bits.items():
        axis = cut_axis(f"{name}.weight")
        if axis is None or bits == INT8_BITS:
            continue
        count = sizes[name][axis]
        unit = palette.group_rows if axis == 0 else WORD_BITS // bits
        if count % unit:
            what = f"tables of {unit} rows" if axis == 0 else f"words of {unit} columns"
            raise ModelError(
                f"{name} cannot be cut in {size}: {count:,} {'rows' if axis == 0 else 'columns'} "
                f"for each machine are not whole {what}",
                hint="take fewer machines, or the model from before it was quantized",
            )


class PartAttention(Attention):
    """Attention with some of the heads."""

    def __init__(self, part: Shape, ranks: Ranks) -> None:
        super().__init__(part)
        self._ranks = ranks
        if part.qk_norm:
            self.q_norm = PartNorm(part.head_dim, part.norm_eps, ranks)
            self.k_norm = PartNorm(part.head_dim, part.norm_eps, ranks)

    def __call__(self, x: mx.array, mask: Mask = None, cache: Any = None) -> mx.array:
        """As `Attention`. `cache` holds keys and values of this rank's heads."""
        y = super().__call__(_shared(x, self._ranks), mask, cache)
        return _summed(y, self._ranks)


class PartNorm(nn.RMSNorm):
    """A norm of some of the heads: its gain is whole, and so is the gain's gradient."""

    def __init__(self, dims: int, eps: float, ranks: Ranks) -> None:
        super().__init__(dims, eps)
        self._ranks = ranks

    def __call__(self, x: mx.array) -> mx.array:
        """As `nn.RMSNorm`."""
        return mx.fast.rms_norm(x, _shared(self.weight, self._ranks), self.eps)


class PartFeedForward(FeedForward):
    """SwiGLU with some of the units."""

    def __init__(self, part: Shape, ranks: Ranks) -> None:
        super().__init__(part)
        self._ranks = ranks

    def __call__(self, x: mx.array) -> mx.array:
        """As `FeedForward`."""
        return _summed(super().__call__(_shared(x, self._ranks)), self._ranks)


def is_part(model: Any) -> bool:
    """Whether a model is a rank's part of one."""
    return isinstance(model, Decoder) and isinstance(model.layers[0].self_attn, PartAttention)


def part_decoder(part: Shape, ranks: Ranks) -> Decoder:
    """A decoder of a rank's part, without weights worth anything; all of it for one rank alone."""
    model = Decoder(part)
    if ranks.size > 1:
        for layer in model.layers:
            layer.self_attn = PartAttention(part, ranks)
            layer.mlp = PartFeedForward(part, ranks)
    return model


def filled_decoder(
    part: Shape,
    palette: PaletteFormat | None,
    weights: Mapping[str, mx.array],
    ranks: Ranks,
) -> Decoder:
    """A decoder of a rank's part with these weights, which are cut already."""
    model = part_decoder(part, ranks)
    if palette is not None:
        place(model, palette, weights, weights["model.norm.weight"].dtype)
    model.update(tree_unflatten(list(weights.items())))
    return model


def cut_decoder(model: Decoder, ranks: Ranks) -> Decoder:
    """This rank's part of a model in memory, which has no low-rank factors yet.

    Raises:
        ModelError: as `checked_part`.
    """
    palette = format_of_model(model)
    part = checked_part(model.shape, ranks.size, palette)
    weights = dict(named_parameters(model))
    for name in weights:
        weights[name] = cut(name, weights[name], ranks)
        mx.eval(weights[name])  # one at a time: lazy ones are never whole all together
    return filled_decoder(part, palette, weights, ranks)


def _shared(x: mx.array, ranks: Ranks) -> mx.array:
    """`x`, the same on all ranks; its gradient is the sum of theirs."""
    return cast(mx.array, sum_gradients(ranks.group)(x))


def _summed(y: mx.array, ranks: Ranks) -> mx.array:
    """The sum of what all ranks have computed; its gradient is the same on all of them."""
    return mx.distributed.all_sum(y, group=ranks.group)
