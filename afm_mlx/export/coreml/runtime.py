"""Packages that answer: what calls functions chunk by chunk, in Core ML or in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from afm_mlx.export.coreml.interpret import Functions, State
from afm_mlx.export.coreml.package import Array, Package, import_coremltools
from afm_mlx.export.coreml.program import HEAD, LAST
from afm_mlx.export.verify import Logits


class Engine(Protocol):
    """What computes functions of a model's packages, each with a state of its own."""

    name: str
    is_stand_in: bool
    num_packages: int

    def reset(self) -> None:
        """Make new states."""

    def call(self, package: int, function: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """What a function gives; the state of its package goes on."""


class NumpyEngine:
    """The packages in our interpreter."""

    is_stand_in = True

    def __init__(self, files: Sequence[Path], function: str, *, rounds: bool = True) -> None:
        """`function` is one of those that will be called: it declares the states."""
        number = "float16 between operations" if rounds else "float32"
        self.name = f"our interpreter of the saved package (NumPy, {number})"
        self.num_packages = len(files)
        self._packages = [Functions(Package(file), rounds=rounds) for file in files]
        self._function = function
        self._states: list[State] = []

    def reset(self) -> None:
        """Make new states."""
        self._states = [each.new_state(self._function) for each in self._packages]

    def call(self, package: int, function: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """What a function gives."""
        return self._packages[package].call(function, self._states[package], **inputs)


class CoreMlEngine:
    """The packages in Core ML itself, from macOS 15 on. Not run by us: we have no Mac."""

    is_stand_in = False

    def __init__(self, files: Sequence[Path], functions: Sequence[str]) -> None:
        """`functions`: those that will be called of each package, and `head` of the first."""
        coremltools = import_coremltools()
        self.name = f"Core ML (coremltools {coremltools.__version__})"
        self.num_packages = len(files)
        self._functions = list(functions)
        wanted = [(number, name) for number in range(len(files)) for name in functions]
        self._models = {
            (number, name): coremltools.models.MLModel(
                str(files[number]),
                function_name=name,
                compute_units=coremltools.ComputeUnit.CPU_AND_NE,
            )
            for number, name in (*wanted, *([(0, HEAD)] if len(files) > 1 else []))
        }
        self._states: list[Any] = []

    def reset(self) -> None:
        """Make new states, each shared by the functions of a package."""
        first = self._functions[0]
        self._states = [self._models[n, first].make_state() for n in range(self.num_packages)]

    def call(self, package: int, function: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """What a function gives."""
        state = {} if function == HEAD else {"state": self._states[package]}
        found = self._models[package, function].predict(inputs, **state)
        return {name: np.asarray(each) for name, each in found.items()}


class PackageRuntime:
    """The functions of one adapter, driven as every program that uses the package must do it."""

    def __init__(self, engine: Engine, widths: dict[str, int], context_tokens: int) -> None:
        """`widths`: tokens of one call by the function's name."""
        self.name, self.is_stand_in = engine.name, engine.is_stand_in
        self.context_tokens: int | None = context_tokens
        self._engine, self._context = engine, context_tokens
        self._widths = sorted(widths.items(), key=lambda each: each[1])
        self._tokens: list[int] = []

    def prompt_ids(self, text: str, *, chats: bool) -> Sequence[int] | None:
        """None: its tokenizer is a copy of the model's files."""
        return None

    def reset(self) -> None:
        """Forget what was read."""
        self._tokens = []
        self._engine.reset()

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Read a prompt; what comes next."""
        read = len(self._tokens)
        self._tokens += ids
        logits = np.zeros(0, np.float32)
        while read < len(self._tokens):
            left = len(self._tokens) - read
            # The narrowest function that takes all that is left, else the widest.
            fitting = [each for each in self._widths if each[1] >= left] or self._widths[-1:]
            name, width = fitting[0]
            # Near the end of the context, some tokens before are read again, to the same effect.
            start = min(read, self._context - width)
            chunk = self._tokens[start : start + width]
            found = self._logits(name, start, chunk, width)
            logits, read = found.reshape(-1).astype(np.float32), start + len(chunk)
        return logits

    def step(self, token: int) -> Logits:
        """Read one more token; what comes next."""
        return self.prefill([token])

    def _logits(self, function: str, start: int, chunk: list[int], width: int) -> Array:
        """Through all packages, and back to the first where there are several."""
        position = np.array([start], np.int32)
        found: dict[str, Array] = {}
        given: dict[str, Array] = {
            "input_ids": np.array([chunk + [0] * (width - len(chunk))], np.int32)
        }
        for package in range(self._engine.num_packages):
            given["position"] = position
            if package == self._engine.num_packages - 1:
                given["token_count"] = np.array([len(chunk)], np.int32)
            found = self._engine.call(package, function, given)
            given = {"hidden": found["hidden_out"]} if "hidden_out" in found else {}
        if "logits" not in found:
            found = self._engine.call(0, HEAD, {LAST: found[LAST]})
        return found["logits"]
