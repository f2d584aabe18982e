"""What a palettized checkpoint holds: which layers are look-ups, of how many bits, as what tensors.

A palettized layer has `.ids` and `.tables`, or `.ids` and `.scales` at 8 bits, in place of
`.weight`. Its config.json says which, in a table that names our method:

    "quantization_config": {
      "quant_method": "afm_palette", "group_rows": 16,
      "bits": {"model.layers.0.self_attn.q_proj": 4, "model.embed_tokens": 8}
    }
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from afm_mlx.decoder.config import QUANT_METHOD
from afm_mlx.decoder.decoder import Decoder, named_parameters
from afm_mlx.decoder.palette import (
    EMBEDDING,
    INT8_BITS,
    PALETTE_BITS,
    WORD_BITS,
    Int8Embedding,
    Int8Linear,
    PaletteLinear,
    linears,
    replace_linears,
)
from afm_mlx.decoder.weights import TensorFact
from afm_mlx.errors import ModelError
from afm_mlx.settings.sections import Shape


@dataclass(frozen=True)
class PaletteFormat:
    """Which layers of a model are palettized, and how."""

    group_rows: int
    """Rows of a weight that share one table."""
    bits: Mapping[str, int]
    """Bits of a weight, 2, 4 or 8, by the layer's name. Layers that are not named are dense."""

    def as_config(self) -> dict[str, Any]:
        """The table `quantization_config` of config.json."""
        return {
            "quant_method": QUANT_METHOD,
            "group_rows": self.group_rows,
            "bits": dict(self.bits),
        }


@dataclass(frozen=True)
class Wanted:
    """What a tensor of a checkpoint must be."""

    shape: tuple[int, ...]
    format: str | None
    """Name in safetensors; None for float32, bfloat16 or float16."""


def format_of_config(config: Mapping[str, Any], shape: Shape, where: str) -> PaletteFormat | None:
    """What a config.json says of palettized layers; None when all are dense.

    Args:
        config: the parsed config.json.
        shape: of the model, which decides what layers there are.
        where: the file's name, for messages.

    Raises:
        ModelError: the table is not one that we write.
    """
    table = config.get("quantization_config")
    if not isinstance(table, dict) or table.get("quant_method") != QUANT_METHOD:
        return None
    where = f"{where}: quantization_config"
    group_rows, bits = table.get("group_rows"), table.get("bits")
    if not isinstance(group_rows, int) or isinstance(group_rows, bool) or group_rows < 1:
        raise ModelError(f"{where}: group_rows is '{group_rows}', not a number of rows")
    if not isinstance(bits, dict) or not bits:
        raise ModelError(f"{where}: bits is '{bits}', not a table of layers")
    known = {*linears(Decoder(shape)), EMBEDDING}
    for name, each in bits.items():
        if name not in known:
            raise ModelError(f"{where}: there is no layer '{name}'")
        allowed = (INT8_BITS,) if name == EMBEDDING else (*PALETTE_BITS, INT8_BITS)
        if each not in allowed:
            raise ModelError(
                f"{where}: {name} has '{each}' bits, not {' or '.join(map(str, allowed))}"
            )
    return PaletteFormat(group_rows, dict(bits))


def format_of_model(model: Decoder) -> PaletteFormat | None:
    """How a model in memory is palettized; None when all its layers are dense.

    Raises:
        ModelError: two layers have tables of different numbers of rows.
    """
    layers = linears(model) | {EMBEDDING: model.model.embed_tokens}
    bits: dict[str, int] = {}
    group_rows: set[int] = set()
    for name, layer in layers.items():
        if isinstance(layer, PaletteLinear):
            bits[name] = layer.bits
            group_rows.add(layer.group_rows)
        elif isinstance(layer, Int8Linear | Int8Embedding):
            bits[name] = INT8_BITS
    if len(group_rows) > 1:
        raise ModelError(
            f"tables of {' and '.join(map(str, sorted(group_rows)))} rows cannot be in one model"
        )
    return PaletteFormat(group_rows.pop() if group_rows else 1, bits) if bits else None


def tensors(shape: Shape, palette: PaletteFormat | None) -> dict[str, Wanted]:
    """The tensors of a checkpoint by name, in our order. Allocates nothing."""
    wanted: dict[str, Wanted] = {}
    for name, array in named_parameters(Decoder(shape)).items():
        layer = name.removesuffix(".weight")
        bits = None if palette is None else palette.bits.get(layer)
        if palette is None or bits is None:
            wanted[name] = Wanted(array.shape, None)
            continue
        rows, columns = array.shape
        if bits == INT8_BITS:
            wanted[f"{layer}.ids"] = Wanted((rows, columns), "I8")
            wanted[f"{layer}.scales"] = Wanted((rows,), "F16")
        else:
            words, groups = -(-columns * bits // WORD_BITS), -(-rows // palette.group_rows)
            wanted[f"{layer}.ids"] = Wanted((rows, words), "U32")
            wanted[f"{layer}.tables"] = Wanted((groups, 2**bits), "F16")
    return wanted


def place(
    model: Decoder, palette: PaletteFormat, weights: Mapping[str, mx.array], dtype: mx.Dtype
) -> None:
    """Put the palettized layers of `weights` into a model; its embedding gives rows in `dtype`."""
    dense = linears(model)
    layers: dict[str, nn.Module] = {}
    for name, bits in palette.bits.items():
        ids = weights[f"{name}.ids"]
        if name == EMBEDDING:
            layers[name] = Int8Embedding(ids, weights[f"{name}.scales"], dtype=dtype)
        elif bits == INT8_BITS:
            layers[name] = Int8Linear(ids, weights[f"{name}.scales"])
        else:
            layers[name] = PaletteLinear(
                ids,
                weights[f"{name}.tables"],
                bits=bits,
                group_rows=palette.group_rows,
                in_features=dense[name].weight.shape[1],
            )
    replace_linears(model, layers)


@dataclass(frozen=True)
class StoredBits:
    """What some tensors take on disk: ids, tables and scales, or numbers."""

    bits: int
    weights: int

    @property
    def per_weight(self) -> float:
        """Bits for each weight of the model."""
        return self.bits / self.weights if self.weights else 0.0


def count_bits(shape: Shape, facts: Mapping[str, TensorFact]) -> dict[str, StoredBits]:
    """Sizes of "linears" (an untied output layer is one), "embedding", "norms" and "all".

    Args:
        shape: of the model, which decides how many weights there are.
        facts: what the headers of its files say.
    """
    weights, bits = dict.fromkeys(_PARTS, 0), dict.fromkeys(_PARTS, 0)
    for name, wanted in tensors(shape, None).items():
        weights[component_of(name)] += math.prod(wanted.shape)
    for name, fact in facts.items():
        bits[component_of(name)] += math.prod(fact.shape) * _FORMAT_BITS[fact.dtype]
    counted = {part: StoredBits(bits[part], weights[part]) for part in _PARTS}
    return counted | {"all": StoredBits(sum(bits.values()), sum(weights.values()))}


_PARTS = ("linears", "embedding", "norms")
_FORMAT_BITS = {"F32": 32, "BF16": 16, "F16": 16, "U32": 32, "I8": 8}


def component_of(tensor: str) -> str:
    """What a tensor of a checkpoint belongs to: "linears", "embedding" or "norms"."""
    layer = tensor.rpartition(".")[0]
    if layer == EMBEDDING:
        return "embedding"
    return "norms" if layer.endswith("norm") else "linears"
