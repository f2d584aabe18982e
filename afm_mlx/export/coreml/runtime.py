"""A package that answers: what calls its functions chunk by chunk, in Core ML or in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from afm_mlx.export.coreml.interpret import Functions, State
from afm_mlx.export.coreml.package import Array, Package, import_coremltools
from afm_mlx.export.verify import Logits


class Engine(Protocol):
    """What computes a package's functions over one state."""

    name: str
    is_stand_in: bool

    def reset(self) -> None:
        """Make a new state."""

    def logits(self, function: str, inputs: dict[str, Array]) -> Array:
        """What a function gives, [1, 1, V]; the state goes on."""


class NumpyEngine:
    """The package in our interpreter."""

    is_stand_in = True

    def __init__(self, file: Path, function: str, *, rounds: bool = True) -> None:
        number = "float16 between operations" if rounds else "float32"
        self.name = f"our interpreter of the saved package (NumPy, {number})"
        self._functions, self._function = Functions(Package(file), rounds=rounds), function
        self._state: State = {}

    def reset(self) -> None:
        """Make a new state."""
        self._state = self._functions.new_state(self._function)

    def logits(self, function: str, inputs: dict[str, Array]) -> Array:
        """What a function gives."""
        return self._functions.call(function, self._state, **inputs)["logits"]


class CoreMlEngine:
    """The package in Core ML itself, from macOS 15 on. Not run by us: we have no Mac."""

    is_stand_in = False

    def __init__(self, file: Path, functions: Sequence[str]) -> None:
        coremltools = import_coremltools()
        self.name = f"Core ML (coremltools {coremltools.__version__})"
        self._models = {
            name: coremltools.models.MLModel(
                str(file),
                function_name=name,
                compute_units=coremltools.ComputeUnit.CPU_AND_NE,
            )
            for name in functions
        }
        self._first = functions[0]
        self._state: Any = None

    def reset(self) -> None:
        """Make a new state, which all functions share."""
        self._state = self._models[self._first].make_state()

    def logits(self, function: str, inputs: dict[str, Array]) -> Array:
        """What a function gives."""
        return np.asarray(self._models[function].predict(inputs, state=self._state)["logits"])


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
            found = self._engine.logits(
                name,
                {
                    "input_ids": np.array([chunk + [0] * (width - len(chunk))], np.int32),
                    "position": np.array([start], np.int32),
                    "token_count": np.array([len(chunk)], np.int32),
                },
            )
            logits, read = found.reshape(-1).astype(np.float32), start + len(chunk)
        return logits

    def step(self, token: int) -> Logits:
        """Read one more token; what comes next."""
        return self.prefill([token])
