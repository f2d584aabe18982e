"""What packages of a model are to hold: how it is cut, sizes, and each array one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from afm_mlx.decoder.checkpoint import TOKENIZER_FILES, tensor_shapes
from afm_mlx.decoder.palette import EMBEDDING, INT8_BITS
from afm_mlx.decoder.palette_format import component_of
from afm_mlx.export.coreml.package import INLINE_NUMBERS, Array, Package, constants, is_stored
from afm_mlx.export.coreml.parts import Part, pieces
from afm_mlx.export.tables import Weights, plain, planned_sizes, read_adapters, rotations
from afm_mlx.export.targets import Size, Source
from afm_mlx.settings.export import CoreMl
from afm_mlx.settings.sections import Shape

COMPONENTS = ("embedding", "linears", "norms", "adapters", "positions")
"""Of weight.bin, but for what it says of its arrays."""


def context_of(source: Source, settings: CoreMl) -> int:
    """Tokens that a package's cache has room for."""
    return min(settings.context_tokens, source.shape.max_tokens)


def cut(source: Source, settings: CoreMl) -> list[Part]:
    """The parts of a model: each as many layers as fit into `package_bytes`, one at least."""
    held: dict[int | None, int] = {}
    for name, _, size in planned_sizes(source):
        held[_layer(name)] = held.get(_layer(name), 0) + size
    starts, filled = [0], held[None]
    for layer in range(source.shape.num_layers):
        size = held[layer]
        if layer > starts[-1] and filled + size > settings.package_bytes:
            starts.append(layer)
            filled = 0
        filled += size
    ends = [*starts[1:], source.shape.num_layers]
    return [
        Part(number, len(starts), range(start, end))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def planned_bytes(source: Source, settings: CoreMl) -> dict[str, int]:
    """What each component takes in weight files, from shapes and bits alone."""
    context, count = context_of(source, settings), len(cut(source, settings))
    planned = dict.fromkeys(COMPONENTS, 0)
    for _, component, size in planned_sizes(source):
        planned[component] += size
    # Cosines and sines of half a head in float16, then counters in int32, in every package.
    numbers = (context, *{settings.decode_tokens, settings.prefill_tokens})
    counters = [each for each in numbers if each >= INLINE_NUMBERS]
    planned["positions"] = count * (2 * context * source.shape.head_dim + 4 * sum(counters))
    return planned


def sizes(
    folder: Path, packages: Sequence[Package], source: Source, settings: CoreMl
) -> list[Size]:
    """What an exported folder holds, beside the plan."""
    planned = planned_bytes(source, settings)
    components = {
        plain(name.removesuffix(".weight")): component_of(name)
        for name in tensor_shapes(source.shape)
    }
    found = dict.fromkeys(planned, 0)
    for package in packages:
        for name, _, _, size in package.stored():
            layer, is_factor, _ = name.partition("_lora_")
            piece = name.rpartition("_")[0]  # of the embedding
            component = components.get(layer, components.get(piece, "positions"))
            found["adapters" if is_factor else component] += size
    files = sum(package.weight_file.stat().st_size for package in packages)
    tokenizer = [folder / name for name in (*TOKENIZER_FILES, "config.json")]
    return [
        *(Size(component, found[component], planned[component]) for component in planned),
        Size("headers", files - sum(found.values()), None),
        Size("program", sum(package.program_bytes for package in packages), None),
        Size("tokenizer", sum(each.stat().st_size for each in tokenizer if each.is_file()), None),
    ]


def differences(packages: Sequence[Package], source: Source, settings: CoreMl) -> list[str]:
    """Arrays that a function has otherwise than was meant, or that are nowhere or unknown."""
    # What functions have by a name; in each weight.bin it is to be once for all of them.
    found: dict[tuple[str, str], dict[Any, tuple[Package, Any]]] = {}
    for number, package in enumerate(packages):
        for function in sorted(package.specification.mlProgram.functions):
            for operation in package.operations(function):
                for parameter, value in constants(operation).items():
                    key = operation.outputs[0].name, parameter
                    place = value.blobFileValue.offset if is_stored(value) else function
                    found.setdefault(key, {})[number, place] = package, value
    wrong = []
    for name, parameter, array in _meant(source, settings):
        held = found.pop((name, parameter), {})
        same = [_same(package.value(value), array) for package, value in held.values()]
        stored = [number for (number, _), (_, value) in held.items() if is_stored(value)]
        if not same or not all(same) or len(stored) > len(set(stored)):
            wrong.append(f"{name} ({parameter})")
    for (name, parameter), held in found.items():
        if any(is_stored(value) for _, value in held.values()):
            wrong.append(f"{name} ({parameter})")
    return wrong


def _layer(name: str) -> int | None:
    """Number of a tensor's layer; None outside of the layers."""
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else None


def _meant(source: Source, settings: CoreMl) -> Iterator[tuple[str, str, Array]]:
    """Name, parameter and values of each array, one after the other."""
    shape, weights = source.shape, Weights(source.folder, source.shape)
    for tensor in tensor_shapes(shape):
        layer = tensor.removesuffix(".weight")
        if component_of(tensor) == "norms":
            yield plain(layer), "val", weights.gain(layer)
            continue
        matrix = weights.read(layer)
        ends = pieces(shape.vocab_size) if layer == EMBEDDING else []
        named = {f"{layer}.{number}": matrix.rows(*each) for number, each in enumerate(ends)}
        for name, each in (named or {layer: matrix}).items():
            if each.values is None:
                yield plain(name), "val", each.ids
                continue
            parameters = ("data", "scale") if each.bits == INT8_BITS else ("indices", "lut")
            yield plain(name), parameters[0], each.ids
            yield plain(name), parameters[1], each.values
    for adapter in read_adapters(source):
        for layer, factors in adapter.factors.items():
            for which, factor in (("a", factors.a), ("b", factors.b)):
                yield f"{plain(layer)}_lora_{which}_{plain(adapter.name)}", "val", factor
    yield from _positions(shape, settings, context_of(source, settings))


def _positions(shape: Shape, settings: CoreMl, context: int) -> Iterator[tuple[str, str, Array]]:
    for name, table in zip(("cosines", "sines"), rotations(shape, context), strict=True):
        yield f"rotation_{name}", "val", table
    yield "slots", "val", np.arange(context, dtype=np.int32)
    for tokens in {settings.decode_tokens, settings.prefill_tokens}:
        yield f"offsets_{tokens}", "val", np.arange(tokens, dtype=np.int32)


def _same(found: Array, meant: Array) -> bool:
    return found.dtype == meant.dtype and np.array_equal(found.ravel(), meant.ravel())
