"""Pruning: choose the feed-forward units of the teacher that the student keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx

from afm_mlx import compat
from afm_mlx.artifact import Inputs
from afm_mlx.compression.importance import (
    activation_importance,
    gradient_importance,
    standardized_logs,
)
from afm_mlx.compression.masks import MaskedDecoder, annealed, cut_units
from afm_mlx.compression.topk import hard_top_k
from afm_mlx.corpus.packing import shift_right
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, count_parameters
from afm_mlx.decoder.weights import write_file
from afm_mlx.errors import ModelError
from afm_mlx.progress import Progress
from afm_mlx.ranks import ALONE, Ranks, joined
from afm_mlx.recipe import Recipe
from afm_mlx.settings.compression import PruneMethod
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.loop import Course, Loss, train
from afm_mlx.training.micro_batches import Batch, micro_batches
from afm_mlx.training.objectives import text_loss
from afm_mlx.training.optimizer import Rates, UpdateRule
from afm_mlx.training.sharding import layout_of
from afm_mlx.training.texts import TrainingTexts, open_held_out
from afm_mlx.training.validation import Validation

_SAME = (
    "num_layers",
    "hidden_size",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "vocab_size",
    "qk_norm",
    "tied",
)
"""Settings of [shape] that pruning keeps."""


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Prune the teacher to the width of the recipe's shape; leave a checkpoint in `out`.

    Raises:
        DataError: shards are damaged, of another tokenizer, or shorter than a row.
        ModelError: the teacher is not wider than what is to be kept, or of another shape.
        FitError, RunError: see `training.loop.train`.
    """
    section, settings, width = recipe.prune, recipe.training, recipe.shape.intermediate_size
    assert section is not None
    folder = inputs["tokenizer"] / "tokenizer"
    tokenizer = Tokenizer.open(folder)
    model = open_checkpoint(inputs["teacher"] / "model", dtype=mx.float32, dense=True)
    wide = model.shape.intermediate_size
    _check_shape(model.shape, recipe)
    texts = TrainingTexts(
        inputs["data"],
        recipe.prune_mixture(),
        tokenizer,
        row_tokens=section.row_tokens,
        rows_per_step=section.rows_per_step,
        seed=settings.seed,
    )
    micro_rows, eos = settings.rows_at_once(section.rows_per_step), tokenizer.eos_id

    def rows_of(step: int, ranks: Ranks = ALONE) -> list[Batch]:
        rows = mx.array(texts.targets(step))
        return micro_batches(lambda part: (rows[part],), len(rows), micro_rows, ranks)

    def loss(model: Decoder, rows: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        return text_loss(model, rows, eos_id=eos, settings=settings)

    validation = Validation(
        open_held_out(
            inputs["data"],
            recipe.data,
            tokenizer,
            row_tokens=section.row_tokens,
            span_tokens=recipe.longest_row(),
            most_tokens=recipe.watch.evaluation_tokens,
        ),
        eos_id=eos,
        micro_rows=settings.micro_rows,
        chunk_bytes=settings.loss_bytes,
    )
    before = validation(model)
    progress.say(
        f"  {wide:,} to {width:,} units in each of {model.shape.num_layers} layers"
        + (f"; held out {before['held_out_nats']:.4f} nats per token" if before else "")
    )

    scoring_steps = -(-section.scoring_tokens // (section.row_tokens * section.rows_per_step))
    rows = (rows for step in range(1, scoring_steps + 1) for (rows,) in rows_of(step))
    metrics: dict[str, Any] = {"teacher_" + name: before[name] for name in before}
    if section.method is PruneMethod.ACTIVATION:
        importance = activation_importance(model, (shift_right(each, eos) for each in rows))
        student = cut_units(model, hard_top_k(importance, width))
    else:
        masked = _masked(model, out, rows, lambda model, rows: loss(model, rows)[0])
        metrics |= _learn(masked, recipe, rows_of, loss, validation, out=out, progress=progress)
        student = masked.cut(width, section.last_temperature)
        mass = masked.held_mass(width, section.last_temperature)
        progress.say(_mass_table(mass))
        metrics["held_mass"] = mass
    final = validation(student)
    if final:
        progress.say(f"  pruned: held out {final['held_out_nats']:.4f} nats per token")
    facts = {"recipe": recipe.name, "stage": "prune", "tokenizer": tokenizer.fingerprint}
    joined().once(out, lambda: save_checkpoint(out / "model", student, folder, facts=facts))
    return {**final, **metrics, "parameters": sum(count_parameters(student.shape).values())}


def _masked(
    model: Decoder,
    out: Path,
    rows: Iterable[mx.array],
    loss: Callable[[Decoder, mx.array], mx.array],
) -> MaskedDecoder:
    """The model with first scores, which are measured once and kept for a run that goes on."""
    kept = out / "importance.safetensors"

    def measure() -> None:
        if not kept.exists():
            part = out / "importance.part.safetensors"
            write_file(part, {"importance": gradient_importance(model, rows, loss)})
            part.replace(kept)

    joined().once(out, measure)
    arrays: Any = mx.load(str(kept))
    return MaskedDecoder(model, standardized_logs(arrays["importance"]))


def _learn(
    masked: MaskedDecoder,
    recipe: Recipe,
    rows_of: Callable[[int, Ranks], list[Batch]],
    loss: Loss,
    validation: Validation,
    *,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train masks and weights together, while the width shrinks and the masks harden."""
    section, settings = recipe.prune, recipe.training
    assert section is not None
    shape, width = masked.decoder.shape, recipe.shape.intermediate_size
    layout = layout_of(masked, settings)

    def batches(step: int) -> list[Batch]:
        done = step / section.steps
        k, temperature = annealed(
            done / section.anneal_fraction if section.anneal_fraction else 1.0,
            widths=(shape.intermediate_size, width),
            temperatures=(section.first_temperature, section.last_temperature),
        )
        more = mx.array(k), mx.array(temperature)
        return [type(batch)((*batch, *more)) for batch in rows_of(step, layout.data)]

    def masked_loss(
        model: MaskedDecoder, rows: mx.array, k: mx.array, temperature: mx.array
    ) -> tuple[mx.array, dict[str, mx.array]]:
        with model.masked(k, temperature) as decoder:
            return loss(decoder, rows)

    def evaluate(model: MaskedDecoder) -> dict[str, Any]:
        """Of what would be left if the units were cut now."""
        with model.hardened(width, section.last_temperature) as decoder:
            return validation(decoder)

    start = evaluate(masked)
    if start:
        progress.say(f"  by first scores: held out {start['held_out_nats']:.4f} nats per token")
    scores = Rates(section.score_lr_factor, section.score_weight_decay)
    outcome = train(
        masked,
        masked_loss,
        batches,
        UpdateRule(recipe.optimizer, hidden_size=shape.hidden_size, rates={"scores": scores}),
        Course(
            steps=section.steps,
            lr=section.lr,
            warmup_steps=round(section.warmup_fraction * section.steps),
            final_lr_fraction=section.final_lr_fraction,
            weight_decay=section.weight_decay,
            most_skipped_steps=settings.most_skipped_steps,
        ),
        compute=compat.compute_dtype(settings.compute),
        exact=("scores",),
        fuse=False,  # the masks are made in float64, on the CPU
        work=out,
        watch=recipe.watch,
        progress=progress,
        evaluate=evaluate,
        layout=layout,
    )
    return {
        **{"first_scores_" + name: start[name] for name in start},
        "tokens": section.steps * section.row_tokens * section.rows_per_step,
        **outcome.metrics(),
    }


def _check_shape(teacher: Shape, recipe: Recipe) -> None:
    """Raise unless it is the recipe's but for a wider feed-forward layer, rotation and context."""
    student, wide = recipe.shape, teacher.intermediate_size
    for name in _SAME:
        if (theirs := getattr(teacher, name)) != (ours := getattr(student, name)):
            raise ModelError(
                f"the teacher's {name} is {theirs}, and the student's {ours}",
                hint="pruning narrows the feed-forward layers; all else must be equal",
            )
    said = recipe.teacher.intermediate_size if recipe.teacher else None
    if said != wide:
        raise ModelError(
            f"teacher.intermediate_size is {said}, and the teacher's is {wide}",
            hint=f"--set teacher.intermediate_size={wide}",
        )
    if student.intermediate_size >= wide:
        raise ModelError(
            f"{student.intermediate_size:,} units are to be kept, and the teacher has {wide:,}",
            hint=f"--set shape.intermediate_size=... with a number below {wide:,}",
        )


def _mass_table(mass: list[float]) -> str:
    """What the kept units hold of each layer's masks; the rest was cut away."""
    cells = [f"{layer:>3}: {share:7.2%}" for layer, share in enumerate(mass)]
    lines = ["   ".join(cells[start : start + 6]) for start in range(0, len(cells), 6)]
    return "\n".join(["  of each layer's masks, the kept units hold:", *lines])
