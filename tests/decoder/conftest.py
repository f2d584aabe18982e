"""Small models of every kind that the decoder can be."""

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.decoder.palette import (
    Int8Embedding,
    Int8Linear,
    PaletteLinear,
    int8_rows,
    linears,
    pack,
    replace_linears,
)
from afm_mlx.settings.sections import Llama3Rope, Shape

TINY = Shape(
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=64,
    vocab_size=64,
    rope_base=10_000,
    norm_eps=1e-5,
    max_tokens=128,
)
LLAMA3_ROPE = Llama3Rope(factor=8, low_freq_factor=1, high_freq_factor=4, original_max_tokens=32)


@pytest.fixture(
    params=[
        {},
        {"tied": False},
        {"qk_norm": False},
        {"qk_norm": False, "tied": False, "rope_scaling": LLAMA3_ROPE},
    ],
    ids=["qwen3", "qwen3-untied", "llama", "llama3-untied"],
)
def any_shape(request: pytest.FixtureRequest) -> Shape:
    """Each kind of decoder in turn."""
    return TINY.model_copy(update=request.param)


@pytest.fixture
def make(with_random_gains) -> Callable[..., Decoder]:
    """Makes a model with random weights and gains from 0.7 to 1.3, by changes to a tiny shape."""

    def make(shape: Shape = TINY, **changes: object) -> Decoder:
        model = Decoder(shape.model_copy(update=changes))
        initialize(model, seed=7)
        return with_random_gains(model)

    return make


@pytest.fixture
def palettize() -> Callable[..., Decoder]:
    """Palettizes a model in place, to `bits`, or to 4 with 2, 8 and numbers here and there."""

    def palettize(model: Decoder, *, bits: int | None = None, group_rows: int = 16) -> Decoder:
        mixed = {2: 2, 4: 8, 5: None}  # by a layer's number, in turns of seven
        layers: dict[str, nn.Module] = {}
        for number, (name, layer) in enumerate(linears(model).items()):
            own = bits or mixed.get(number % 7, 4)
            if own == 8:
                layers[name] = Int8Linear(*int8_rows(layer.weight))
            elif own is not None:
                layers[name] = quantile_palette(layer.weight, own, group_rows)
        embedding = model.model.embed_tokens
        layers["model.embed_tokens"] = Int8Embedding(*int8_rows(embedding.weight))
        replace_linears(model, layers)
        return model

    return palettize


def quantile_palette(weight: mx.array, bits: int, group_rows: int) -> PaletteLinear:
    """A palette whose values are quantiles of each group of rows."""
    rows, columns = weight.shape
    tables, ids = [], []
    for start in range(0, rows, group_rows):
        group = weight[start : start + group_rows]
        ordered = mx.sort(group.reshape(-1))
        at = ((mx.arange(2**bits) + 0.5) * ordered.size / 2**bits).astype(mx.int32)
        tables.append(ordered[at].astype(mx.float16))
        ids.append(mx.abs(group[..., None] - tables[-1].astype(mx.float32)).argmin(-1))
    packed = pack(mx.concatenate(ids), bits)
    return PaletteLinear(
        packed, mx.stack(tables), bits=bits, group_rows=group_rows, in_features=columns
    )


@pytest.fixture
def tokens() -> mx.array:
    """[2, 40] ids."""
    return mx.random.randint(0, TINY.vocab_size, (2, 40), key=mx.random.key(3))


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A byte-level tokenizer of 60 pieces in the files that models come with."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    pieces = {chr(ord("!") + number): number for number in range(58)}
    special = [{"id": 58, "content": "<end>"}, {"id": 59, "content": "<pad>"}]
    added = [
        piece
        | {"special": True, "normalized": False, "single_word": False}
        | {"lstrip": False, "rstrip": False}
        for piece in special
    ]
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": added,
                "model": {"type": "BPE", "vocab": pieces, "merges": []},
            }
        )
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<end>",
        "pad_token": {"content": "<pad>"},
        "chat_template": "{{ messages }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
