"""How the weights of a training run lie on the ranks: whole on each, or cut, a part on each.

Three ways, one layout. Data parallel: all is whole everywhere, and the rows of a step are shared
out. Fully sharded: weights and the update rule's state are cut, too; for a pass the parts of a
block are gathered in one message, and its gradient comes back summed and cut. Tensor parallel: the
model itself computes with parts, and all ranks read the same rows.

Only what is cut costs a message, so a layout of one rank costs nothing.

Shapes. N ranks, n numbers of a message's part on one rank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path, tree_unflatten

from afm_mlx.decoder.decoder import Block, Decoder, Source
from afm_mlx.decoder.tensor_parallel import cut_axis, is_part
from afm_mlx.ranks import ALONE, Ranks, joined
from afm_mlx.settings.sections import Shape, Shard, Training

Cast = Callable[[str, mx.array], mx.array]
"""From a weight's path and the weight to its number format in a pass."""

_BLOCK = re.compile(r"(?:.*\.)?layers\.\d+(?=\.)")


@dataclass(frozen=True)
class Layout:
    """Which arrays are cut, along which axis, and what the ranks do with the parts."""

    ranks: Ranks = ALONE
    """Who has the parts. Part r of an array is on rank r, and all parts are of one size."""
    axes: Mapping[str, int] = field(default_factory=dict)
    """Axis of each trained weight that is cut, by its path. The others are whole on every rank.
    An array of the update rule, such as "momentum.PATH", is cut as the weight at PATH."""
    shares_rows: bool = True
    """Whether each rank reads its share of a step's rows; False: all read all rows."""
    gathers: bool = True
    """Whether the parts of a weight are gathered for a pass; False: the model computes with
    them."""

    @property
    def data(self) -> Ranks:
        """The ranks among whom the rows of a step are shared out."""
        return self.ranks if self.shares_rows else ALONE

    def axis(self, path: str) -> int | None:
        """Axis along which the array at `path` is cut, or None."""
        while path not in self.axes:
            _, dot, path = path.partition(".")
            if not dot:
                return None
        return self.axes[path]

    def whole(self, tree: Any) -> Any:
        """Whole arrays of a tree of parts, one message each. Lazy: all ranks must compute them."""
        return tree_map_with_path(self.whole_of, tree) if self.axes else tree

    def take(self, model: Any) -> Any:
        """This rank's parts of a model's trained weights; the model gives up the whole ones."""
        trained: Any = model.trainable_parameters()
        if not self.axes or not self.gathers:
            return trained
        flat: Any = tree_flatten(trained)
        del trained
        for number, (path, array) in enumerate(flat):  # one at a time is there whole and cut
            flat[number] = path, self.part_of(path, array)
            del array
            mx.eval(flat[number][1])
            model.update(tree_unflatten(flat))
        return tree_unflatten(flat)

    def place(self, model: Any, parts: Any, cast: Cast) -> None:
        """Give a model its weights for a pass, in the formats of `cast`.

        Gathered ones are lazy: what is not computed with sends no message. A block that is
        computed again in the backward pass is told its parts, too, so that it keeps no more.
        """
        if not self.axes or not self.gathers:
            model.update(tree_map_with_path(cast, parts))
            return
        weights: list[tuple[str, mx.array]] = []
        modules = dict(model.named_modules())
        flat: Any = tree_flatten(parts)
        for name, group in _groups(flat).items():
            made = self._gathered(group, cast)
            weights += made.items()
            if isinstance(modules.get(name), Block):
                modules[name]._source = self._source(name, group, made, cast)
        kept = dict(weights)
        model.update(tree_unflatten([(path, kept[path]) for path, _ in flat]))

    def gather(self, model: Any) -> None:
        """Compute what `place` has given a model: from then on, it sends no messages."""
        if self.axes:
            mx.eval(model.parameters())
            for module in model.modules():
                if isinstance(module, Block):
                    module._source = None

    def restore(self, model: Any, parts: Any) -> None:
        """Give a model its whole weights, in float32, on every rank; or the parts it has."""
        model.update(self.whole(parts) if self.gathers else parts)
        self.gather(model)

    def total(self, sums: dict[str, mx.array], grads: Any) -> tuple[dict[str, mx.array], Any]:
        """Sums and gradients over the rows of all ranks.

        Those of gathered weights have been added up in the backward pass. Lazy.
        """
        if self.data.size == 1:
            return sums, grads
        flat: Any = tree_flatten(grads)
        parts = {path: grad for path, grad in flat if self.axis(path) is not None}
        own = [*sums.values(), *(grad for path, grad in flat if path not in parts)]
        totals = iter(self.ranks.total(own))
        # In memory of their own: the log holds them, and would hold all of their message.
        sums = {name: mx.contiguous(next(totals)) for name in sums}
        return sums, tree_unflatten(
            [(path, parts[path] if path in parts else next(totals)) for path, _ in flat]
        )

    def sums(self, by_path: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Sums over whole arrays, from those over this rank's parts: one message. Lazy.

        A sum over an array that is whole stays as it is.
        """
        found = dict(by_path)
        cut = [path for path in found if self.axis(path) is not None]
        if cut:
            found |= zip(cut, self._all_sum(mx.stack([found[path] for path in cut])), strict=True)
        return found

    def size(self, path: str, part: mx.array) -> int:
        """Numbers in the whole array, of which `part` is here."""
        return part.size * (1 if self.axis(path) is None else self.ranks.size)

    def part_of(self, path: str, whole: mx.array) -> mx.array:
        """This rank's part of a whole array, in memory of its own. Lazy."""
        axis = self.axis(path)
        if axis is None:
            return whole
        # A slice alone would keep all of the array in memory.
        return mx.contiguous(mx.split(whole, self.ranks.size, axis=axis)[self.ranks.rank])

    def whole_of(self, path: str, part: mx.array) -> mx.array:
        """The whole array of a part: one message. Lazy."""
        axis = self.axis(path)
        if axis is None:
            return part
        return _joined(self.ranks.gathered(part[None]), axis)

    def _all_sum(self, array: mx.array) -> mx.array:
        return self.ranks.total([array])[0]

    def _gathered(self, parts: Mapping[str, mx.array], cast: Cast) -> dict[str, mx.array]:
        """Weights of some parts in the formats of `cast`: one message of each format."""
        names = list(parts)
        cut = [name for name in names if self.axis(name) is not None]
        axes = [self.axes[name] for name in cut]

        def gather(*arrays: mx.array) -> list[mx.array]:
            pieces = [cast(name, array) for name, array in zip(cut, arrays, strict=True)]
            rows = self._exchanged([piece.reshape(1, -1) for piece in pieces], self.ranks.gathered)
            return [
                _joined(row.reshape(-1, *piece.shape), axis)
                for row, piece, axis in zip(rows, pieces, axes, strict=True)
            ]

        def backward(primals: Any, cotangents: Any, _: Any) -> list[mx.array]:
            # One array alone is handed over bare. Sums are float32, as those of micro-batches.
            parts, gradients = _listed(primals), _listed(cotangents)
            rows = [
                _divided(gradient.astype(mx.float32), self.ranks.size, axis)
                for gradient, axis in zip(gradients, axes, strict=True)
            ]
            own = self._exchanged(rows, self.ranks.own_sum)
            return [
                row.reshape(part.shape).astype(part.dtype)
                for row, part in zip(own, parts, strict=True)
            ]

        made: dict[str, mx.array] = {}
        if cut:
            differentiable: Any = mx.custom_function(gather)
            differentiable.vjp(backward)
            made = dict(zip(cut, differentiable(*(parts[name] for name in cut)), strict=True))
        return {name: made[name] if name in made else cast(name, parts[name]) for name in names}

    def _exchanged(
        self, rows: list[mx.array], exchange: Callable[[mx.array], mx.array]
    ) -> list[mx.array]:
        """What `exchange` makes of each of `rows` [1 or N, n], in one message of each format."""
        found: dict[int, mx.array] = {}
        for dtype in dict.fromkeys(row.dtype for row in rows):
            places = [place for place, row in enumerate(rows) if row.dtype == dtype]
            message = exchange(mx.concatenate([rows[place] for place in places], axis=1))
            start = 0
            for place in places:
                end = start + rows[place].shape[1]
                found[place] = message[:, start:end]
                start = end
        return [found[place] for place in range(len(rows))]

    def _source(
        self, name: str, parts: Mapping[str, mx.array], made: Mapping[str, mx.array], cast: Cast
    ) -> Source:
        """How a block gets its weights from its parts; names as they are in the block."""
        inner = [path.removeprefix(f"{name}.") for path in parts]

        def make(arrays: list[mx.array]) -> dict[str, mx.array]:
            whole = self._gathered(dict(zip(parts, arrays, strict=True)), cast)
            return dict(zip(inner, whole.values(), strict=True))

        return Source(dict(zip(inner, made.values(), strict=True)), list(parts.values()), make)


WHOLE = Layout()
"""One rank, which has everything."""


def data_ranks() -> Ranks:
    """The ranks among whom the rows of a step are shared out."""
    return joined()


def layout_of(model: Any, settings: Training) -> Layout:
    """How the trained weights of a model lie on the ranks of this run, as [training] says."""
    ranks = data_ranks()
    if settings.shard is Shard.NONE or ranks.size == 1:
        return Layout(ranks)
    flat: Any = tree_flatten(model.trainable_parameters())
    if settings.shard is Shard.TENSOR:
        if not is_part(model):
            return Layout(ranks)
        axes = {path: axis for path, _ in flat if (axis := cut_axis(path)) is not None}
        return Layout(ranks, axes, shares_rows=False, gathers=False)
    return Layout(ranks, fully_sharded(flat, ranks.size))


def whole_decoder(part: Decoder, shape: Shape, layout: Layout) -> Decoder:
    """The whole model, of which each rank has trained its part; or `part`, if it is whole."""
    if layout.gathers:
        return part
    model = Decoder(shape)
    model.update(layout.whole(part.parameters()))
    mx.eval(model.parameters())
    return model


def fully_sharded(flat: Iterable[tuple[str, mx.array]], size: int) -> dict[str, int]:
    """The first axis of each array that can be cut into `size` parts; arrays without one are left.

    Args:
        flat: paths and arrays.
        size: N.
    """
    axes = {}
    for path, array in flat:
        fits = [axis for axis, length in enumerate(array.shape) if length % size == 0]
        if fits:
            axes[path] = fits[0]
    return axes


def _groups(flat: Iterable[tuple[str, mx.array]]) -> dict[str, dict[str, mx.array]]:
    """Arrays by the block that they belong to; those of none under ""."""
    groups: dict[str, dict[str, mx.array]] = {}
    for path, array in flat:
        block = _BLOCK.match(path)
        groups.setdefault(block.group() if block else "", {})[path] = array
    return groups


def _joined(parts: mx.array, axis: int) -> mx.array:
    """[N, *shape of a part] to the whole array, which was cut along `axis`."""
    size, *shape = parts.shape
    shape[axis] *= size
    return mx.moveaxis(parts, 0, axis).reshape(shape)


def _divided(whole: mx.array, size: int, axis: int) -> mx.array:
    """[N, n] parts of a whole array, cut along `axis`."""
    shape = whole.shape
    apart = whole.reshape(*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])
    return mx.moveaxis(apart, axis, 0).reshape(size, -1)


def _listed(arrays: Any) -> list[mx.array]:
    return [arrays] if isinstance(arrays, mx.array) else list(arrays)
