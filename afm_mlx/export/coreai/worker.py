"""The process in which Apple's runtime runs an `.aimodel`, as Apple's language-model runner does.

    python -m afm_mlx.export.coreai.worker FOLDER ADAPTER

It is a process of its own, because that runtime ends its process where a file is damaged, and now
and then when Python ends before its threads do (coreai-core 1.0.0b3). `runtime.py` talks to it.

On macOS 27 the runtime is the system's. Elsewhere it is the one in coreai-core, for the CPU. That
one computes products of float16 matrices number by number, 30 times slower than of float32. So
there, the program that is read back from the file gets its matrix products in float32, nothing
else; and each function of the file is called once as it stands, and must give the same.

Source. CM: apple/coreai-models 86b363d,
swift/Sources/CoreAILanguageModels/InferenceEngines/CoreAIStaticShapeEngine.swift.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import coreai.authoring as authoring  # must be imported before coreai._compiler
import numpy as np
from coreai import runtime
from coreai._compiler.dialects import coreai as ops
from coreai._compiler.ir import InsertionPoint, Location
from coreai.runtime import NDArray

from afm_mlx.errors import ExportError
from afm_mlx.export.coreai.bundle import (
    EXTEND,
    GATHER,
    LOAD,
    PROMPT,
    function_name,
    read_bundle,
)
from afm_mlx.export.coreai.program import (
    GATHERED,
    INPUT,
    KEYS,
    LOGITS,
    MASK,
    MASKED,
    POSITIONS,
    STEP,
    TABLE,
    TOKENS,
    VALUES,
)
from afm_mlx.export.tables import Array
from afm_mlx.export.verify import Logits

NEAR = 0.05
"""Largest difference between a function as it stands and with products in float32, as a share of
the norm of its result. Ours: rounding gave 0.003 on afm-tiny, a wrong weight gives about 1."""

_Arrays = Mapping[str, Any]


class Engine:
    """One adapter of an exported folder, or its model without one."""

    def __init__(self, folder: Path, adapter: str) -> None:
        bundle = read_bundle(folder)
        self.sizes, self.context_tokens = bundle.sizes, bundle.sizes.context
        self._prefix = bundle.variants[adapter]
        queries = self.sizes.queries
        self.name = f"Core AI (coreai-core {version('coreai-core')})"
        own = runtime._use_os_coreai
        self.name += f", macOS {platform.mac_ver()[0]}" if own else ", CPU, products in float32"
        try:
            asset = authoring.AIModelAsset.load(folder / bundle.asset)
            as_they_stand = _load(asset)
            self._functions = as_they_stand if own else _fast(asset)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise ExportError(f"Core AI cannot open {bundle.asset}: {first}") from None
        self._unchecked = {} if own else dict(as_they_stand)
        shape = self._functions[self._layers(EXTEND, queries[0])].desc.state_descriptor(KEYS).shape
        self._states = {
            name: NDArray(np.zeros(tuple(shape), np.float16)) for name in (KEYS, VALUES)
        }
        self._table = self._call(LOAD, {})[TABLE]
        self._ids: list[int] = []

    def reset(self) -> None:
        """Forget what was read. As in the runner, the cache keeps its numbers: none are seen."""
        self._ids = []

    def read(self, ids: Sequence[int]) -> Logits:
        """Logits [V] after further tokens.

        They are read in calls of fixed size, which start at multiples of it, as the runner does. So
        tokens that were read before are read once more, from the beginning of their call.
        """
        at, queries = len(self._ids), self.sizes.queries
        self._ids += ids
        total, logits = len(self._ids), None
        while at < total:
            left = total - at
            query = next((each for each in queries if each >= left), queries[-1])
            start = at // query * query
            tokens = self._ids[start : start + query]
            role = PROMPT if left > queries[-1] else EXTEND
            logits = self._layer_call(role, query, start, tokens)
            at = start + len(tokens)
        assert logits is not None
        return logits

    def _layer_call(self, role: str, query: int, start: int, tokens: Sequence[int]) -> Logits:
        padded = np.zeros((1, query), np.int32)
        padded[0, : len(tokens)] = tokens
        mask = np.full((1, self.context_tokens, 1, query), MASKED, np.float16)
        for place in range(len(tokens)):
            mask[0, : start + place + 1, 0, place] = 0
        name = self._layers(role, query)
        given = {
            INPUT: self._call(f"{GATHER}_{query}", {TOKENS: NDArray(padded), TABLE: self._table})[
                GATHERED
            ],
            POSITIONS: NDArray(np.arange(start, start + query, dtype=np.uint16)[None]),
            STEP: NDArray(np.array([start], np.int32)),
            MASK: NDArray(mask),
        }
        if TABLE in self._functions[name].desc.input_names:
            given[TABLE] = self._table
        found = self._call(name, given)[LOGITS].numpy()
        if role == PROMPT:
            return np.zeros(0, np.float32)
        return np.array(found.reshape(query, -1)[len(tokens) - 1], np.float32)

    def _layers(self, role: str, query: int) -> str:
        return function_name(role, self.sizes, query, self._prefix)

    def _call(self, name: str, given: _Arrays) -> _Arrays:
        states = self._states if INPUT in given else {}
        before = {key: NDArray(np.array(state.numpy())) for key, state in states.items()}
        found = _run(self._functions[name], given, states)
        if (unchecked := self._unchecked.pop(name, None)) is not None:
            as_it_stands = _run(unchecked, given, before)
            check_same(
                name,
                {key: each.numpy() for key, each in {**as_it_stands, **before}.items()},
                {key: each.numpy() for key, each in {**found, **states}.items()},
            )
        return found


def _run(function: Any, given: _Arrays, states: _Arrays) -> _Arrays:
    async def call() -> _Arrays:
        return await function(dict(given), state=dict(states))

    return asyncio.run(call())


def check_same(name: str, first: Mapping[str, Array], second: Mapping[str, Array]) -> None:
    """Raise ExportError unless a function gives the same as it stands and with other products."""
    for key, array in first.items():
        one, other = array.astype(np.float64), second[key].astype(np.float64)
        error, size = float(np.linalg.norm(one - other)), float(np.linalg.norm(one))
        if not error <= NEAR * size:
            raise ExportError(
                f"function '{name}' gives another '{key}' as it stands than with matrix products "
                f"in float32: off by {error:.2g}, of {size:.2g}"
            )


def _load(asset: Any) -> dict[str, Any]:
    async def load() -> dict[str, Any]:
        async with asset.executable() as model:
            return {name: model.load_function(name) for name in model.function_names}

    return asyncio.run(load())


def _fast(asset: Any) -> dict[str, Any]:
    """The functions of a file with their matrix products in float32."""
    program = asset.program
    module = program._module._mlir_module
    with module.context, Location.unknown():
        for graph in module.body.operations:
            for op in list(graph.regions[0].blocks[0].operations):
                if op.operation.name.endswith("batch_matmul"):
                    with InsertionPoint(op):
                        wide = (ops.cast(each, dtype=np.float32) for each in op.operands)
                        product = ops.cast(ops.broadcasting_batch_matmul(*wide), dtype=np.float16)
                    op.operation.results[0].replace_all_uses_with(product)
                    op.operation.erase()
    with tempfile.TemporaryDirectory() as folder:
        return _load(program.save_asset(Path(folder) / "fast.aimodel"))


def serve(folder: Path, adapter: str, asked: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests, a line of JSON each, with a line of JSON, and the logits behind it.

    {"reset": true}         {}
    {"read": [5, 7]}        {"logits": 4096}, and 4 bytes for each
    anything that fails     {"error": "..."}, and no more
    """

    def answer(facts: Mapping[str, Any]) -> None:
        answers.write(json.dumps(facts).encode() + b"\n")
        answers.flush()

    try:
        engine = Engine(folder, adapter)
        answer({"name": engine.name, "context_tokens": engine.context_tokens})
        for line in asked:
            request = json.loads(line)
            if "reset" in request:
                engine.reset()
                answer({})
                continue
            logits = engine.read(request["read"])
            answer({"logits": logits.size})
            answers.write(logits.astype("<f4").tobytes())
            answers.flush()
    except ExportError as error:
        answer({"error": str(error)})


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as kept:
        os.dup2(2, 1)  # what the runtime prints does not come between
        serve(Path(sys.argv[1]), sys.argv[2], sys.stdin.buffer, kept)
