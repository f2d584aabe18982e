"""A Core ML package: tables, 8-bit embedding, cache as state, and a pair of functions per adapter.

NAME.mlpackage   functions decode and prefill, and decode_ADAPTER and prefill_ADAPTER
coreml.json      functions, lengths, hashes: for programs that drive it
README.md        the same for people, with Swift
...              tokenizer files and config.json, as the model has them
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from afm_mlx.decoder.adapters import NONE, read_adapter_facts
from afm_mlx.decoder.base_hash import base_hash
from afm_mlx.decoder.checkpoint import TOKENIZER_FILES, read_facts, read_palette, tensor_shapes
from afm_mlx.decoder.config import read_config
from afm_mlx.decoder.palette import INT8_BITS
from afm_mlx.decoder.palette_format import EMBEDDING
from afm_mlx.errors import ExportError
from afm_mlx.export.coreml.package import INLINE_NUMBERS, Array, Package, constants, is_stored, save
from afm_mlx.export.coreml.program import Call, build, plain, rotations
from afm_mlx.export.coreml.readme import about, readme
from afm_mlx.export.coreml.runtime import CoreMlEngine, Engine, NumpyEngine, PackageRuntime
from afm_mlx.export.coreml.weights import Weights, adapter_names, pieces, read_adapters
from afm_mlx.export.dense import parts
from afm_mlx.export.prompts import chats_with
from afm_mlx.export.targets import Need, Size, Source, Target
from afm_mlx.export.verify import Runtime, Thresholds
from afm_mlx.inference.engine import BASE_STAGES
from afm_mlx.settings.export import CoreMl, CoreMlVerifier

FACTS = "coreml.json"
"""What a program needs to know to drive the package."""

README = "README.md"

# Constants and results are float16, as in Core ML: 0.007 standard deviations were seen of a logit.
_THRESHOLDS = Thresholds(cosine=0.999, error=0.1, agreement=1.0, tie=0.05)


def context_of(source: Source, settings: CoreMl) -> int:
    """Tokens that the package's cache has room for."""
    return min(settings.context_tokens, source.shape.max_tokens)


def function_names(adapter: str) -> tuple[str, str]:
    """Functions that decode and prefill with an adapter, or with "none"."""
    ending = "" if adapter == NONE else f"_{plain(adapter)}"
    return f"decode{ending}", f"prefill{ending}"


def _refusals(source: Source, settings: CoreMl) -> Iterator[str]:
    shape, asked = source.shape, settings.model_fields_set
    context = context_of(source, settings)
    if not shape.tied:
        yield "its output layer is not its embedding, and the package has one matrix for both"
    if "context_tokens" in asked and settings.context_tokens > shape.max_tokens:
        yield (
            f"context_tokens is {settings.context_tokens:,}, and the model was made for "
            f"{shape.max_tokens:,}"
        )
    for name in ("prefill_tokens", "decode_tokens"):
        if (width := getattr(settings, name)) > context:
            yield f"{name} is {width:,}, and the context has {context:,} tokens"
    palette = read_palette(source.folder, shape)
    sizes = tensor_shapes(shape)
    for layer, bits in ({} if palette is None else palette.bits).items():
        rows = sizes[f"{layer}.weight"][0]
        if bits != INT8_BITS and palette is not None and rows % palette.group_rows:
            yield f"{layer} has {rows:,} rows, not a multiple of {palette.group_rows}, of a table"
    names = adapter_names(source)
    if len({plain(name) for name in names}) < len(names):
        yield f"functions of adapters {', '.join(names)} would have the same names"
    on_mac = sys.platform == "darwin"
    if settings.verify_with is CoreMlVerifier.COREML and not on_mac:
        yield "verify_with is coreml, and Core ML is on macOS only"


