"""A model's weights as a Core ML package holds them: tables as tables, the rest in float16.

Nothing is rounded anew but numbers to float16: ids, tables, integers and scales stay as they are.

Shapes. O rows (outputs), I columns (inputs), G groups of rows, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from afm_mlx.decoder.adapter_formats import layers_of
from afm_mlx.decoder.adapters import check_factors, read_adapter, read_adapter_facts
from afm_mlx.decoder.checkpoint import read_palette, read_tensors, tensor_shapes
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.palette import INT8_BITS, linears, unpack
from afm_mlx.decoder.palette_format import EMBEDDING, PaletteFormat
from afm_mlx.export.dense import rounded
from afm_mlx.export.targets import Source
from afm_mlx.settings.sections import Shape

Array = np.ndarray[Any, Any]

HEAD_ROWS = 16_384
"""Most rows of the embedding in one piece: wider outputs are reported to leave the Neural Engine.
Source: reports of others, not seen by us."""


@dataclass(frozen=True)
class Matrix:
    """A weight [O, I] as the package holds it."""

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
    """An adapter as functions of the package have it."""

    name: str
    factors: Mapping[str, Factors]
    """By the layer's name."""


@dataclass(frozen=True)
class Part:
    """Blocks that are in one package; the first has the embedding, too, and what scores with it."""

    number: int
    """From 0."""
    count: int
    """Parts of the model."""
    layers: range

    @property
    def is_first(self) -> bool:
        """Whether it takes ids."""
        return self.number == 0

    @property
    def is_last(self) -> bool:
        """Whether it gives the state of the last token that counts, or its logits."""
        return self.number == self.count - 1


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
            name = f"{layer}.weight"
            return Matrix(np.array(rounded(name, self._tensors[name], mx.float16)), None, 16)
        ids = self._tensors[f"{layer}.ids"]
        if bits == INT8_BITS:
            scales = np.array(self._tensors[f"{layer}.scales"])[:, None]
            return Matrix(np.array(ids), scales, bits)
        columns = tensor_shapes(self.shape)[f"{layer}.weight"][1]
        unpacked = np.array(unpack(ids, bits, columns).astype(mx.uint8))
        return Matrix(unpacked, np.array(self._tensors[f"{layer}.tables"]), bits)

    def gain(self, layer: str) -> Array:
        """Gain of a norm, [I] float16."""
        name = f"{layer}.weight"
        return np.array(rounded(name, self._tensors[name], mx.float16))

    def pieces(self) -> list[tuple[int, Matrix]]:
        """First row and rows of each piece of the embedding."""
        whole = self.matrix(EMBEDDING)
        return [(start, whole.rows(start, end)) for start, end in pieces(self.shape.vocab_size)]


def pieces(rows: int) -> list[tuple[int, int]]:
    """First row and end of each piece of an embedding: few pieces, nearly alike in size."""
    count = -(-rows // HEAD_ROWS)
    ends = [rows * (number + 1) // count for number in range(count)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


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
