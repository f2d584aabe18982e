"""Pre-training: teacher, core, continued and context lengthening are this story, settings apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from afm_mlx import compat
from afm_mlx.artifact import Inputs
from afm_mlx.compression.labels import LabelledTeacher, Labels
from afm_mlx.compression.teacher import Teacher, open_teacher
from afm_mlx.decoder.checkpoint import check_tokenizer, open_checkpoint, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, count_parameters, initialize
from afm_mlx.decoder.tensor_parallel import cut_decoder
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress
from afm_mlx.ranks import ALONE, Ranks, joined
from afm_mlx.recipe import Recipe
from afm_mlx.settings.compression import Distill, LabelTime
from afm_mlx.settings.sections import Shard
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.loop import Course, train
from afm_mlx.training.micro_batches import Batch, micro_batches
from afm_mlx.training.objectives import distillation_targets, text_loss
from afm_mlx.training.optimizer import UpdateRule
from afm_mlx.training.sharding import layout_of, whole_decoder
from afm_mlx.training.texts import TrainingTexts, open_held_out
from afm_mlx.training.validation import Validation


def run(
    recipe: Recipe, inputs: Inputs, out: Path, progress: Progress, *, stage: str
) -> dict[str, Any]:
    """Train `stage` from the stage before, or from random weights; leave a checkpoint in `out`.

    Raises:
        DataError: shards or labels are damaged, of another tokenizer, or shorter than a row.
        ModelError: the teacher cannot teach this model.
        FitError, RunError: see `training.loop.train`.
    """
    section, settings = recipe.pretraining(stage), recipe.training
    tokenizer_folder = inputs["tokenizer"] / "tokenizer"
    tokenizer = Tokenizer.open(tokenizer_folder)
    shape = recipe.shape_of(stage)
    check_tokenizer(shape, tokenizer.vocab_size, tokenizer_folder)
    before = recipe.start_of(stage)
    parts = joined() if settings.shard is Shard.TENSOR else ALONE
    if before is None:
        model = Decoder(shape)
        initialize(model, settings.seed)
        model = cut_decoder(model, parts) if parts.size > 1 else model
    else:
        model = open_checkpoint(
            inputs[before] / "model", shape=shape, dtype=mx.float32, dense=True, ranks=parts
        )

    texts = TrainingTexts(
        inputs["data"],
        section.mixture,
        tokenizer,
        row_tokens=section.row_tokens,
        rows_per_step=section.rows_per_step,
        seed=settings.seed,
    )
    distill = recipe.distill if stage in recipe.distilled_stages() else None
    teacher = _teacher(recipe, distill, inputs, stage, texts, tokenizer) if distill else None
    micro_rows, eos = settings.rows_at_once(section.rows_per_step), tokenizer.eos_id
    layout = layout_of(model, settings)

    def batches(step: int) -> list[Batch]:
        all_rows, places = texts.targets(step), texts.places(step)

        def build(part: slice) -> Batch:
            rows = all_rows[part]
            if teacher is None:
                return (mx.array(rows),)
            said = teacher.says(rows, places[part])
            return mx.array(rows), mx.array(said.ids), mx.array(said.probabilities)

        return micro_batches(build, section.rows_per_step, micro_rows, layout.data)

    def loss(
        model: Decoder, rows: mx.array, *said: mx.array
    ) -> tuple[mx.array, dict[str, mx.array]]:
        targets, shares = None, None
        if distill:
            weight = distill.teacher_weight
            targets, shares = distillation_targets(rows, *said, teacher_weight=weight)
        return text_loss(model, rows, eos_id=eos, settings=settings, targets=targets, shares=shares)

    course = Course(
        steps=section.steps,
        lr=section.lr,
        warmup_steps=section.warmup_steps,
        final_lr_fraction=section.final_lr_fraction,
        weight_decay=section.weight_decay,
        most_skipped_steps=settings.most_skipped_steps,
    )
    evaluate = _validation(
        recipe, inputs, tokenizer, model, row_tokens=section.row_tokens, ranks=parts
    )
    start = evaluate(model) if before == "base" else {}
    progress.say(
        f"  {sum(count_parameters(shape).values()):,} parameters, {section.steps:,} steps of "
        f"{section.tokens_per_step:,} tokens, RoPE base {shape.rope_base:,.0f}"
        + (f", labels of the teacher: {distill.labels}" if distill else "")
    )
    outcome = train(
        model,
        loss,
        batches,
        UpdateRule(recipe.optimizer, hidden_size=shape.hidden_size),
        course,
        compute=compat.compute_dtype(settings.compute),
        work=out,
        watch=recipe.watch,
        progress=progress,
        evaluate=evaluate,
        layout=layout,
    )
    final = outcome.evaluation or evaluate(model)
    facts = {"recipe": recipe.name, "stage": stage, "tokenizer": tokenizer.fingerprint}
    whole = whole_decoder(model, shape, layout)
    joined().once(out, lambda: save_checkpoint(out / "model", whole, tokenizer_folder, facts=facts))
    return {
        **final,
        **{f"base_{name}": start[name] for name in ("held_out_nats",) if name in start},
        "tokens": section.steps * section.tokens_per_step,
        "epochs": texts.epochs(section.steps),
        **outcome.metrics(),
    }


def _teacher(
    recipe: Recipe,
    section: Distill,
    inputs: Inputs,
    stage: str,
    texts: TrainingTexts,
    tokenizer: Tokenizer,
) -> Teacher:
    """Who says what the student is to predict: the teacher's model, or its label files."""
    settings = recipe.training
    if section.labels is LabelTime.BEFORE:
        row_tokens = recipe.pretraining(stage).row_tokens
        return LabelledTeacher(
            {
                name: Labels.open(
                    inputs["labels"] / stage / name,
                    shards,
                    row_tokens=row_tokens,
                    candidates=section.asked,
                )
                for name, shards in texts.shards.items()
            }
        )
    return open_teacher(
        inputs["teacher"] / "model",
        recipe.shape_of(stage),
        tokenizer,
        dtype=compat.compute_dtype(settings.compute),
        candidates=section.asked,
        temperature=section.temperature,
        document_mask=settings.document_mask,
        micro_rows=settings.rows_at_once(recipe.pretraining(stage).rows_per_step),
        chunk_bytes=settings.loss_bytes,
    )


def _validation(
    recipe: Recipe,
    inputs: Inputs,
    tokenizer: Tokenizer,
    model: Decoder,
    *,
    row_tokens: int,
    ranks: Ranks,
) -> Validation:
    """Held-out loss over all of the recipe's sources, and samples. The same text in all stages."""
    watch, write = recipe.watch, None
    if watch.sample_prompts:
        engine = Engine(model, inputs["tokenizer"] / "tokenizer", ranks=ranks)

        def write(prompt: str) -> str:
            if ranks.rank > 0:
                engine.follow()
                return ""
            chunks = engine.stream(prompt, raw=True, max_tokens=watch.sample_tokens)
            text = "".join(chunk.text for chunk in chunks)
            engine.dismiss()
            return text

    return Validation(
        open_held_out(
            inputs["data"],
            recipe.data,
            tokenizer,
            row_tokens=row_tokens,
            span_tokens=recipe.longest_row(),
            most_tokens=watch.evaluation_tokens,
        ),
        eos_id=tokenizer.eos_id,
        micro_rows=recipe.training.micro_rows,
        chunk_bytes=recipe.training.loss_bytes,
        prompts=watch.sample_prompts,
        write=write,
    )
