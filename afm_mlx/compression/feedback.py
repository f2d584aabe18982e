"""Tables with error feedback: columns are rounded in turn, and later ones make up for earlier ones.

What counts is the error of a layer's outputs on texts, tr(E M E^T) for errors E of the weight and
M = E[x x^T]. With M = (U + 1) diag(d) (U + 1)^T, U strictly upper triangular, it is the sum over
columns j of d[j] times the square of E[:, j] + E[:, :j] U[:j, j]; so each column, moved by what
the errors before it ask for, is rounded to its nearest entries. This is GPTQ without an inverse.

Sources. arXiv:2210.17323 (GPTQ), section 3; arXiv:2307.13304 (QuIP), equation 3 and theorem 6, for
this form of it. Ours: entries are not a grid's but tables, fitted to what is rounded with d as
importance; then ids one by one, and tables by least squares, descend under M.

Shapes. O rows (outputs), I columns (inputs), G groups of rows, T = 2**bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx.compression.tables import Palette, check_values, dense, fit_tables
from afm_mlx.errors import ModelError

BLOCK_COLUMNS = 64
"""Columns between two products of all errors so far with all columns to come. Ours."""

GRADIENT_STEPS = 2
"""Of conjugate gradients when tables are fitted to ids; each takes O x I x I multiplications. Ours:
on SmolLM2, eight steps give an error that differs from two steps' by less than 0.01 %."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Curvature:
    """Moments of a layer's inputs, damped, in the order of rounding, and their factors."""

    moments: Array
    """[I, I], damped; M."""

    order: NDArray[np.intp]
    """[I]: columns, the first to be rounded first. M, U and d are in this order."""

    upper: Array
    """[I, I], zero on the diagonal and below; U."""

    costs: Array
    """[I], above 0; d."""

    @staticmethod
    def of(moments: Array, *, damping: float, name: str = "matrix") -> Curvature:
        """Factors of E[x x^T] [I, I]; columns with the largest inputs come first.

        `damping` times the mean of the diagonal is added to the diagonal.

        Raises:
            ModelError: the moments are not finite, or not positive definite with so little damping.
        """
        if not np.isfinite(moments).all():
            raise ModelError(f"the inputs of {name} are not finite on the calibration texts")
        diagonal = np.diag(moments)
        order = np.argsort(-diagonal, kind="stable")
        damped = np.array(moments, np.float64)[np.ix_(order, order)]
        mean = float(diagonal.mean())
        damped[np.diag_indices_from(damped)] += damping * mean if mean > 0 else 1.0
        # Cholesky's factor is lower triangular: of the reversed matrix, it is upper when reversed.
        try:
            upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError:
            raise ModelError(
                f"the inputs of {name} leave directions open on the calibration texts, and damping "
                f"of {damping:g} does not close them",
                hint="more texts, or --set quantize.damping=0.01",
            ) from None
        scales = np.diag(upper).copy()
        upper = np.triu(upper / scales, 1).astype(np.float32)
        costs = np.square(scales).astype(np.float32)
        return Curvature(damped.astype(np.float32), order, upper, costs)


def fit_with_feedback(
    weight: Array,
    moments: Array,
    *,
    bits: int,
    group_rows: int,
    importance: Array | None = None,
    damping: float = 0.01,
    passes: int = 2,
    descents: int = 3,
    name: str = "matrix",
) -> Palette:
    """Ids and tables of a matrix that keep the squared error of its outputs small.

    Args:
        weight: [O, I].
        moments: E[x x^T] of its inputs, [I, I].
        bits: of an id.
        group_rows: rows that share a table.
        importance: what an error of each output costs, [O], among rows that share a table.
        damping: as in `Curvature.of`.
        passes: over the columns; tables are fitted anew before each.
        descents: after the passes, over the columns; each sets every id to what is best while all
            others stay, and then fits the tables to the ids by least squares.
        name: of the matrix, for errors.

    Raises:
        ModelError: the matrix or the moments are not finite, or too large for float16; or as
            `Curvature.of`.
    """
    check_values(weight, name)
    factors = Curvature.of(moments, damping=damping, name=name)
    ordered = np.ascontiguousarray(weight[:, factors.order], np.float32)
    worth = None if importance is None else importance / max(float(importance.mean()), 1e-30)
    costs = factors.costs if worth is None else np.outer(worth, factors.costs)
    rounded = ordered
    for _ in range(passes):
        tables = fit_tables(
            rounded, bits=bits, group_rows=group_rows, importance=costs, name=name
        ).tables
        ids, rounded = _pass(ordered, tables.astype(np.float32), factors, group_rows)
    for sweep in range(descents + 1):
        if sweep:
            ids = _descended(ordered, ids, tables.astype(np.float32), factors.moments, group_rows)
        tables = _refitted(ordered, ids, tables, factors.moments, worth, group_rows)
        ids, tables = _ascending(ids, tables, group_rows)
    left = ordered - dense(ids, tables, group_rows=group_rows)
    lost, total = _energy(left, factors.moments), _energy(ordered, factors.moments)
    back = np.empty_like(ids)
    back[:, factors.order] = ids
    return Palette(back, tables, lost / total if total > 0 else 0.0)


