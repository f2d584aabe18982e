"""Models that several benchmarks answer with: a random one of four million parameters, smollm2."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afm_mlx import compat  # before MLX: it loads the BLAS  # isort: skip
import mlx.core as mx

from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.inference.engine import Engine
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import train_tokenizer
from afm_mlx.zoo import resolve_model

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


NAMES = ("tiny", "smollm2")


def machine() -> str:
    """What figures were seen on."""
    blas = Path(compat.load_blas() or "none").name
    return f"{platform.platform()}, {os.cpu_count()} cores, BLAS {blas}, MLX {mx.__version__}"


def engines(which: str) -> Iterator[tuple[str, Engine]]:
    """Engines by name, in float32: `tiny`, `smollm2`, both, or the one of another MODEL word."""
    for name in NAMES if which == "both" else (which,):
        with tempfile.TemporaryDirectory() as folder:
            if name == "tiny":
                engine = tiny_engine(Path(folder))
            else:
                engine = Engine.open(resolve_model(name, runs=Path("runs")).path, dtype=mx.float32)
            engine.model.eval()
            yield name, engine


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
