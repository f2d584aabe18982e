"""Pre-training: core, continued and context lengthening are this story with other settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from afm_mlx import compat
from afm_mlx.artifact import Inputs
from afm_mlx.corpus.held_out import Split
from afm_mlx.corpus.mixture import Rows, held_out_rows
from afm_mlx.corpus.packing import document_ids, document_mask, shift_right
from afm_mlx.corpus.shards import Shards
from afm_mlx.decoder.checkpoint import check_tokenizer, open_checkpoint, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, count_parameters, initialize
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.loop import Batch, Course, train
from afm_mlx.training.objectives import next_token_loss
from afm_mlx.training.optimizer import UpdateRule
from afm_mlx.training.validation import held_out_loss

EVALUATION_MICRO_ROWS = 8  # held-out rows in memory at once, when the recipe does not say; ours


def run(
    recipe: Recipe, inputs: Inputs, out: Path, progress: Progress, *, stage: str
) -> dict[str, Any]:
    """Train `stage` from the stage before, or from random weights; leave a checkpoint in `out`.

    Raises:
        DataError: shards are damaged, of another tokenizer, or shorter than a row.
        FitError, RunError: see `training.loop.train`.
    """
    section, settings = recipe.pretraining(stage), recipe.training
    tokenizer_folder = inputs["tokenizer"] / "tokenizer"
    tokenizer = Tokenizer.open(tokenizer_folder)
    shape = recipe.shape_of(stage)
    check_tokenizer(shape, tokenizer.vocab_size, tokenizer_folder)
    model = Decoder(shape)
    before = recipe.stage_before(stage)
    if before is None:
        initialize(model, settings.seed)
    else:
        model.update(open_checkpoint(inputs[before] / "model", dtype=mx.float32).parameters())

    rows = Rows(
        {name: _open_shards(inputs, name, "train", tokenizer) for name in section.mixture},
        section.mixture,
        row_tokens=section.row_tokens,
        seed=settings.seed,
    )
    micro_rows = settings.rows_at_once(section.rows_per_step)
    eos = tokenizer.eos_id

    def batches(step: int) -> list[Batch]:
        first = (step - 1) * section.rows_per_step
        targets = mx.array(rows.rows(first, section.rows_per_step))
        return [(micro,) for micro in mx.split(targets, section.rows_per_step // micro_rows)]

    def loss(model: Decoder, targets: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        tokens = shift_right(targets, eos)
        return next_token_loss(
            model,
            tokens,
            targets,
            mx.ones(targets.shape),
            mask=document_mask(document_ids(tokens, eos)) if settings.document_mask else "causal",
            z_loss=settings.z_loss,
            chunk_bytes=settings.loss_bytes,
            checkpoint=settings.activation_checkpointing,
        )

    course = Course(
        steps=section.steps,
        lr=section.lr,
        warmup_steps=section.warmup_steps,
        final_lr_fraction=section.final_lr_fraction,
        weight_decay=section.weight_decay,
        most_skipped_steps=settings.most_skipped_steps,
    )
    evaluate = _validation(recipe, inputs, tokenizer, model, row_tokens=section.row_tokens)
    progress.say(
        f"  {sum(count_parameters(shape).values()):,} parameters, {section.steps:,} steps of "
        f"{section.tokens_per_step:,} tokens, RoPE base {shape.rope_base:,.0f}"
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
    )
    final = outcome.evaluation or evaluate(model)
    facts = {"recipe": recipe.name, "stage": stage, "tokenizer": tokenizer.fingerprint}
    save_checkpoint(out / "model", model, tokenizer_folder, facts=facts)
    return {
        **final,
        "loss": outcome.losses[-1][1] if outcome.losses else None,
        "tokens": section.steps * section.tokens_per_step,
        "epochs": rows.epochs(section.steps * section.rows_per_step),
        "earlier_seconds": outcome.earlier_seconds,
        "peak_gb": round(outcome.peak_bytes / 1e9, 3),
    }


def _open_shards(inputs: Inputs, name: str, split: Split, tokenizer: Tokenizer) -> Shards:
    """Shards whose checksums are right: one read of the files, seconds before hours of work."""
    shards = Shards.open(inputs["data"] / name, split, tokenizer.fingerprint)
    shards.verify()
    return shards


def _validation(
    recipe: Recipe, inputs: Inputs, tokenizer: Tokenizer, model: Decoder, *, row_tokens: int
) -> Callable[[Decoder], dict[str, Any]]:
    """Held-out loss over all of the recipe's sources, and samples. The same text in all stages."""
    sources = [name for name, source in recipe.data.items() if source.held_out_fraction > 0]
    held_out = {
        name: held_out_rows(
            _open_shards(inputs, name, "held_out", tokenizer),
            row_tokens=row_tokens,
            span_tokens=max(recipe.pretraining(s).row_tokens for s in recipe.pretraining_stages()),
            most_tokens=recipe.watch.evaluation_tokens // len(sources),
        )
        for name in sources
    }
    engine = (
        Engine(model, inputs["tokenizer"] / "tokenizer") if recipe.watch.sample_prompts else None
    )

    def evaluate(model: Decoder) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if held_out:
            found = held_out_loss(
                model,
                held_out,
                eos_id=tokenizer.eos_id,
                micro_rows=recipe.training.micro_rows or EVALUATION_MICRO_ROWS,
                chunk_bytes=recipe.training.loss_bytes,
            )
        if engine:
            tokens = recipe.watch.sample_tokens
            found["samples"] = {
                prompt: "".join(c.text for c in engine.stream(prompt, raw=True, max_tokens=tokens))
                for prompt in recipe.watch.sample_prompts
            }
        return found

    return evaluate
