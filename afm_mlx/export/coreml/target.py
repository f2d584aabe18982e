"""Core ML packages: tables, 8-bit embedding, cache as state, and a pair of functions per adapter.

NAME.mlpackage   functions decode and prefill, and decode_ADAPTER and prefill_ADAPTER;
                 NAME-1.mlpackage, NAME-2.mlpackage, ... of a large model
coreml.json      packages, functions, lengths, hashes: for programs that drive it
README.md        the same for people, with Swift
...              tokenizer files and config.json, as the model has them
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from afm_mlx.decoder.adapters import NONE, read_adapter_facts
from afm_mlx.decoder.base_hash import base_hash
from afm_mlx.decoder.checkpoint import copy_tokenizer, read_facts
from afm_mlx.decoder.config import read_config
from afm_mlx.errors import ExportError
from afm_mlx.export.coreml.contents import context_of, cut, differences, sizes
from afm_mlx.export.coreml.package import Package, save
from afm_mlx.export.coreml.parts import Part
from afm_mlx.export.coreml.program import Call, build
from afm_mlx.export.coreml.readme import about, readme
from afm_mlx.export.coreml.runtime import CoreMlEngine, Engine, NumpyEngine, PackageRuntime
from afm_mlx.export.tables import Weights, plain, read_adapters, refusals
from afm_mlx.export.targets import Need, Source, Target
from afm_mlx.export.verify import Runtime, Thresholds
from afm_mlx.inference.prompts import chats_with
from afm_mlx.settings.export import CoreMl, CoreMlVerifier

FACTS = "coreml.json"
"""What a program needs to know to drive the packages."""

README = "README.md"

# Constants and results are float16, as in Core ML: 0.04 standard deviations were seen of a logit.
_THRESHOLDS = Thresholds(cosine=0.999, error=0.1, agreement=1.0, tie=0.05)

_NOTE = "afm_mlx."  # what keys of a package's own metadata begin with


def function_names(adapter: str) -> tuple[str, str]:
    """Functions that decode and prefill with an adapter, or with "none"."""
    ending = "" if adapter == NONE else f"_{plain(adapter)}"
    return f"decode{ending}", f"prefill{ending}"


def packages(folder: Path) -> list[Package]:
    """The packages of an exported folder, in the order in which they are computed.

    Raises:
        ExportError: there are none, or not all of them.
    """
    found = {
        int(package.metadata.get(f"{_NOTE}part", 0)): package
        for package in map(Package, sorted(folder.glob("*.mlpackage")))
    }
    wanted = max((int(each.metadata.get(f"{_NOTE}parts", 1)) for each in found.values()), default=1)
    if sorted(found) != list(range(wanted)):
        raise ExportError(f"'{folder}' has {len(found)} Core ML packages, must have {wanted}")
    return [found[number] for number in range(wanted)]


def _refusals(source: Source, settings: CoreMl) -> Iterator[str]:
    shape, context = source.shape, context_of(source, settings)
    if not shape.tied:
        yield "its output layer is not its embedding, and the package has one matrix for both"
    is_asked = "context_tokens" in settings.model_fields_set
    if is_asked and settings.context_tokens > shape.max_tokens:
        yield (
            f"context_tokens is {settings.context_tokens:,}, and the model was made for "
            f"{shape.max_tokens:,}"
        )
    for name in ("prefill_tokens", "decode_tokens"):
        if (width := getattr(settings, name)) > context:
            yield f"{name} is {width:,}, and the context has {context:,} tokens"
    yield from refusals(source)
    if settings.verify_with is CoreMlVerifier.COREML and sys.platform != "darwin":
        yield "verify_with is coreml, and Core ML is on macOS only"


def _write(source: Source, folder: Path, settings: CoreMl) -> None:
    weights, context = Weights(source.folder, source.shape), context_of(source, settings)
    widths = (settings.decode_tokens, settings.prefill_tokens)
    calls = [
        Call(name, tokens, adapter)
        for adapter in (None, *read_adapters(source))
        for name, tokens in zip(
            function_names(NONE if adapter is None else adapter.name), widths, strict=True
        )
    ]
    parts = cut(source, settings)
    facts = _facts(source, settings, calls, parts)
    folder.mkdir(parents=True)
    facts["sha256"] = {}
    for part, name in zip(parts, facts["packages"], strict=True):
        program = build(weights, calls, context, part)
        save(program, folder / name, partial(_describe, facts=facts, part=part))
        package = Package(folder / name)
        for file in (package.program_file, package.weight_file):
            facts["sha256"][str(file.relative_to(folder))] = _sha256(file)
    _write_json(folder / FACTS, facts)
    copy_tokenizer(source.folder, folder)
    config = read_config(source.folder)
    config.pop("quantization_config", None)  # of a checkpoint's files, which are not here
    _write_json(folder / "config.json", config)
    chats = chats_with(
        source.folder,
        adapter_chats=any(read_adapter_facts(each).chat for each in source.adapters),
    )
    (folder / README).write_text(readme(source, facts, chats=chats), encoding="utf-8")


def _facts(
    source: Source, settings: CoreMl, calls: Sequence[Call], parts: Sequence[Part]
) -> dict[str, Any]:
    """What coreml.json says, but for hashes of files that are still to be written."""
    known = read_facts(source.folder)
    numbers = [f"-{each.number + 1}" for each in parts] if len(parts) > 1 else [""]
    return {
        "packages": [f"{source.name}{number}.mlpackage" for number in numbers],
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


def _describe(specification: Any, facts: dict[str, Any], part: Part) -> None:
    """Put words into a package, which Xcode shows. License and author are the owner's to state."""
    description = specification.description
    which = f", part {part.number + 1} of {part.count}" if part.count > 1 else ""
    description.metadata.shortDescription = (
        f"{facts['model']}: next-token logits, cache as state{which}"
    )
    noted = {name: value for name, value in facts.items() if name != "sha256"}
    for name, value in (noted | {"part": part.number, "parts": part.count}).items():
        text = value if isinstance(value, str) else json.dumps(value)
        description.metadata.userDefined[f"{_NOTE}{name}"] = text
    for function in description.functions:
        for feature in (*function.input, *function.output, *function.state):
            feature.shortDescription = about(feature.name)


def _open(folder: Path, settings: CoreMl, adapter: str) -> Runtime:
    found = packages(folder)
    noted = found[0].metadata
    functions = json.loads(noted[f"{_NOTE}functions"])
    names = function_names(adapter)
    widths = {name: int(functions[name]["tokens"]) for name in names}
    files = [package.folder for package in found]
    engine: Engine
    if settings.verify_with is CoreMlVerifier.COREML:
        engine = CoreMlEngine(files, names)
    else:
        engine = NumpyEngine(files, names[0])
    return PackageRuntime(engine, widths, int(noted[f"{_NOTE}context_tokens"]))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


TARGET = Target(
    name="coreml",
    about="Core ML packages with tables, cache as state, and functions for each adapter",
    section=CoreMl,
    folds=False,
    refusals=lambda source, settings: list(_refusals(source, settings)),
    write=_write,
    open=_open,
    sizes=lambda folder, source, settings: sizes(folder, packages(folder), source, settings),
    thresholds=lambda settings: _THRESHOLDS,
    differences=lambda folder, source, settings: differences(packages(folder), source, settings),
    needs=(Need("coremltools", "pip install 'afm-mlx[coreml]'"),),
)