def _pass(
    weight: Array, tables: Array, factors: Curvature, group_rows: int
) -> tuple[NDArray[np.uint8], Array]:
    """Ids [O, I], and what was rounded to them [O, I]."""
    rows, columns = weight.shape
    own = np.repeat(tables, group_rows, axis=0)[:rows]  # [O, T]
    middles = np.ascontiguousarray(((own[:, 1:] + own[:, :-1]) / 2).T)  # [T - 1, O]
    starts = np.arange(rows) * own.shape[1]
    flat = own.reshape(-1)
    errors = np.zeros((columns, rows), np.float32)  # by columns, so that one is contiguous
    rounded = np.empty((columns, rows), np.float32)
    ids = np.empty((columns, rows), np.uint8)
    for first in range(0, columns, BLOCK_COLUMNS):
        end = min(first + BLOCK_COLUMNS, columns)
        rounded[first:end] = weight[:, first:end].T
        if first:
            rounded[first:end] += factors.upper[:first, first:end].T @ errors[:first]
        for column in range(first, end):
            value = rounded[column]
            value += factors.upper[first:column, column] @ errors[first:column]
            chosen = (value > middles).sum(0, dtype=np.uint8)
            ids[column] = chosen
            errors[column] = weight[:, column] - flat[starts + chosen]
    return np.ascontiguousarray(ids.T), np.ascontiguousarray(rounded.T)


def _descended(
    weight: Array,
    ids: NDArray[np.uint8],
    tables: Array,
    moments: Array,
    group_rows: int,
) -> NDArray[np.uint8]:
    """Ids [O, I] of no greater output error: each in turn is the best one, if all others stay."""
    rows, columns = weight.shape
    own = np.repeat(tables, group_rows, axis=0)[:rows]
    middles = np.ascontiguousarray(((own[:, 1:] + own[:, :-1]) / 2).T)
    starts, flat = np.arange(rows) * own.shape[1], own.reshape(-1)
    found = np.ascontiguousarray(ids.T)
    values = flat[starts + found]  # [I, O]
    pulls = np.array(mx.array(moments) @ mx.array(weight.T - values))  # [I, O], M E^T
    for first in range(0, columns, BLOCK_COLUMNS):
        end = min(first + BLOCK_COLUMNS, columns)
        moved = np.zeros((end - first, rows), np.float32)
        for column in range(first, end):
            pull = pulls[column] - moments[column, first:end] @ moved
            wanted = values[column] + pull / moments[column, column]
            found[column] = (wanted > middles).sum(0, dtype=np.uint8)
            moved[column - first] = flat[starts + found[column]] - values[column]
        pulls[end:] -= moments[end:, first:end] @ moved
    return np.ascontiguousarray(found.T)


def _ascending(
    ids: NDArray[np.uint8], tables: NDArray[np.float16], group_rows: int
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """The same palette, with entries in ascending order."""
    order = np.argsort(tables, axis=1, kind="stable")
    places = np.argsort(order, axis=1).astype(np.uint8)
    groups = np.arange(len(ids)) // group_rows
    return places[groups[:, None], ids], np.take_along_axis(tables, order, 1)


def _refitted(
    weight: Array,
    ids: NDArray[np.uint8],
    tables: NDArray[np.float16],
    moments: Array,
    worth: Array | None,
    group_rows: int,
) -> NDArray[np.float16]:
    """Tables of least output error for given ids, by conjugate gradients on all groups at once."""
    size = tables.shape[1]
    places = ids + (np.arange(len(ids)) // group_rows * size)[:, None]
    product = mx.array(moments)
    rows = np.ones(len(ids)) if worth is None else worth

    def summed(values: Array) -> NDArray[np.float64]:
        shares = np.multiply(values, rows[:, None]).reshape(-1)
        sums = np.bincount(places.reshape(-1), shares, tables.size).astype(np.float64, copy=False)
        return sums.reshape(-1, size)

    def applied(values: Array) -> Array:
        return np.array(mx.array(values) @ product)

    found = tables.astype(np.float64)
    left = weight - found.astype(np.float32).reshape(-1)[places]
    scale = np.maximum(summed(np.broadcast_to(np.diag(moments), ids.shape)), 1e-30)
    residual = summed(applied(left))
    guess = residual / scale
    direction, steepness = guess, (residual * guess).sum(1, keepdims=True)
    for _ in range(GRADIENT_STEPS):
        moved = summed(applied(direction.astype(np.float32).reshape(-1)[places]))
        bend = (direction * moved).sum(1, keepdims=True)
        length = np.where(bend > 0, steepness / np.where(bend > 0, bend, 1), 0)
        found += length * direction
        residual = residual - length * moved
        guess = residual / scale
        before, steepness = steepness, (residual * guess).sum(1, keepdims=True)
        ratio = np.where(before > 0, steepness / np.where(before > 0, before, 1), 0)
        direction = guess + ratio * direction
    return found.astype(np.float16)


def _energy(left: Array, moments: Array) -> float:
    """tr(E M E^T)."""
    return float(np.sum(left * np.array(mx.array(left) @ mx.array(moments)), dtype=np.float64))
