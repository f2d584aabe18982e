"""Product adapters: a small change to a frozen model, for one feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.nn as nn

from afm_mlx import compat
from afm_mlx.artifact import Inputs
from afm_mlx.decoder.adapters import (
    AdapterFacts,
    base_hash,
    base_name,
    recovery_adapter,
    write_adapter,
)
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.decoder.lora import add_lora, load_lora, lora_arrays
from afm_mlx.decoder.palette import linears
from afm_mlx.progress import Progress
from afm_mlx.ranks import joined
from afm_mlx.recipe import Recipe
from afm_mlx.settings.recipe import ADAPTER
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.fine_tuning import fine_tune


def run(
    recipe: Recipe, inputs: Inputs, out: Path, progress: Progress, *, name: str
) -> dict[str, Any]:
    """Train the adapter of [adapters.`name`]; leave it in `out`/adapter.

    It starts from the recovery adapter that the model's folder holds, and takes its place: the two
    are not used together. Without one it starts from nothing.

    Raises:
        DataError, ModelError, FitError, RunError: as `fine_tune`.
        ModelError: the model has recovery adapters, and none of this rank.
    """
    section = recipe.adapters[name]
    start = recipe.start_of(f"{ADAPTER}{name}")
    assert start is not None
    base = inputs[start] / "model"
    tokenizer = Tokenizer.open(base)
    model = open_checkpoint(base, dtype=compat.compute_dtype(recipe.training.compute))
    dense = all(isinstance(linear, nn.Linear) for linear in linears(model).values())
    recovery = recovery_adapter(base, rank=section.rank)
    scale = recovery.facts.scale if recovery else section.scale
    model.freeze()
    if recovery:
        progress.say(f"  starts from adapter {recovery.facts.name} of {base_name(base)}")
        load_lora(model, recovery.arrays, scale=scale)
    else:
        add_lora(model, rank=section.rank, scale=scale, seed=recipe.training.seed)
    metrics = fine_tune(
        model,
        tokenizer,
        section,
        {key: source.file(inputs) for key, source in section.data.items()},
        name=f"adapters.{name}",
        settings=recipe.training,
        optimizer=recipe.optimizer,
        watch=recipe.watch,
        work=out,
        progress=progress,
    )
    facts = AdapterFacts(
        name=name,
        base=base_hash(base),
        base_name=base_name(base),
        rank=section.rank,
        alpha=scale * section.rank,
        parent=recovery.facts.name if recovery else "",
        tokenizer=tokenizer.fingerprint,
        data=tuple(source.path for source in section.data.values()),
        chat=True,
    )
    joined().once(
        out, lambda: write_adapter(out / "adapter", lora_arrays(model), facts, dense=dense)
    )
    return metrics | {"rank": section.rank, "base": facts.base, "parent": facts.parent}
