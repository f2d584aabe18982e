"""The weights of a model as numbers, for targets that have no tables and no adapters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from afm_mlx.decoder.adapters import check_factors, melted, read_adapter
from afm_mlx.decoder.checkpoint import open_checkpoint, tensor_shapes
from afm_mlx.decoder.decoder import named_parameters
from afm_mlx.decoder.palette import EMBEDDING, linears
from afm_mlx.errors import ExportError
from afm_mlx.export.targets import Source


def dense_weights(source: Source) -> Iterator[tuple[str, mx.array]]:
    """Each tensor by name, float32: tables looked up, the adapter folded in.

    One after the other, so that a caller that rounds them never holds the model in float32.
    """
    model = open_checkpoint(source.folder)
    layers: dict[str, Any] = linears(model) | {EMBEDDING: model.model.embed_tokens}
    numbers = named_parameters(model)
    adapter = None
    for folder in source.adapters:  # one at most
        adapter = read_adapter(folder, source.folder)
        check_factors(adapter.arrays, linears(model), adapter.facts.name)
    for name in tensor_shapes(source.shape):
        layer = name.removesuffix(".weight")
        weight = numbers[name] if name in numbers else layers[layer].dense()
        if adapter is not None and f"{layer}.lora_a" in adapter.arrays:
            weight = melted(weight, adapter, layer)
        yield name, weight.astype(mx.float32)


def rounded(name: str, weight: mx.array, dtype: mx.Dtype) -> mx.array:
    """A weight in another number format.

    Raises:
        ExportError: it is not finite, or the format cannot hold it, as float16 what is above
            65,504.
    """
    if not mx.isfinite(weight).all().item():
        raise ExportError(f"{name} of the model has numbers that are not finite")
    found = weight.astype(dtype)
    if not mx.isfinite(found).all().item():
        largest = mx.abs(weight).max().item()
        raise ExportError(
            f"{name} has {largest:,.0f} in it, which {str(dtype).removeprefix('mlx.core.')} "
            "cannot hold",
            hint="take another number format, see afm export --list",
        )
    return found
