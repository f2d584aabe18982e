"""Small models with a tokenizer, adapters, and exports that somebody has spoiled."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from afm_mlx.decoder.adapters import AdapterFacts, base_hash, write_adapter
from afm_mlx.decoder.checkpoint import read_shape, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.decoder.lora import add_lora, lora_arrays
from afm_mlx.decoder.palette import Int8Embedding, PaletteLinear, int8_rows, linears, pack
from afm_mlx.decoder.palette import replace_linears as put
from afm_mlx.export.targets import Source, Target
from afm_mlx.settings.sections import Llama3Rope, Shape
from tests.conftest import random_gains

SMALL = Shape(
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=64,
    vocab_size=328,  # eight rows more than the tokenizer has pieces
    rope_base=10_000,
    norm_eps=1e-5,
    max_tokens=96,
)
LLAMA3_ROPE = Llama3Rope(factor=8, low_freq_factor=1, high_freq_factor=4, original_max_tokens=32)


@pytest.fixture(scope="session")
def tokenizer_folder(small_tokenizer, tmp_path_factory) -> Path:
    """SentencePiece's, with our chat template."""
    folder = tmp_path_factory.mktemp("pieces") / "tokenizer"
    small_tokenizer(["The cat sat on the mat. What is on the hill? A house.\n"] * 20, folder)
    return folder


def random_model(shape: Shape = SMALL, **changes: object) -> Decoder:
    """Random weights, and random gains."""
    model = Decoder(shape.model_copy(update=changes))
    initialize(model, seed=7)
    return random_gains(model)


@pytest.fixture
def source(tokenizer_folder: Path, tmp_path: Path) -> Callable[..., Source]:
    """Makes a model to export, by changes to a small shape."""

    def make(
        *,
        palettized: bool = False,
        stage: str = "sft",
        tokenizer: Path = tokenizer_folder,
        **changes: object,
    ) -> Source:
        model = random_model(**changes)
        if palettized:
            palettize(model)
        folder = tmp_path / "base" / "model"
        save_checkpoint(folder, model, tokenizer, facts={"stage": stage})
        return Source(folder, "small", read_shape(folder))

    return make


def palettize(model: Decoder) -> None:
    """Tables of 16 values that are quantiles of 16 rows each, and an embedding of 8 bits."""
    layers: dict[str, Any] = {}
    for name, layer in linears(model).items():
        groups = layer.weight.reshape(-1, 16 * layer.weight.shape[1])
        tables = mx.sort(groups, axis=1)[:, :: groups.shape[1] // 16][:, :16].astype(mx.float16)
        ids = mx.abs(groups[..., None] - tables[:, None].astype(mx.float32)).argmin(-1)
        packed = pack(ids.reshape(layer.weight.shape), 4)
        layers[name] = PaletteLinear(
            packed, tables, bits=4, group_rows=16, in_features=layer.weight.shape[1]
        )
    embedding = model.model.embed_tokens.weight
    put(model, layers | {"model.embed_tokens": Int8Embedding(*int8_rows(embedding))})


@pytest.fixture
def with_adapter(tmp_path: Path) -> Callable[..., Source]:
    """Adds to a source an adapter that changes it much."""

    def add(source: Source, name: str = "cats") -> Source:
        model = random_model(source.shape)
        add_lora(model, rank=2, scale=2.0, seed=len(name))
        arrays = {
            key: mx.random.normal(array.shape, key=mx.random.key(number)) * 0.2
            for number, (key, array) in enumerate(lora_arrays(model).items())
        }
        folder = tmp_path / "adapters" / name
        facts = AdapterFacts(name, base_hash(source.folder), "small", 2, 4.0, chat=True)
        write_adapter(folder, arrays, facts, dense=True)
        return replace(source, adapters=(*source.adapters, folder))

    return add


def spoiled(target: Target, spoil: Callable[[Path], None], **changes: object) -> Target:
    """The target with something done to the folder after it is written."""

    def write(source: Source, folder: Path, settings: Any) -> None:
        target.write(source, folder, settings)
        spoil(folder)

    return replace(target, write=write, **changes)
