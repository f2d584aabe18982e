"""What an `.aimodel` holds, read back from the file."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import coreai.authoring as authoring  # must be imported before coreai._compiler
from coreai._compiler.ir import IntegerType

from afm_mlx.export.coreai.bundle import GATHER, LOAD

_HALF_BITS = 16


def constant_bytes(file: Path, plain: Collection[str]) -> dict[str, int]:
    """Bytes of the weights by component, each counted once however many functions use it.

    Args:
        file: the `.aimodel`.
        plain: names of the functions of the layers without an adapter. What others multiply
            beside their weights are factors.

    Returns:
        Bytes of "embedding", "linears", "norms" and "adapters". Indices and the like are left out.
    """
    module = authoring.AIModelAsset.load(file).program._module._mlir_module
    graphs = {_name(graph): graph for graph in module.body.operations}
    found: dict[Any, str] = {}
    for name in sorted(graphs, key=lambda each: each not in plain):
        for op in graphs[name].regions[0].blocks[0].operations:
            for place, operand in enumerate(op.operands):
                value = _constant(operand)
                if value is None or value in found:
                    continue
                part = _part(name, op.operation.name, place, value.type)
                if part == "linears" and op.operation.name == "coreai.conv2d":
                    part = "linears" if name in plain else "adapters"
                if part is not None:
                    found[value] = part
    total: dict[str, int] = {}
    for value, part in found.items():
        total[part] = total.get(part, 0) + _bytes(value.type)
    return total


def _name(graph: Any) -> str:
    return str(graph.operation.attributes["sym_name"].value)


def _constant(operand: Any) -> Any:
    """What a constant holds, or None."""
    if not hasattr(operand.owner, "attributes"):  # an input of the function
        return None
    made_by = operand.owner
    return made_by.attributes["value"] if made_by.name == "coreai.constant" else None


def _part(function: str, op: str, place: int, kind: Any) -> str | None:
    """Component of a constant by what uses it."""
    if function == LOAD:
        return "embedding"
    if op == "coreai.gather_nd":
        return "embedding" if function.startswith(GATHER) else None
    if op == "coreai.lut_to_dense":
        return "linears" if place < 2 else None
    if op == "coreai.blockwise_shift_scale":
        return {3: "embedding", 4: "linears"}[kind.rank] if place < 2 else None
    if op == "coreai.conv2d":
        return "linears" if place == 1 else None
    if op.endswith("broadcasting_mul"):
        return "norms" if math.prod(kind.shape) > 1 else None
    return None


def _bytes(kind: Any) -> int:
    element = kind.element_type
    bits = IntegerType(element).width if IntegerType.isinstance(element) else _HALF_BITS
    return math.prod(kind.shape) * bits // 8
