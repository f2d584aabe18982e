"""An `.aimodel` in Apple's own runtime, driven as Apple's language-model runner drives it.

On macOS 27 that is the system's. Elsewhere it is the one in coreai-core, for the CPU. That one
computes products of float16 matrices number by number, 30 times slower than of float32. So there,
the program that is read back from the file gets its matrix products in float32, nothing else; and
each function of the file is called once as it stands, and must give the same.

Source. CM: apple/coreai-models 86b363d,
swift/Sources/CoreAILanguageModels/InferenceEngines/CoreAIStaticShapeEngine.swift.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
from afm_mlx.export.verify import Logits

NEAR = 0.05
"""Largest difference between a function as it stands and with products in float32, as a share of
the norm of its result. Ours: rounding gave 0.003 on afm-tiny, a wrong weight gives about 1."""

_Arrays = Mapping[str, Any]


class CoreAiRuntime:
    """One adapter of an exported folder, or its model without one."""

    is_stand_in = False

    def __init__(self, folder: Path, adapter: str) -> None:
        bundle = read_bundle(folder)
        self.sizes, self.context_tokens = bundle.sizes, bundle.sizes.context
        self._prefix = bundle.variants[adapter]
        queries = self.sizes.queries
        self.name = f"Core AI (coreai-core {version('coreai-core')})"
        own = runtime._use_os_coreai
        self.name += f", macOS {platform.mac_ver()[0]}" if own else ", CPU, products in float32"
        file = folder / bundle.asset
        self._functions, as_they_stand = _opened(file, _digest(file))
        self._unchecked = {} if own else dict(as_they_stand)
        shape = self._functions[self._layers(EXTEND, queries[0])].desc.state_descriptor(KEYS).shape
        self._states = {
            name: NDArray(np.zeros(tuple(shape), np.float16)) for name in (KEYS, VALUES)
        }
        self._table = self._call(LOAD, {})[TABLE]
        self._ids: list[int] = []

    def prompt_ids(self, text: str, *, chats: bool) -> Sequence[int] | None:
        """None: its tokenizer files are copies of the model's."""
        return None

    def reset(self) -> None:
        """Forget what was read. As in the runner, the cache keeps its numbers: none are seen."""
        self._ids = []

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Read a prompt; what comes next."""
        return self._read(ids)

    def step(self, token: int) -> Logits:
        """Read one more token; what comes next."""
        return self._read([token])

    def _read(self, ids: Sequence[int]) -> Logits:
        """Read tokens in calls of fixed size that start at multiples of it, as the runner does.

        So tokens that were read before are read once more, up to the beginning of their call.
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
            _compare(name, {**as_it_stands, **before}, {**found, **states})
        return found


def _run(function: Any, given: _Arrays, states: _Arrays) -> _Arrays:
    async def call() -> _Arrays:
        return await function(dict(given), state=dict(states))

    return asyncio.run(call())


def _compare(name: str, first: _Arrays, second: _Arrays) -> None:
    """Raise unless a function gives the same as it stands and with products in float32."""
    for key, array in first.items():
        one, other = (np.array(each.numpy(), np.float64) for each in (array, second[key]))
        error, size = float(np.linalg.norm(one - other)), float(np.linalg.norm(one))
        if not error <= NEAR * size:
            raise ExportError(
                f"function '{name}' gives another '{key}' as it stands than with matrix products "
                f"in float32: off by {error:.2g}, of {size:.2g}"
            )


@lru_cache(maxsize=1)  # an export is verified once for each adapter
def _opened(file: Path, digest: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """All functions by name, fast and as they stand; on macOS 27 both are the same.

    Raises:
        ExportError: the runtime refuses the file.
    """
    try:
        asset = authoring.AIModelAsset.load(file)
        with _calm():
            as_they_stand = _load(asset)
            fast = as_they_stand if runtime._use_os_coreai else _fast(asset)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise ExportError(f"Core AI cannot open {file.name}: {first}") from None
    return fast, as_they_stand


def _digest(file: Path) -> str:
    """Hash of all that an `.aimodel` holds."""
    found = hashlib.sha256()
    for each in sorted(file.rglob("*")):
        if each.is_file():
            with each.open("rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()


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


@contextmanager
def _calm() -> Iterator[None]:
    """Keep the runtime's own lines about each function from the terminal."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
