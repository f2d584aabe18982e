"""A model's weights for targets that hold tables: tables as tables, the rest in float16.

Nothing is rounded anew but numbers to float16: ids, tables, integers and scales stay as they are.

Shapes. O rows (outputs), I columns (inputs), G groups of rows, r rank, E width of one head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from afm_mlx.decoder.adapter_formats import layers_of
from afm_mlx.decoder.adapters import NONE, check_factors, read_adapter, read_adapter_facts
from afm_mlx.decoder.checkpoint import read_palette, read_tensors, tensor_shapes
from afm_mlx.decoder.decoder import Decoder, llama3_wavelengths
from afm_mlx.decoder.palette import INT8_BITS, linears, unpack
from afm_mlx.decoder.palette_format import PaletteFormat, component_of
from afm_mlx.export.dense import rounded
from afm_mlx.export.targets import Source
from afm_mlx.settings.sections import Shape

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Matrix:
    """A weight [O, I] as it is stored."""

    ids: Array
    """[O, I]: float16 values, int8 integers, or uint8 ids below 2**bits."""
    values: Array | None
    """[G, 2**bits] float16 tables, or [O, 1] float16 scales; None where the ids are the values."""
    bits: int
    """Of an id: 2, 4, 8 or 16."""

    def rows(self, start: int, end: int) -> Matrix:
        """Some rows of a matrix without tables."""
        values = None if self.values is None else self.values[start:end]
        return Matrix(self.ids[start:end], values, self.bits)


@dataclass(frozen=True)
class Factors:
    """An adapter's low-rank factors of one linear layer; its scale is in B."""

    a: Array
    """[r, I] float16."""
    b: Array
    """[O, r] float16."""


@dataclass(frozen=True)
class Adapter:
    """An adapter beside the weights."""

    name: str
    factors: Mapping[str, Factors]
    """By the layer's name."""


@dataclass
class Weights:
    """The weights of one model; each matrix is made once and then shared by all functions."""

    folder: Path
    shape: Shape
    _made: dict[str, Matrix] = field(default_factory=dict)

    @cached_property
    def _tensors(self) -> dict[str, mx.array]:
        return read_tensors(self.folder, self.shape)

    @cached_property
    def palette(self) -> PaletteFormat | None:
        """Which layers are look-ups."""
        return read_palette(self.folder, self.shape)

    def matrix(self, layer: str) -> Matrix:
        """Weight of a linear layer or of the embedding."""
        if layer not in self._made:
            self._made[layer] = self.read(layer)
        return self._made[layer]

    def read(self, layer: str) -> Matrix:
        """The same, made anew and not kept."""
        bits = None if self.palette is None else self.palette.bits.get(layer)
        if bits is None:
            return Matrix(self._half(f"{layer}.weight"), None, 16)
        ids = self._tensors[f"{layer}.ids"]
        if bits == INT8_BITS:
            return Matrix(np.array(ids), self._half(f"{layer}.scales")[:, None], bits)
        columns = tensor_shapes(self.shape)[f"{layer}.weight"][1]
        unpacked = np.array(unpack(ids, bits, columns).astype(mx.uint8))
        return Matrix(unpacked, self._half(f"{layer}.tables"), bits)

    def gain(self, layer: str) -> Array:
        """Gain of a norm, [I] float16."""
        return self._half(f"{layer}.weight")

    def _half(self, name: str) -> Array:
        return np.array(rounded(name, self._tensors[name], mx.float16))


def read_adapters(source: Source) -> list[Adapter]:
    """The adapters of a source, in its order.

    Raises:
        ModelError: one is damaged or of another base.
        ExportError: float16 cannot hold a factor once its adapter's scale is in it.
    """
    known = linears(Decoder(source.shape))
    found = []
    for folder in source.adapters:
        read = read_adapter(folder, source.folder)
        check_factors(read.arrays, known, read.facts.name)
        factors = {}
        for layer in layers_of(read.arrays):
            a, b = (read.arrays[f"{layer}.{each}"] for each in ("lora_a", "lora_b"))
            scaled = b.astype(mx.float32) * read.facts.scale
            factors[layer] = Factors(
                np.array(rounded(f"{layer}.lora_a", a, mx.float16).T),
                np.array(rounded(f"{layer}.lora_b", scaled, mx.float16).T),
            )
        found.append(Adapter(read.facts.name, factors))
    return found


def adapter_names(source: Source) -> list[str]:
    """Names of a source's adapters, in its order; factors are not looked at."""
    return [read_adapter_facts(folder).name for folder in source.adapters]


def rotation_angles(shape: Shape, tokens: int) -> Array:
    """[tokens, E / 2] float64: how far each pair of a head is turned at each position."""
    periods = float(shape.rope_base) ** (np.arange(0, shape.head_dim, 2) / shape.head_dim)
    if shape.rope_scaling is not None:
        found = llama3_wavelengths(shape.head_dim, shape.rope_base, shape.rope_scaling)
        periods = np.array(found).astype(np.float64)
    return np.asarray(np.arange(tokens)[:, None] / periods)


def rotations(shape: Shape, tokens: int) -> tuple[Array, Array]:
    """Cosines and sines of all positions, [tokens, E / 2] float16 each."""
    angles = rotation_angles(shape, tokens)
    return np.cos(angles).astype(np.float16), np.sin(angles).astype(np.float16)


def plain(name: str) -> str:
    """A name of ours as a program may have it."""
    return "".join(each if each.isalnum() and each.isascii() else "_" for each in name)


def planned_sizes(source: Source) -> Iterator[tuple[str, str, int]]:
    """Name, component and bytes of each tensor and factor, from shapes and bits alone."""
    palette = read_palette(source.folder, source.shape)
    for name, size in tensor_shapes(source.shape).items():
        bits = None if palette is None else palette.bits.get(name.removesuffix(".weight"))
        needed = 2 * math.prod(size)
        if palette is not None and bits is not None:
            values = size[0] if bits == INT8_BITS else size[0] // palette.group_rows * 2**bits
            needed = math.prod(size) * bits // 8 + 2 * values
        yield name, component_of(name), needed
    for folder in source.adapters:
        for name, array in read_adapter(folder, source.folder).arrays.items():
            yield name, "adapters", 2 * array.size


def refusals(source: Source) -> Iterator[str]:
    """What of a model no target with tables can hold, a line for each reason."""
    palette = read_palette(source.folder, source.shape)
    if palette is not None:
        for name, size in tensor_shapes(source.shape).items():
            layer = name.removesuffix(".weight")
            is_table = palette.bits.get(layer, INT8_BITS) != INT8_BITS
            if is_table and size[0] % palette.group_rows:
                yield (
                    f"{layer} has {size[0]:,} rows, not a multiple of the "
                    f"{palette.group_rows} of a table"
                )
    names = [NONE, *adapter_names(source)]
    if len({plain(name) for name in names}) < len(names):
        yield f"functions of {', '.join(names)} would have the same names"
