"""A model's weights as Core AI holds them: tables, integers, or numbers in float16.

Shapes. O rows (outputs) and I columns (inputs) of a matrix, G groups of rows, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from afm_mlx.decoder.adapters import check_factors, read_adapter
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.decoder.decoder import llama3_wavelengths, named_parameters
from afm_mlx.decoder.palette import PaletteLinear, linears, unpack
from afm_mlx.decoder.palette_format import EMBEDDING
from afm_mlx.export.dense import parts, rounded
from afm_mlx.export.targets import Source
from afm_mlx.settings.sections import Shape

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tables:
    """Ids into tables of 2**bits values, one for each group of rows."""

    bits: int
    ids: Array
    """[O, I] uint8, below 2**bits."""
    tables: Array
    """[G, 2**bits] float16."""


@dataclass(frozen=True)
class Integers:
    """Integers, and what a step of each row is worth."""

    ids: Array
    """[O, I] int8."""
    scales: Array
    """[O] float16."""


@dataclass(frozen=True)
class Numbers:
    """Plain numbers."""

    values: Array
    """[O, I] float16."""


Matrix = Tables | Integers | Numbers


@dataclass(frozen=True)
class AdapterWeights:
    """Factors of one adapter, by the layer's name: the scale is in the second."""

    name: str
    factors: Mapping[str, tuple[Array, Array]]
    """[r, I] and [O, r], float16: both as matrices that are multiplied from the left."""


@dataclass(frozen=True)
class Weights:
    """All of a model, and its adapters beside it."""

    shape: Shape
    matrices: Mapping[str, Matrix]
    """Linear layers and the embedding, by name."""
    gains: Mapping[str, Array]
    """Of the norms, float16, by name."""
    adapters: tuple[AdapterWeights, ...]


def read_weights(source: Source) -> Weights:
    """Read a model and its adapters.

    Raises:
        ExportError: a number is too large for float16.
        ModelError: the model or an adapter is damaged, or an adapter is of another base.
    """
    model = open_checkpoint(source.folder)
    layers: dict[str, nn.Module] = linears(model) | {EMBEDDING: model.model.embed_tokens}
    gains = {
        name.removesuffix(".weight"): _half(name, array)
        for name, array in named_parameters(model).items()
        if parts(name) == "norms"
    }
    return Weights(
        shape=source.shape,
        matrices={name: _matrix(name, layer) for name, layer in layers.items()},
        gains=gains,
        adapters=tuple(_adapter(folder, source, linears(model)) for folder in source.adapters),
    )


def rotation_angles(shape: Shape, tokens: int) -> Array:
    """[tokens, E / 2] float64: how far each pair of a head of E is turned at each position."""
    pairs = np.arange(0, shape.head_dim, 2) / shape.head_dim
    periods = shape.rope_base**pairs
    if shape.rope_scaling is not None:
        found = llama3_wavelengths(shape.head_dim, shape.rope_base, shape.rope_scaling)
        periods = np.array(found, np.float64)
    return np.arange(tokens)[:, None] / periods


def _matrix(name: str, layer: Any) -> Matrix:
    if isinstance(layer, PaletteLinear):
        ids = unpack(layer.ids, layer.bits, layer.in_features).astype(mx.uint8)
        return Tables(layer.bits, np.array(ids), _half(name, layer.tables))
    if hasattr(layer, "scales"):
        return Integers(np.array(layer.ids), _half(name, layer.scales))
    return Numbers(_half(name, layer.weight))


def _adapter(folder: Path, source: Source, found: Mapping[str, nn.Module]) -> AdapterWeights:
    read = read_adapter(folder, source.folder)
    check_factors(read.arrays, found, read.facts.name)
    factors = {}
    for layer in found:
        if (first := f"{layer}.lora_a") not in read.arrays:
            continue
        second = f"{layer}.lora_b"
        scaled = read.facts.scale * read.arrays[second].astype(mx.float32)
        factors[layer] = (_half(first, read.arrays[first].T), _half(second, scaled.T))
    return AdapterWeights(read.facts.name, factors)


def _half(name: str, array: mx.array) -> Array:
    return np.array(rounded(name, array.astype(mx.float32), mx.float16))
