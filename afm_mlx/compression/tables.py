"""Tables for palettized matrices: weighted one-dimensional k-means, all groups of rows at once.

Values of a group are counted into fine bins once. A round of Lloyd's algorithm then takes one
look-up per cell in the running sums of the bins, whatever the number of values. Bins only place
the boundaries: the last rounds, and the result, use the values themselves.

Sources. Lloyd: IEEE Trans. Inf. Theory 28 (1982), method I. Panter and Dite: Proc. IRE 39 (1951),
the density of cells to start from.

Shapes. O rows (outputs), I columns (inputs), G groups of rows, N values of a group, T = 2**bits,
B bins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afm_mlx.errors import ModelError

BINS = 8_192
"""Bins between the least and the greatest value of a group. Ours: a boundary that is wrong by half
a bin changes the error by less than a millionth on Gaussian values."""

EXACT_ROUNDS = 1
"""Rounds over the values themselves, after those over bins. Ours."""

CHUNK_VALUES = 2**22
"""Values in work at one time; bounds the memory beside the matrix to about 50 bytes each. Ours."""

Array = NDArray[np.float32]


class Palette(NamedTuple):
    """A matrix as ids and tables."""

    ids: NDArray[np.uint8]
    """[O, I], 0 to T - 1."""

    tables: NDArray[np.float16]
    """[G, T], ascending; the last group may have fewer rows than the others."""

    error: float
    """Importance-weighted squared error over the importance-weighted sum of squares, 0 to 1."""


def fit_tables(
    weight: Array,
    *,
    bits: int,
    group_rows: int,
    importance: Array | None = None,
    rounds: int = 300,
    tolerance: float = 1e-6,
    name: str = "matrix",
) -> Palette:
    """Ids and tables of a matrix that keep the importance-weighted squared error small.

    Args:
        weight: [O, I].
        bits: of an id.
        group_rows: rows that share a table.
        importance: weight of each column's errors [I], or of each single one's [O, I]; 0 or above.
            None: all alike.
        rounds: at most so many rounds of Lloyd's algorithm.
        tolerance: stop once a round moves no entry by more than this fraction of the group's range.
        name: of the matrix, for errors.

    Raises:
        ModelError: the matrix holds NaN or infinities, or values too large for float16.
    """
    check_values(weight, name)
    rows, columns = weight.shape
    groups = -(-rows // group_rows)
    ids = np.empty((rows, columns), np.uint8)
    tables = np.empty((groups, 2**bits), np.float16)
    lost = total = 0.0
    step = max(1, CHUNK_VALUES // (group_rows * columns))
    for first in range(0, groups, step):
        span = slice(first * group_rows, min((first + step) * group_rows, rows))
        values = _grouped(weight[span], group_rows)
        weights = _importance_of(importance, span, values.shape, columns, group_rows)
        if span.stop == rows and rows % group_rows:
            # The rows that fill up the last group: without importance they move no table.
            weights = np.array(np.broadcast_to(weights, values.shape))
            weights[-1, (rows % group_rows) * columns :] = 0.0
        found = _fit(values, weights, 2**bits, rounds=rounds, tolerance=tolerance)
        half = found.astype(np.float16)
        tables[first : first + step] = half
        cells = nearest(values, half.astype(np.float32))
        ids[span] = cells.reshape(-1, columns)[: span.stop - span.start]
        entries = half.astype(np.float32).reshape(-1)
        starts = np.arange(len(half))[:, None] * half.shape[1]
        left = values - entries[starts + cells]
        lost += float(np.sum(weights * np.square(left), dtype=np.float64))
        total += float(np.sum(weights * np.square(values), dtype=np.float64))
    return Palette(ids, tables, lost / total if total > 0 else 0.0)


def dense(ids: NDArray[np.uint8], tables: NDArray[np.float16], *, group_rows: int) -> Array:
    """The matrix [O, I] float32 that ids and tables stand for."""
    groups = np.arange(ids.shape[0]) // group_rows
    return tables.astype(np.float32)[groups[:, None], ids]


def nearest(values: Array, tables: Array) -> NDArray[np.uint8]:
    """Nearest entry of each value [G, N], by its place in its group's ascending table [G, T]."""
    middles = (tables[:, 1:] + tables[:, :-1]) / 2
    ids = np.zeros(values.shape, np.uint8)
    for group, row in enumerate(middles):
        for middle in row:  # ten times as fast as searchsorted, which branches
            ids[group] += values[group] > middle
    return ids


