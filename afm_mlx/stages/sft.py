"""Supervised fine-tuning: a model learns to say what the assistant says in conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from afm_mlx.artifact import Inputs
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.progress import Progress
from afm_mlx.ranks import joined
from afm_mlx.recipe import Recipe
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.fine_tuning import fine_tune


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Fine-tune the model that comes before on the conversations; leave a checkpoint in `out`.

    Raises:
        DataError, ModelError, FitError, RunError: as `fine_tune`.
    """
    section = recipe.sft
    start = recipe.start_of("sft")
    assert section is not None
    assert start is not None
    folder = inputs[start] / "model"
    tokenizer = Tokenizer.open(folder)
    model = open_checkpoint(folder, dtype=mx.float32, dense=True)
    metrics = fine_tune(
        model,
        tokenizer,
        section,
        {name: source.file(inputs) for name, source in section.data.items()},
        name="sft",
        settings=recipe.training,
        optimizer=recipe.optimizer,
        watch=recipe.watch,
        work=out,
        progress=progress,
    )
    facts = {"recipe": recipe.name, "stage": "sft", "tokenizer": tokenizer.fingerprint}
    joined().once(out, lambda: save_checkpoint(out / "model", model, folder, facts=facts))
    return metrics
