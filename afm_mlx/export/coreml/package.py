"""Core ML packages: writing a program as one, and reading one without Apple's frameworks.

    NAME.mlpackage/
      Manifest.json
      Data/com.apple.CoreML/model.mlmodel           protobuf: functions, operations, descriptions
      Data/com.apple.CoreML/weights/weight.bin      arrays

weight.bin begins with 64 bytes. Each array has 64 bytes that say what it is, and starts at a
multiple of 64. Ids of 2 or 4 bits are one little-endian stream, first id in the lowest bits.

Source: apple/coremltools 9.0, mlmodel/format/*.proto and mlmodel/src/MILBlob.
"""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from functools import cached_property
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from afm_mlx.errors import ExportError

Array = np.ndarray[Any, Any]

SENTINEL = 0xDEADBEEF
"""What the description of each array in weight.bin starts with."""

# Numbers of data types in MIL.proto, and bits of those that NumPy has not.
TYPES: Mapping[int, Any] = {
    1: np.bool_,
    10: np.float16,
    21: np.int8,
    23: np.int32,
    31: np.uint8,
    35: np.uint8,
    36: np.uint8,
}
STRING = 2

INLINE_NUMBERS = 10
"""Arrays of fewer numbers stand in the program: coremltools puts no such ones into weight.bin."""

SMALL_BITS: Mapping[int, int] = {35: 4, 36: 2}


def import_coremltools() -> Any:
    """coremltools, without its words about programs that are not installed."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    # It imports transformers, which tells of a missing PyTorch. mlx-lm sets this, too.
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    return import_module("coremltools")


def save(program: Any, file: Path, describe: Callable[[Any], None]) -> None:
    """Write a program as a package. `describe` is given the specification, to put words into it."""
    coremltools = import_coremltools()
    with redirect_stderr(StringIO()), warnings.catch_warnings():
        # Nobody needs bars of passes that do nothing, nor to hear that a folder of coremltools'
        # own is deleted late.
        warnings.simplefilter("ignore")
        # No pass: none is needed, and the default ones merge reads of a state and cast positions.
        coremltools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS18,
            compute_units=coremltools.ComputeUnit.CPU_AND_NE,
            pass_pipeline=coremltools.PassPipeline.EMPTY,
            skip_model_load=True,
            package_dir=str(file),
        )
    # Described here: coremltools has no words for inputs of a model of several functions.
    place = _root(file)
    specification = _parsed(place)
    describe(specification)
    place.write_bytes(specification.SerializeToString())


class Package:
    """A package as it lies on the disk."""

    def __init__(self, folder: Path) -> None:
        """Raises ExportError when there is none that can be read."""
        self.folder = folder
        try:
            self.program_file = _root(folder)
            self.specification = _parsed(self.program_file)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ExportError(f"'{folder}' is no Core ML package: {error}") from None

    @property
    def metadata(self) -> dict[str, str]:
        """What its maker noted."""
        return dict(self.specification.description.metadata.userDefined)

    @property
    def weight_file(self) -> Path:
        """Where its arrays are."""
        return self.program_file.parent / "weights" / "weight.bin"

    @property
    def program_bytes(self) -> int:
        """Size of all but its arrays."""
        manifest = self.folder / "Manifest.json"
        return self.program_file.stat().st_size + manifest.stat().st_size

    def function(self, name: str) -> Any:
        """One function, and the block of its operations.

        Raises:
            ExportError: there is none.
        """
        functions = self.specification.mlProgram.functions
        if name not in functions:
            raise ExportError(f"'{self.folder}' has no function '{name}'")
        return functions[name]

    def operations(self, name: str) -> list[Any]:
        """Operations of a function, in their order."""
        function = self.function(name)
        return list(function.block_specializations[function.opset].operations)

    def stored(self) -> Iterator[tuple[str, str, int, int]]:
        """Name, parameter, start of the description, bytes: of each array in the file, once."""
        seen = set()
        for function in sorted(self.specification.mlProgram.functions):
            for operation in self.operations(function):
                for parameter, value in constants(operation).items():
                    start = value.blobFileValue.offset
                    if is_stored(value) and start not in seen:
                        seen.add(start)
                        name = operation.outputs[0].name
                        yield name, parameter, start, self.described(start)[0]

    def value(self, value: Any) -> Any:
        """A constant: an array, or text. Ids of 2 or 4 bits as uint8."""
        if value.type.WhichOneof("type") == "listType":
            return [self.value(each) for each in value.immediateValue.list.values]
        kind = value.type.tensorType
        shape = [each.constant.size for each in kind.dimensions]
        if value.WhichOneof("value") == "blobFileValue":
            return self._array(value.blobFileValue.offset, kind.dataType, shape)
        tensor = value.immediateValue.tensor
        if kind.dataType == STRING:
            return tensor.strings.values[0]
        dtype = _dtype(kind.dataType)
        held = getattr(tensor, tensor.WhichOneof("value")).values
        if isinstance(held, bytes):
            return np.frombuffer(held, dtype).reshape(shape)
        return np.array(list(held), dtype).reshape(shape)

    def described(self, start: int) -> tuple[int, int]:
        """Bytes and place of an array.

        Raises:
            ExportError: there is no description.
        """
        words = self._bytes[start : start + 64]
        if words.size != 64 or int(words[:4].view("<u4")[0]) != SENTINEL:
            raise ExportError(f"{self.weight_file} is damaged at byte {start:,}")
        size, place = (int(each) for each in words[8:24].view("<u8"))
        return size, place

    def _array(self, start: int, kind: int, shape: list[int]) -> Array:
        size, place = self.described(start)
        held = np.asarray(self._bytes[place : place + size])
        bits = SMALL_BITS.get(kind)
        if bits is None:
            found = held.view(_dtype(kind))
        else:
            shifts = np.arange(0, 8, bits, dtype=np.uint8)
            found = ((held[:, None] >> shifts) & (2**bits - 1)).reshape(-1)[: math.prod(shape)]
        if found.size != math.prod(shape):
            raise ExportError(
                f"{self.weight_file}, byte {start:,}: {found.size:,} numbers, must be "
                f"{math.prod(shape):,}"
            )
        return found.reshape(shape)

    @cached_property
    def _bytes(self) -> Array:
        return np.memmap(self.weight_file, np.uint8, "r")


def constants(operation: Any) -> dict[str, Any]:
    """Values that are part of an operation, by parameter; that of a plain constant is `val`."""
    if operation.type == "const":
        return {"val": operation.attributes["val"]}
    if operation.type.startswith("constexpr_"):
        return {name: each.arguments[0].value for name, each in operation.inputs.items()}
    return {}


def is_stored(value: Any) -> bool:
    """Whether a value is in weight.bin."""
    return bool(value.WhichOneof("value") == "blobFileValue")


def _dtype(kind: int) -> Any:
    if kind not in TYPES:
        raise ExportError(f"numbers of type {kind} are none that we write")
    return TYPES[kind]


def _root(folder: Path) -> Path:
    manifest = json.loads((folder / "Manifest.json").read_text(encoding="utf-8"))
    entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    return folder / "Data" / str(entry["path"])


def _parsed(file: Path) -> Any:
    import_coremltools()
    found = import_module("coremltools.proto.Model_pb2").Model()
    found.ParseFromString(file.read_bytes())
    return found
