"""Parts of small recipes as TOML, and texts for them: what tests have alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SHAPE = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "vocab_size": 384,  # more than a small tokenizer has pieces, as models have
    "rope_base": 10_000,
    "norm_eps": 1e-5,
    "max_tokens": 64,
}


def shape(**changes: object) -> str:
    """[shape]: two layers of width 32, four heads on two, unless there are changes."""
    return section("shape", SHAPE | changes)


def pretraining(name: str, mixture: Mapping[str, float], **changes: object) -> str:
    """[core] and the like: 16 steps of 4 rows of 32 tokens, unless there are changes."""
    settings = {
        "tokens": 2_048,
        "row_tokens": 32,
        "rows_per_step": 4,
        "lr": 0.01,
        "warmup_steps": 2,
        "final_lr_fraction": 0.1,
        "weight_decay": 1e-4,
    }
    shares = {f"mixture.{source}": share for source, share in mixture.items()}
    return section(name, settings | changes | shares)


def section(name: str, settings: Mapping[str, object]) -> str:
    """A section with its settings; texts among them stand as they are."""
    return "".join([f"[{name}]\n", *(f"{key} = {value}\n" for key, value in settings.items())])


def write_poems(folder: Path, count: int = 60) -> None:
    """As many short texts of three lines, no two alike."""
    for i in range(count):
        words = enumerate(["salt", "wind", "rain"])
        lines = [f"the {word} of the sea {i + n} is old\n" for n, word in words]
        (folder / f"{i:02}.txt").write_text("".join(lines) * 3)
