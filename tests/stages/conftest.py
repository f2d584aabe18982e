"""A tiny base model, and conversations that it can learn."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import Tokenizer, train_tokenizer

SHAPE = Shape(
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=64,
    vocab_size=320,
    rope_base=10_000,
    norm_eps=1e-5,
    max_tokens=64,
)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """Folder of a model with random weights."""
    folder = tmp_path_factory.mktemp("base")
    train_tokenizer(
        iter(["The cat sat on the mat. Where is the dog? In the house.\n"] * 20),
        folder / "tokenizer",
        vocab_size=320,
        reserved_pieces=16,
        character_coverage=1.0,
        max_sentence_bytes=4_096,
        training_bytes=100_000,
    )
    model = Decoder(SHAPE)
    initialize(model, seed=2)
    save_checkpoint(folder / "model", model, folder / "tokenizer")
    return folder / "model"


@pytest.fixture
def chats(tmp_path) -> Path:
    """A file of 60 conversations in which the answer repeats the question's word."""
    lines = []
    for number in range(60):
        word = "".join("abcdefgh"[(number >> (3 * place)) % 8] for place in range(2))
        said = [
            {"role": "user", "content": f"say {word}"},
            {"role": "assistant", "content": f"{word}."},
        ]
        lines.append(json.dumps({"messages": said}))
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def chatty(base, tmp_path_factory) -> Path:
    """Folder of a random model that ends its turns soon."""
    tokenizer = Tokenizer.open(base)
    model = Decoder(SHAPE.model_copy(update={"tied": False}))
    initialize(model, seed=2)
    weight = mx.array(model.lm_head.weight)
    weight[tokenizer.eos_ids[1]] *= 3
    model.lm_head.weight = weight
    folder = tmp_path_factory.mktemp("chatty") / "model"
    save_checkpoint(folder, model, base, facts={"stage": "sft"})
    return folder
