"""Labels: the teacher reads the texts of the distilled stages once, before training begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from afm_mlx import compat
from afm_mlx.artifact import Inputs, read_manifest
from afm_mlx.compression.labels import write_labels
from afm_mlx.compression.teacher import open_teacher
from afm_mlx.progress import Progress, bar
from afm_mlx.recipe import Recipe
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.texts import open_shards


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Leave label files in `out`/STAGE/NAME for each source of each distilled stage.

    Raises:
        DataError: shards are damaged or of another tokenizer.
        ModelError: the teacher cannot teach this model.
    """
    section, settings = recipe.distill, recipe.training
    assert section is not None
    manifest = read_manifest(inputs["teacher"]) or {}
    facts = {"fingerprint": manifest.get("fingerprint"), "temperature": section.temperature}
    tokenizer = Tokenizer.open(inputs["tokenizer"] / "tokenizer")
    metrics: dict[str, Any] = {}
    for stage in recipe.distilled_stages():
        pretraining = recipe.pretraining(stage)
        teacher = open_teacher(
            inputs["teacher"] / "model",
            recipe.shape_of(stage),
            tokenizer,
            dtype=compat.compute_dtype(settings.compute),
            candidates=section.asked,
            temperature=section.temperature,
            document_mask=settings.document_mask,
            micro_rows=settings.rows_at_once(pretraining.rows_per_step),
            chunk_bytes=settings.loss_bytes,
        )
        for name in pretraining.mixture:

            def done(tokens: int, total: int, name: str = name) -> None:
                progress.status(
                    f"  {bar(tokens, total)} {name}: {tokens:,} of {total:,} tokens labelled",
                    last=tokens == total,
                )

            metrics[f"{stage}/{name}"] = write_labels(
                teacher,
                open_shards(inputs["data"], name, "train", tokenizer),
                out / stage / name,
                row_tokens=pretraining.row_tokens,
                candidates=section.asked,
                facts=facts,
                done=done,
            )
    return metrics
