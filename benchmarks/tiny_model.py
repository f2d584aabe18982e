"""The random model of four million parameters that several benchmarks answer with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.inference.engine import Engine
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import train_tokenizer

HERE = Path(__file__).parent

TINY = Shape(
    num_layers=4,
    hidden_size=256,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=768,
    vocab_size=4_096,
    rope_base=10_000,
    norm_eps=1e-5,
    max_tokens=4_096,
)


def tiny_engine(folder: Path) -> Engine:
    """It, and a tokenizer of this repository's texts, which are written into `folder`."""
    files = [*(HERE.parent / "docs").glob("*.md"), *(HERE.parent / "afm_mlx").rglob("*.py")]
    texts = [file.read_text(encoding="utf-8") for file in sorted(files)]
    train_tokenizer(
        iter(texts),
        folder / "tokenizer",
        vocab_size=TINY.vocab_size,
        reserved_pieces=64,
        character_coverage=1.0,
        max_sentence_bytes=4_096,
        training_bytes=10_000_000,
    )
    model = Decoder(TINY)
    initialize(model, 0)
    save_checkpoint(folder / "model", model, folder / "tokenizer", facts={"stage": "sft"})
    return Engine(model, folder / "model")


class Endless:
    """A tokenizer without tokens that end an answer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.eos_ids = tokenizer, ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