def check_values(weight: Array, name: str) -> None:
    """Refuse what no table can hold.

    Raises:
        ModelError: NaN or infinities, or values too large for float16.
    """
    finite = np.isfinite(weight)
    if not finite.all():
        bad = weight.size - int(np.count_nonzero(finite))
        raise ModelError(
            f"{name} holds {bad:,} values that are not finite, of {weight.size:,}",
            hint="the model is damaged, or its training diverged: take an earlier checkpoint",
        )
    largest = float(np.max(np.abs(weight), initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise ModelError(f"{name} holds {largest:g}; tables are float16 and hold 65504 at most")


def _grouped(weight: Array, group_rows: int) -> Array:
    """[O, I] to [G, N]; the last group is filled up with its own last row."""
    rows, columns = weight.shape
    short = -rows % group_rows
    if short:
        weight = np.concatenate([weight, np.repeat(weight[-1:], short, axis=0)])
    return np.ascontiguousarray(weight, np.float32).reshape(-1, group_rows * columns)


def _importance_of(
    importance: Array | None,
    span: slice,
    shape: tuple[int, ...],
    columns: int,
    group_rows: int,
) -> Array:
    """What broadcasts to the values [G, N] of the rows in `span`."""
    if importance is None:
        return np.ones((1, 1), np.float32)
    if importance.ndim == 1:
        return np.tile(importance.astype(np.float32), shape[1] // columns)[None]
    return _grouped(importance[span], group_rows)


def _fit(values: Array, weights: Array, size: int, *, rounds: int, tolerance: float) -> Array:
    """Ascending tables [G, T] of values [G, N]."""
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    width = np.maximum((high - low) / BINS, np.finfo(np.float32).tiny)
    bins = np.minimum(((values - low) / width).astype(np.int32), BINS - 1).astype(np.intp)
    counts, sums = _binned(bins, values, weights)
    tables = _start(counts, low, width, size)
    running_counts, running_sums = _running(counts), _running(sums)
    for _ in range(rounds):
        moved = _centers(tables, running_counts, running_sums, low, width)
        still = np.abs(moved - tables).max(1) <= tolerance * (high - low)[:, 0]
        tables = moved
        if still.all():
            break
    for _ in range(EXACT_ROUNDS):
        tables = _means(nearest(values, tables), values, weights, tables)
    return tables


def _binned(
    bins: NDArray[np.intp], values: Array, weights: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums [G, B] of the weights, and of weights x values, in each bin."""
    groups = len(bins)
    counts, sums = np.empty((groups, BINS)), np.empty((groups, BINS))
    for group in range(groups):
        # bincount is quick only on its own types, intp and float64.
        own = _own(weights, group, values.shape[1])
        counts[group] = np.bincount(bins[group], own, BINS)
        sums[group] = np.bincount(bins[group], own * values[group], BINS)
    empty = counts.sum(1) <= 0  # a group without any importance: all alike
    for group in map(int, np.flatnonzero(empty)):
        counts[group] = np.bincount(bins[group], None, BINS)
        sums[group] = np.bincount(bins[group], values[group], BINS)
    return counts, sums


def _start(counts: NDArray[np.float64], low: Array, width: Array, size: int) -> Array:
    """Entries whose density is the cube root of the values' (Panter and Dite), [G, T]."""
    coarse = 32  # bins that are one here: the cube root of single values would count values
    density = np.cbrt(counts.reshape(len(counts), -1, coarse).sum(2))
    reached = np.cumsum(density, 1)
    wanted = (np.arange(size) + 0.5) / size
    tables = np.empty((len(counts), size), np.float32)
    for group in range(len(counts)):
        at = np.searchsorted(reached[group], wanted * reached[group, -1])
        tables[group] = low[group] + (at + 0.5) * coarse * width[group]
    return tables


def _running(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G, B + 1]: sums of all bins before each."""
    return np.concatenate([np.zeros((len(sums), 1)), np.cumsum(sums, 1)], 1)


def _centers(
    tables: Array,
    counts: NDArray[np.float64],
    sums: NDArray[np.float64],
    low: Array,
    width: Array,
) -> Array:
    """One round over bins: means of the cells around `tables`."""
    middles = (tables[:, 1:] + tables[:, :-1]) / 2
    edges = np.empty((len(tables), tables.shape[1] + 1), np.intp)
    edges[:, 0], edges[:, -1] = 0, BINS
    edges[:, 1:-1] = np.clip(np.rint((middles - low) / width), 0, BINS)
    inside = np.diff(np.take_along_axis(counts, edges, 1), axis=1)
    total = np.diff(np.take_along_axis(sums, edges, 1), axis=1)
    moved = np.where(inside > 0, total / np.where(inside > 0, inside, 1), tables)
    for group in np.flatnonzero((inside <= 0).any(1)):
        moved[group] = _refilled(
            moved[group], inside[group], counts[group], edges[group], low[group], width[group]
        )
    return np.sort(moved.astype(np.float32), axis=1)


def _refilled(
    table: NDArray[np.float64],
    inside: NDArray[np.float64],
    counts: NDArray[np.float64],
    edges: NDArray[np.intp],
    low: Array,
    width: Array,
) -> NDArray[np.float64]:
    """A table whose empty cells go to where the widest full ones are, halving them."""
    spans = np.zeros(len(table))
    ends = np.empty((len(table), 2))
    for cell in np.flatnonzero(inside > 0):
        # From the first to the last bin with a value in it.
        first = np.searchsorted(counts, counts[edges[cell]], side="right") - 1
        last = np.searchsorted(counts, counts[edges[cell + 1]], side="left")
        spans[cell], ends[cell] = last - first - 1, (first, last)
    table = table.copy()
    for empty in np.flatnonzero(inside <= 0):
        widest = int(spans.argmax())
        if spans[widest] <= 0:
            break
        first, last = low + (ends[widest] + (0.5, -0.5)) * width
        table[widest], table[empty] = first, last
        spans[widest] = 0
    return table


def _means(ids: NDArray[np.uint8], values: Array, weights: Array, tables: Array) -> Array:
    """Weighted means of the values of each id, [G, T]; an entry without values stays."""
    moved = tables.copy()
    for group in range(len(ids)):
        own, places = _own(weights, group, values.shape[1]), ids[group].astype(np.intp)
        inside = np.bincount(places, own, tables.shape[1])
        total = np.bincount(places, own * values[group], tables.shape[1])
        full = inside > 0
        moved[group, full] = total[full] / inside[full]
    return np.sort(moved, axis=1)


def _own(weights: Array, group: int, number: int) -> NDArray[np.float64]:
    """Weights of one group's values, [N]."""
    return np.broadcast_to(weights[group % len(weights)], number).astype(np.float64)
