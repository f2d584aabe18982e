"""A tiny chat model on disk, and the command line as a function."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from afm_cli import main

from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    train_tokenizer(
        iter(["The cat sat on the mat. What is on the hill? A house.\n"] * 20),
        folder / "tokenizer",
        vocab_size=320,
        reserved_pieces=16,
        character_coverage=1.0,
        max_sentence_bytes=4_096,
        training_bytes=100_000,
    )
    model = Decoder(
        Shape(
            num_layers=1,
            hidden_size=16,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            intermediate_size=32,
            vocab_size=320,
            rope_base=10_000,
            norm_eps=1e-5,
            max_tokens=64,
        )
    )
    initialize(model, seed=2)
    save_checkpoint(folder / "model", model, folder / "tokenizer", facts={"stage": "sft"})
    return folder / "model"


@dataclass
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def afm(capfd, monkeypatch, tmp_path):
    """Function that runs a command line in an empty folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFM_CACHE_DIR", str(tmp_path / "cache"))

    def run(*words: object) -> Answer:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Answer(code, *capfd.readouterr())

    return run