def _write(source: Source, folder: Path, settings: CoreMl) -> None:
    weights, context = Weights(source.folder, source.shape), context_of(source, settings)
    calls = []
    for adapter in (None, *read_adapters(source)):
        names = function_names(NONE if adapter is None else adapter.name)
        widths = (settings.decode_tokens, settings.prefill_tokens)
        calls += [Call(name, tokens, adapter) for name, tokens in zip(names, widths, strict=True)]
    facts = _facts(source, settings, calls)
    file = folder / str(facts["package"])
    folder.mkdir(parents=True)
    save(build(weights, calls, context), file, lambda found: _describe(found, facts))
    package = Package(file)
    facts["sha256"] = {
        each.name: _sha256(each) for each in (package.program_file, package.weight_file)
    }
    _write_json(folder / FACTS, facts)
    for name in TOKENIZER_FILES:
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)
    config = read_config(source.folder)
    config.pop("quantization_config", None)  # of a checkpoint's files, which are not here
    _write_json(folder / "config.json", config)
    chats = chats_with(
        source.folder,
        is_base=read_facts(source.folder).get("stage") in BASE_STAGES,
        adapter_chats=any(read_adapter_facts(each).chat for each in source.adapters),
    )
    (folder / README).write_text(readme(source, facts, chats=chats), encoding="utf-8")


def _facts(source: Source, settings: CoreMl, calls: list[Call]) -> dict[str, Any]:
    """What coreml.json says, but for hashes of files that are still to be written."""
    known = read_facts(source.folder)
    return {
        "package": f"{source.name}.mlpackage",
        "model": source.name,
        "model_hash": base_hash(source.folder),
        "recipe": known.get("recipe", ""),
        "stage": known.get("stage", ""),
        "tokenizer": known.get("tokenizer", ""),
        "context_tokens": context_of(source, settings),
        "prefill_tokens": settings.prefill_tokens,
        "decode_tokens": settings.decode_tokens,
        "functions": {
            call.name: {
                "tokens": call.tokens,
                "adapter": None if call.adapter is None else call.adapter.name,
            }
            for call in calls
        },
        "afm_mlx": version("afm-mlx"),
    }


def _describe(specification: Any, facts: dict[str, Any]) -> None:
    """Put words into a package, which Xcode shows. License and author are the owner's to state."""
    description = specification.description
    description.metadata.shortDescription = f"{facts['model']}: next-token logits, cache as state"
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        description.metadata.userDefined[f"afm_mlx.{name}"] = text
    for function in description.functions:
        for feature in (*function.input, *function.output, *function.state):
            feature.shortDescription = about(feature.name)


def _open(folder: Path, settings: CoreMl, adapter: str) -> Runtime:
    file = _file(folder)
    noted = {name.partition(".")[2]: value for name, value in Package(file).metadata.items()}
    functions = json.loads(noted["functions"])
    names = function_names(adapter)
    widths = {name: int(functions[name]["tokens"]) for name in names}
    engine: Engine
    if settings.verify_with is CoreMlVerifier.COREML:
        engine = CoreMlEngine(file, names)
    else:
        engine = NumpyEngine(file, names[0])
    return PackageRuntime(engine, widths, int(noted["context_tokens"]))


def _differences(folder: Path, source: Source, settings: CoreMl) -> list[str]:
    """Weights that a function has otherwise than was meant, or that are nowhere or unknown."""
    package, weights = Package(_file(folder)), Weights(source.folder, source.shape)
    # What each function has by a name; in weight.bin it is to be once for all of them.
    found: dict[tuple[str, str], dict[Any, Any]] = {}
    for function in sorted(package.specification.mlProgram.functions):
        for operation in package.operations(function):
            for parameter, value in constants(operation).items():
                key = operation.outputs[0].name, parameter
                place = value.blobFileValue.offset if is_stored(value) else function
                found.setdefault(key, {})[place] = value
    wrong = []
    for name, parameter, array in _meant(source, settings, weights):
        values = found.pop((name, parameter), {})
        same = [_same(package.value(each), array) for each in values.values()]
        in_file = [each for each in values.values() if is_stored(each)]
        if not same or not all(same) or len(in_file) > 1:
            wrong.append(f"{name} ({parameter})")
    beside = [key for key, values in found.items() if any(map(is_stored, values.values()))]
    return [*wrong, *(f"{name} ({parameter})" for name, parameter in beside)]


