"""The operations that program.py writes, in NumPy, in the form in which it writes them.

Anything else is refused: another parameter, a place beyond what is there.

Sources. apple/coremltools 9.0, docs of MIL operations for iOS 15 to 18.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from afm_mlx.errors import ExportError
from afm_mlx.export.coreml.package import Array

Inputs = Mapping[str, Any]
"""Values by parameter."""


def _integers(value: Any) -> list[int]:
    return [int(each) for each in np.atleast_1d(value)]


def _only(given: Inputs, names: Iterable[str], **fixed: Any) -> None:
    """Raise unless parameters are those of ours: some that vary, some that have one value."""
    for name, value in given.items():
        if name in names:
            continue
        if name not in fixed or not np.array_equal(value, fixed[name]):
            raise ExportError(f"parameter {name} is {value}, which none of ours is")


def _reshape(given: Inputs) -> Array:
    _only(given, ("x", "shape"))
    return np.reshape(given["x"], _integers(given["shape"]))


def _transpose(given: Inputs) -> Array:
    _only(given, ("x", "perm"))
    return np.transpose(given["x"], _integers(given["perm"]))


def _expand_dims(given: Inputs) -> Array:
    _only(given, ("x", "axes"))
    return np.expand_dims(given["x"], tuple(_integers(given["axes"])))


def _concat(given: Inputs) -> Array:
    _only(given, ("values", "axis"), interleave=False)
    return np.concatenate(given["values"], int(given["axis"]))


def _cast(given: Inputs) -> Array:
    _only(given, ("x",), dtype="fp16")
    return np.asarray(given["x"]).astype(np.float32)


def _softmax(given: Inputs) -> Array:
    _only(given, ("x", "axis"))
    axis = int(given["axis"])
    powers = np.exp(given["x"] - given["x"].max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _silu(given: Inputs) -> Array:
    _only(given, ("x",))
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and the result 0
        return given["x"] / (1 + np.exp(-given["x"]))


def _layer_norm(given: Inputs) -> Array:
    _only(given, ("x", "axes", "epsilon"))
    axes, x = tuple(_integers(given["axes"])), given["x"]
    centered = x - x.mean(axes, keepdims=True)
    variance = np.square(centered).mean(axes, keepdims=True)
    return centered / np.sqrt(variance + given["epsilon"])


def _matmul(given: Inputs) -> Array:
    _only(given, ("x", "y", "transpose_x", "transpose_y"))
    x, y = given["x"], given["y"]
    x = x.swapaxes(-1, -2) if given["transpose_x"] else x
    y = y.swapaxes(-1, -2) if given["transpose_y"] else y
    return np.matmul(x, y)


def _conv(given: Inputs) -> Array:
    """A convolution of 1x1, which is a product with a matrix."""
    _only(
        given,
        ("x", "weight"),
        pad_type="valid",
        strides=[1, 1],
        dilations=[1, 1],
        groups=1,
        pad=[0, 0, 0, 0],
    )
    x, weight = given["x"], given["weight"]
    if x.shape[0] != 1 or x.shape[2] != 1 or weight.shape[2:] != (1, 1):
        raise ExportError(f"a convolution of {x.shape} with {weight.shape} is none of ours")
    return np.matmul(weight[:, :, 0, 0], x[0, :, 0])[None, :, None]


def _gather(given: Inputs) -> Array:
    _only(given, ("x", "indices", "axis"), batch_dims=0, validate_indices=False)
    x, ids, axis = given["x"], given["indices"], int(given["axis"])
    if ids.min() < 0 or ids.max() >= x.shape[axis]:
        raise ExportError(f"row {ids.min()} or {ids.max()} is looked up among {x.shape[axis]:,}")
    return np.take(x, ids, axis)


def _slices(begin: Any, end: Any, shape: tuple[int, ...]) -> tuple[slice, ...]:
    found = []
    for first, last, size in zip(_integers(begin), _integers(end), shape, strict=True):
        if not 0 <= first <= last <= size:
            raise ExportError(f"{first:,} to {last:,} is taken of {size:,}")
        found.append(slice(first, last))
    return tuple(found)


def _slice_by_size(given: Inputs) -> Array:
    _only(given, ("x", "begin", "size"))
    end = np.asarray(given["begin"]) + np.asarray(given["size"])
    return np.array(given["x"][_slices(given["begin"], end, given["x"].shape)])


def _slice_update(given: Inputs) -> Array:
    no = [False] * given["x"].ndim
    _only(
        given,
        ("x", "update", "begin", "end"),
        stride=[1] * given["x"].ndim,
        begin_mask=no,
        end_mask=no,
        squeeze_mask=no,
    )
    found = given["x"]  # its caller copies it where it must stay
    place = _slices(given["begin"], given["end"], found.shape)
    if found[place].shape != given["update"].shape:
        raise ExportError(f"{given['update'].shape} does not fit {found[place].shape}")
    found[place] = given["update"]
    return np.asarray(found)


def _lut_to_dense(given: Inputs) -> Array:
    """Ids [O, I, 1, 1] and tables [G, 1, 1, 1, 2**bits, 1], each for O / G rows."""
    _only(given, ("indices", "lut"))
    ids, tables = given["indices"], given["lut"]
    groups, *ones, entries, width = tables.shape
    if ones != [1, 1, 1] or width != 1 or ids.shape[0] % groups:
        raise ExportError(f"tables {tables.shape} for ids {ids.shape} are none of ours")
    looked_up = np.take_along_axis(
        tables.reshape(groups, entries), ids.reshape(groups, -1).astype(np.int64), axis=1
    )
    return looked_up.reshape(ids.shape)


def _shift_scale(given: Inputs) -> Array:
    """Integers [O, I, 1, 1] times scales [O, 1, 1, 1]."""
    _only(given, ("data", "scale"))
    data, scale = given["data"], given["scale"]
    if scale.shape != (data.shape[0], 1, 1, 1):
        raise ExportError(f"scales {scale.shape} for {data.shape} are none of ours")
    return data.astype(np.float32) * scale.astype(np.float32)


def _two(compute: Callable[[Array, Array], Any]) -> Callable[[Inputs], Array]:
    """An operation of x and y."""

    def call(given: Inputs) -> Array:
        _only(given, ("x", "y"))
        return np.asarray(compute(given["x"], given["y"]))

    return call


CONSTANT_OPERATIONS: Mapping[str, Callable[[Inputs], Array]] = {
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_blockwise_shift_scale": _shift_scale,
}
"""Operations that a runtime computes when it loads the package, by name."""

OPERATIONS: Mapping[str, Callable[[Inputs], Array]] = {
    "add": _two(np.add),
    "sub": _two(np.subtract),
    "mul": _two(np.multiply),
    "maximum": _two(np.maximum),
    "minimum": _two(np.minimum),
    "equal": _two(np.equal),
    "less_equal": _two(np.less_equal),
    "cast": _cast,
    "concat": _concat,
    "conv": _conv,
    "expand_dims": _expand_dims,
    "gather": _gather,
    "layer_norm": _layer_norm,
    "matmul": _matmul,
    "reshape": _reshape,
    "silu": _silu,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "softmax": _softmax,
    "transpose": _transpose,
}
"""All others by name, but for those on states."""
