"""The saved package, computed in NumPy: it stands in for Core ML where that is not.

It reads what lies on the disk, knows the operations of operations.py, and refuses anything else.
Sizes are compared with those that the package declares, at every operation.

With `rounds`, each result is rounded to float16, as an engine stores it between operations, and one
that float16 cannot hold is an error; sums inside an operation are float32. Without, all numbers are
float32: then only the constants are rounded. It says nothing of where Core ML computes, how fast,
and how it rounds inside an operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from afm_mlx.errors import ExportError
from afm_mlx.export.coreml.operations import CONSTANT_OPERATIONS, OPERATIONS, Inputs
from afm_mlx.export.coreml.package import TYPES, Array, Package, constants, is_stored

State = dict[str, Array]
"""Arrays of a state by name; a call writes into it."""


class Functions:
    """Functions of a package that can be called, and share what they are made of."""

    def __init__(self, package: Package, *, rounds: bool) -> None:
        self._package, self._rounds = package, rounds
        self._made: dict[tuple[int, ...], Array] = {}
        self._known: dict[str, _Function] = {}

    def call(self, name: str, state: State, **inputs: Array) -> dict[str, Array]:
        """Outputs of a function by name; `state` becomes what the function leaves.

        Raises:
            ExportError: there is no such function, or it does what none of ours does.
        """
        if name not in self._known:
            self._known[name] = _Function(self._package, name, self._made, rounds=self._rounds)
        return self._known[name].call(state, inputs)

    def new_state(self, name: str) -> State:
        """Zeros, in the sizes that a function declares."""
        found = {}
        for each in self._package.function(name).inputs:
            if each.type.WhichOneof("type") == "stateType":
                kind = each.type.stateType.wrappedType.tensorType
                found[each.name] = np.zeros(_sizes(kind), np.float32)
        return found


@dataclass(frozen=True)
class _Step:
    """One operation, ready to be computed."""

    kind: str
    name: str
    values: Inputs
    """Constants by parameter, and a state's name."""
    names: Mapping[str, str | list[str]]
    """What earlier operations made, by parameter."""
    sizes: tuple[int, ...]
    rounds: bool


class _Function:
    def __init__(
        self, package: Package, name: str, made: dict[tuple[int, ...], Array], *, rounds: bool
    ) -> None:
        function = package.function(name)
        block = function.block_specializations[function.opset]
        self._outputs = list(block.outputs)
        self._inputs = {
            each.name: _sizes(each.type.tensorType)
            for each in function.inputs
            if each.type.WhichOneof("type") != "stateType"
        }
        self._constants: dict[str, Any] = {}
        self._steps: list[_Step] = []
        for operation in block.operations:
            self._add(package, operation, made, rounds)
        self._in_place = _in_place(self._steps)

    def call(self, state: State, inputs: Inputs) -> dict[str, Array]:
        found: dict[str, Any] = {}
        for name, sizes in self._inputs.items():
            found[name] = np.asarray(inputs[name])
            if found[name].shape != sizes:
                raise ExportError(f"input {name} is {found[name].shape}, must be {sizes}")
        for step in self._steps:
            given = dict(step.values)
            for parameter, name in step.names.items():
                given[parameter] = (
                    [self._lookup(each, found) for each in name]
                    if isinstance(name, list)
                    else self._lookup(name, found)
                )
            if step.kind == "write_state":
                state[given[_STATE]] = given["data"]
            elif step.kind == "read_state":
                found[step.name] = state[given[_STATE]]
            else:
                if step.kind == "slice_update" and step.name not in self._in_place:
                    given["x"] = given["x"].copy()
                found[step.name] = _checked(step, OPERATIONS[step.kind](given))
        return {name: found[name] for name in self._outputs}

    def _lookup(self, name: str, found: Mapping[str, Any]) -> Any:
        return self._constants[name] if name in self._constants else found[name]

    def _add(
        self, package: Package, operation: Any, made: dict[tuple[int, ...], Array], rounds: bool
    ) -> None:
        """Make a constant, or note an operation for later."""
        kind = operation.type
        if kind == "const" or kind in CONSTANT_OPERATIONS:
            parts = constants(operation)
            # Functions share what is made of the same places of the file.
            key = tuple(each.blobFileValue.offset for each in parts.values())
            own = made[key] if key in made else _made(package, kind, parts)
            if all(is_stored(each) for each in parts.values()):
                made[key] = own
            self._constants[operation.outputs[0].name] = own
            return
        if kind not in OPERATIONS and kind not in ("read_state", "write_state"):
            raise ExportError(f"'{package.folder}' has an operation {kind}, which is none of ours")
        values: dict[str, Any] = {}
        names: dict[str, str | list[str]] = {}
        for parameter, arguments in operation.inputs.items():
            bound = [
                each.name for each in arguments.arguments if each.WhichOneof("binding") == "name"
            ]
            if len(bound) != len(arguments.arguments):
                values[parameter] = _widened(package.value(arguments.arguments[0].value))
            elif parameter == _STATE:
                values[parameter] = bound[0]
            else:
                names[parameter] = bound if parameter == "values" else bound[0]
        (output,) = operation.outputs or (None,)
        kinds = None if output is None else output.type.tensorType
        self._steps.append(
            _Step(
                kind,
                "" if output is None else output.name,
                values,
                names,
                () if kinds is None else _sizes(kinds),
                rounds
                and kinds is not None
                and TYPES.get(kinds.dataType) is np.float16
                and kind not in _MOVES,
            )
        )


