"""A tiny model, its tokenizer, and shards: what a teacher reads."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.damage import fit_alone
from afm_mlx.compression.qat import prepare, store
from afm_mlx.corpus.documents import Document
from afm_mlx.corpus.shards import Shards, write_shards
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.decoder.palette import linears, replace_linears
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import Tokenizer
from tests.conftest import random_gains

TINY = Shape(
    num_layers=2,
    hidden_size=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    intermediate_size=24,
    vocab_size=320,
    rope_base=10_000,
    norm_eps=1e-5,
    max_tokens=64,
)
KINDS = {"qwen3": {}, "untied": {"tied": False}, "llama": {"qk_norm": False, "tied": False}}
SHARED = dict(num_heads=4, num_kv_heads=2, head_dim=4)
"""Two query heads for each KV head."""


def build(seed: int = 3, **changes: object) -> Decoder:
    """A decoder with random weights, its gains too."""
    model = Decoder(TINY.model_copy(update=changes))
    initialize(model, seed)
    return random_gains(model)


def drawn_tokens(rows: int = 4) -> mx.array:
    """[rows, 16] ids."""
    return mx.random.randint(0, TINY.vocab_size, (rows, 16), key=mx.random.key(1))


def in_tables(decoder: Decoder, bits: int) -> None:
    """Put tables by k-means, of 4 rows each, in place of all linear layers of the blocks."""
    found = {
        name: fit_alone(
            layer.weight, bits, None, group_rows=4, rounds=100, tolerance=1e-6, name=name
        )
        for name, layer in linears(decoder).items()
        if name != "lm_head"
    }
    replace_linears(decoder, found)


@pytest.fixture(scope="session")
def tokenizer_folder(small_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [f"The cat sat on mat {i}. What is on the hill? A house.\n" for i in range(40)]
    small_tokenizer(texts, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.open(tokenizer_folder)


@pytest.fixture(scope="session")
def shards(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """A source of a few hundred tokens, opened; its folder is called `poems`."""
    folder = tmp_path_factory.mktemp("data") / "poems"
    texts = [f"What is on hill {i}? A house, the cat and a mat.\n" for i in range(40)]
    documents = [Document(text, "poems", str(i)) for i, text in enumerate(texts)]
    write_shards(documents, tokenizer, folder, held_out_fraction=0.0)
    return Shards.open(folder, "train", tokenizer.fingerprint)


@pytest.fixture
def rows(shards: Shards) -> np.ndarray:
    """[4, 16] tokens."""
    return shards.read(0, 64).reshape(4, 16).astype(np.int32)


@pytest.fixture
def palettized() -> Decoder:
    """A model whose linear layers are tables of 2 bits."""
    model = build()
    prepare(model, group_rows=8)
    store(model)
    return model
