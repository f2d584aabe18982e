"""Weights of a model folder: safetensors files, one or several with an index.

Headers are read and checked before any weight, so that a damaged or foreign folder is refused in
milliseconds and by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import mlx.core as mx

from afm_mlx.errors import ModelError, RunError

SHARD_BYTES = 5 * 10**9
"""Most bytes in one file; what mlx-lm and transformers write."""

INDEX = "model.safetensors.index.json"

_NO_FORMATS: Mapping[str, str] = MappingProxyType({})
_NAMED = 3  # tensors named in a message; the rest are counted

DTYPES = {"F32": mx.float32, "BF16": mx.bfloat16, "F16": mx.float16}
"""Number formats of weights we read, by their name in safetensors."""


@dataclass(frozen=True)
class TensorFact:
    """What a safetensors header says of one tensor."""

    file: Path
    """Where it is."""
    dtype: str
    """Name of its number format, as in safetensors: F32, BF16, U32."""
    shape: tuple[int, ...]
    """Its sizes; [out, in] for linears."""


def read_headers(folder: Path) -> dict[str, TensorFact]:
    """What the weight files of a folder hold, by tensor name. Reads headers only.

    Raises:
        ModelError: there are no weights, a file that the index names is absent, or one is damaged.
    """
    facts: dict[str, TensorFact] = {}
    for file in weight_files(folder):
        facts.update(read_header(file))
    return facts


def read_weights(
    folder: Path, facts: Mapping[str, TensorFact], formats: Mapping[str, str] = _NO_FORMATS
) -> dict[str, mx.array]:
    """The named tensors, in their own number formats, read when they are first computed with.

    Args:
        folder: named in messages.
        facts: the tensors wanted, as `read_headers` returns them.
        formats: of the tensors that must have one, by name, as in safetensors: F16, U32.

    Raises:
        ModelError: a tensor is not in its format, or not float32, bfloat16 or float16.
    """
    for name, fact in facts.items():
        if (wanted := formats.get(name)) is not None:
            if fact.dtype != wanted:
                raise ModelError(f"'{folder}': {name} is {fact.dtype}, must be {wanted}")
        elif fact.dtype not in DTYPES:
            raise ModelError(
                f"'{folder}': {name} is {fact.dtype}, not float32, bfloat16 or float16",
                hint="take the model's unquantized weights",
            )
    weights: dict[str, mx.array] = {}
    for file in sorted({fact.file for fact in facts.values()}):
        loaded = mx.load(str(file))
        assert isinstance(loaded, dict)
        weights.update({name: loaded[name] for name in loaded if name in facts})
    return weights


def write_weights(
    folder: Path, weights: Mapping[str, mx.array], *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write safetensors files of at most `shard_bytes` each (a tensor is never cut), and an index.

    Older weight files in the folder are removed.

    Raises:
        RunError: a file could not be written whole, as when the disk is full.
    """
    for old in [*folder.glob("model*.safetensors"), folder / INDEX]:
        old.unlink(missing_ok=True)
    shards: list[dict[str, mx.array]] = [{}]
    filled = 0
    for name, array in weights.items():
        if shards[-1] and filled + array.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = array
        filled += array.nbytes
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        count = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        file = folder / f"model{count}.safetensors"
        write_file(file, shard)
        places.update(dict.fromkeys(shard, file.name))
    if len(shards) > 1:
        totals = {
            "total_size": sum(array.nbytes for array in weights.values()),
            "total_parameters": sum(array.size for array in weights.values()),
        }
        index = {"metadata": totals, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_file(file: Path, arrays: Mapping[str, mx.array]) -> None:
    """Write one file and check that all of it arrived: MLX does not always say when a disk is full.

    Raises:
        RunError: it did not.
    """
    try:
        mx.save_safetensors(str(file), dict(arrays), metadata={"format": "mlx"})
        read_header(file)
    except (RuntimeError, OSError, ModelError) as error:
        bytes_needed = sum(array.nbytes for array in arrays.values())
        raise RunError(
            f"{file} could not be written whole ({bytes_needed:,} bytes): {error}",
            hint="if the disk is full, free some space, then type the same command again",
        ) from None


def check_tensors(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raise unless the tensors found are exactly those wanted.

    Raises:
        ModelError: some are missing, too many, or of another shape; up to three are named.
    """
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    other = [
        f"{name} is {list(found[name])}, must be {list(wanted[name])}"
        for name in wanted
        if name in found and tuple(found[name]) != tuple(wanted[name])
    ]
    if missing:
        raise ModelError(f"{where} lacks {listed(missing)}")
    if extra:
        raise ModelError(f"{where} has tensors that this decoder has not: {listed(extra)}")
    if other:
        raise ModelError(f"{where}: {listed(other)}")


def listed(names: list[str]) -> str:
    """The first three of a list, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def weight_files(folder: Path) -> list[Path]:
    """Weight files of a model folder: those that its index names, or all.

    Raises:
        ModelError: there are none, or one that the index names is absent.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, AttributeError, TypeError):
            raise ModelError(f"{index} is not an index of weights") from None
        files = [folder / name for name in sorted(names)]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise ModelError(f"'{folder}' lacks {listed(absent)}, which {INDEX} names")
        return files
    single = folder / "model.safetensors"
    files = [single] if single.is_file() else sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelError(
            f"'{folder}' has no weights: no model.safetensors and no {INDEX}",
            hint="only safetensors and .gguf files are read",
        )
    return files


def read_header(file: Path) -> dict[str, TensorFact]:
    """Header of a safetensors file: 8 bytes with its length, JSON, then the numbers.

    Raises:
        ModelError: it cannot be read, or the file is not as long as it says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            if not 0 < length <= size - 8:
                raise ValueError
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            facts = {
                name: TensorFact(file, entry["dtype"], tuple(entry["shape"]))
                for name, entry in header.items()
            }
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ModelError(
                f"{file} has no readable safetensors header ({size:,} bytes)",
                hint="copy or download it again",
            ) from None
    if size != 8 + length + end:
        raise ModelError(
            f"{file} has {size:,} bytes, its header says {8 + length + end:,}",
            hint="copy or download it again",
        )
    return facts