def _in_place(steps: list[_Step]) -> set[str]:
    """Results of updates that may be written into the state that they are an update of.

    It is written to that state at once, and nothing later looks at what was read from it before.
    Else every layer would copy all keys and values.
    """
    uses: dict[str, list[int]] = {}
    reads: dict[str, list[tuple[int, str]]] = {}
    for place, step in enumerate(steps):
        if step.kind == "read_state":
            reads.setdefault(step.values[_STATE], []).append((place, step.name))
        for names in step.names.values():
            for name in [names] if isinstance(names, str) else names:
                uses.setdefault(name, []).append(place)
    found = set()
    for place, (step, after) in enumerate(pairwise(steps)):
        state = str(after.values.get(_STATE))
        old = [name for at, name in reads.get(state, []) if at < place]
        if (
            step.kind == "slice_update"
            and after.kind == "write_state"
            and after.names["data"] == step.name
            and step.names["x"] in old
            and all(at <= place for name in old for at in uses.get(name, []))
            and all(
                steps[at].kind in ("slice_by_size", "slice_update")
                for name in old
                for at in uses.get(name, [])
            )
        ):
            found.add(step.name)
    return found


def _made(package: Package, kind: str, parts: Mapping[str, Any]) -> Any:
    """A constant, or what an operation makes of some: that is float16 in any case."""
    values = {name: package.value(each) for name, each in parts.items()}
    if kind == "const":
        return _widened(values["val"])
    return _widened(CONSTANT_OPERATIONS[kind](values).astype(np.float16))


_STATE = "input"
"""Parameter of operations on states, which is a state's name and no value."""


# What moves numbers that are rounded already. Those that cut give copies, see `_in_place`.
_MOVES = (
    "concat",
    "expand_dims",
    "gather",
    "reshape",
    "slice_by_size",
    "slice_update",
    "transpose",
)


def _checked(step: _Step, result: Array) -> Array:
    """A result of the declared sizes, rounded where it is to be."""
    if result.shape != step.sizes:
        raise ExportError(f"{step.kind} {step.name} is {result.shape}, declared {step.sizes}")
    if not step.rounds:
        return result
    with np.errstate(over="ignore"):
        found = result.astype(np.float16)
    if not np.isfinite(found).all():
        largest = float(np.abs(result).max())
        raise ExportError(f"{step.kind} {step.name} has {largest:,.0f}, which float16 cannot hold")
    return found.astype(np.float32)


def _widened(value: Any) -> Any:
    """float16 as float32, which computes faster and holds the same numbers."""
    is_half = isinstance(value, np.ndarray) and value.dtype == np.float16
    return value.astype(np.float32) if is_half else value


def _sizes(kind: Any) -> tuple[int, ...]:
    return tuple(each.constant.size for each in kind.dimensions)