def _same(found: Array, meant: Array) -> bool:
    return np.array_equal(found.ravel(), meant.ravel()) and found.dtype == meant.dtype


def _meant(source: Source, settings: CoreMl, weights: Weights) -> Iterator[tuple[str, str, Array]]:
    """Name, parameter and values of each array, one after the other."""
    shape, context = source.shape, context_of(source, settings)
    for tensor in tensor_shapes(shape):
        layer = tensor.removesuffix(".weight")
        if parts(tensor) == "norms":
            yield plain(layer), "val", weights.gain(layer)
            continue
        matrix = weights.read(layer)
        cut = pieces(shape.vocab_size) if layer == EMBEDDING else []
        named = {f"{layer}.{n}": matrix.rows(*ends) for n, ends in enumerate(cut)}
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
    cosines, sines = rotations(shape, context)
    yield "rotation_cosines", "val", cosines
    yield "rotation_sines", "val", sines
    yield "slots", "val", np.arange(context, dtype=np.int32)
    for tokens in {settings.decode_tokens, settings.prefill_tokens}:
        yield f"offsets_{tokens}", "val", np.arange(tokens, dtype=np.int32)


def _sizes(folder: Path, source: Source, settings: CoreMl) -> list[Size]:
    package = Package(_file(folder))
    planned = planned_bytes(source, settings)
    components = {
        plain(name.removesuffix(".weight")): parts(name) for name in tensor_shapes(source.shape)
    }
    found = dict.fromkeys(planned, 0)
    for name, _, _, size in package.stored():
        layer, is_factor, _ = name.partition("_lora_")
        piece = name.rpartition("_")[0]
        part = (
            "adapters" if is_factor else components.get(layer, components.get(piece, "positions"))
        )
        found[part] += size
    rest = package.weight_file.stat().st_size - sum(found.values())
    tokenizer = [folder / name for name in (*TOKENIZER_FILES, "config.json")]
    return [
        *(Size(part, found[part], planned[part]) for part in planned),
        Size("headers", rest, None),
        Size("program", package.program_bytes, None),
        Size("tokenizer", sum(each.stat().st_size for each in tokenizer if each.is_file()), None),
    ]


def planned_bytes(source: Source, settings: CoreMl) -> dict[str, int]:
    """What each component takes in weight.bin, from shapes and bits alone."""
    shape, context = source.shape, context_of(source, settings)
    palette = read_palette(source.folder, shape)
    planned = dict.fromkeys(("embedding", "linears", "norms", "adapters", "positions"), 0)
    for name, sizes in tensor_shapes(shape).items():
        layer = name.removesuffix(".weight")
        bits = None if palette is None else palette.bits.get(layer)
        size = 2 * math.prod(sizes)
        if palette is not None and bits is not None:
            values = sizes[0] if bits == INT8_BITS else sizes[0] // palette.group_rows * 2**bits
            size = math.prod(sizes) * bits // 8 + 2 * values
        planned[parts(name)] += size
    for adapter in read_adapters(source):
        for each in adapter.factors.values():
            planned["adapters"] += each.a.nbytes + each.b.nbytes
    widths = {settings.decode_tokens, settings.prefill_tokens}
    # Cosines and sines of half a head in float16, then counters in int32.
    counters = [each for each in (context, *widths) if each >= INLINE_NUMBERS]
    planned["positions"] = 2 * context * shape.head_dim + 4 * sum(counters)
    return planned


def _file(folder: Path) -> Path:
    files = sorted(folder.glob("*.mlpackage"))
    if len(files) != 1:
        raise ExportError(f"'{folder}' has {len(files)} Core ML packages, not one")
    return files[0]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


TARGET = Target(
    name="coreml",
    about="a Core ML package with tables, cache as state, and functions for each adapter",
    section=CoreMl,
    folds=False,
    refusals=lambda source, settings: list(_refusals(source, settings)),
    write=_write,
    open=_open,
    sizes=_sizes,
    thresholds=lambda settings: _THRESHOLDS,
    differences=_differences,
    needs=(Need("coremltools", "pip install 'afm-mlx[coreml]'"),),
)
