"""Preference training: move a model towards the answers that were preferred, by DPO or IPO."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from afm_mlx import compat
from afm_mlx.alignment.logps import PackedAnswers, answer_logps
from afm_mlx.alignment.measures import PreferenceMeasure, won
from afm_mlx.alignment.pairs import PairOrder, open_pairs, pack_pairs
from afm_mlx.alignment.reference import reference_logps
from afm_mlx.artifact import Inputs, write_text
from afm_mlx.decoder.checkpoint import check_context, open_checkpoint, read_shape, save_checkpoint
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.progress import Progress, bar
from afm_mlx.ranks import joined
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import PreferenceMethod
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.loop import Course, train
from afm_mlx.training.micro_batches import Batch, micro_batches
from afm_mlx.training.objectives import dpo_loss, ipo_loss, preference_margin
from afm_mlx.training.optimizer import UpdateRule
from afm_mlx.training.sharding import layout_of

MICRO_ANSWERS = 8  # answers at once while nothing is trained, when the recipe does not say; ours


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the model that comes before on the comparisons; leave a checkpoint in `out`.

    Raises:
        DataError: a line is no comparison, or none is short enough.
        ModelError: the model's context is shorter than the longest answer may be.
        FitError, RunError: see `training.loop.train`.
    """
    section, settings = recipe.prefer, recipe.training
    start = recipe.start_of("prefer")
    assert section is not None
    assert start is not None
    folder = inputs[start] / "model"
    tokenizer = Tokenizer.open(folder)
    compute = compat.compute_dtype(settings.compute)
    check_context(read_shape(folder), section.max_tokens, "prefer.max_tokens")
    pairs = open_pairs(
        {name: source.file(inputs) for name, source in section.data.items()},
        tokenizer,
        max_tokens=section.max_tokens,
        held_out_fraction=section.held_out_fraction,
        skip_bad=section.skip_bad,
    )
    skipped = "".join(line + "\n" for line in pairs.skipped)
    joined().once(out, lambda: write_text(out / "skipped.txt", skipped))
    order = PairOrder(
        {name: len(each) for name, each in pairs.train.items()},
        {name: source.weight for name, source in section.data.items()},
        pairs_per_step=section.pairs_per_step,
        seed=settings.seed,
    )
    steps = order.steps(section.epochs)
    progress.say(f"  {pairs.summary()}; {steps:,} steps of {section.pairs_per_step:,} pairs")

    def done(count: int, total: int) -> None:
        line = f"  {bar(count, total)} {count:,} of {total:,} pairs read by the reference"
        progress.status(line, last=count == total)

    # The reference is the model before its first update: two floats a pair, and no second model.
    trained, measured = pairs.all_train(), pairs.measured(recipe.watch.evaluation_tokens)
    micro_answers = settings.micro_rows or MICRO_ANSWERS
    find_reference = partial(
        reference_logps,
        lambda: open_checkpoint(folder, dtype=compute),
        [*trained, *measured],
        out / "reference.f32",
        pairs_at_once=max(1, micro_answers // 2),
        chunk_bytes=settings.loss_bytes,
        done=done,
    )
    joined().once(out, find_reference)
    reference = find_reference()  # all is in the file now

    model = open_checkpoint(folder, dtype=mx.float32, dense=True)
    layout = layout_of(model, settings)
    micro_pairs = max(1, settings.rows_at_once(2 * section.pairs_per_step) // 2)

    def batches(step: int) -> list[Batch]:
        pairs_of_step = order.pairs(step)

        def build(part: slice) -> Batch:
            pairs = pairs_of_step[part]
            return (*pack_pairs([trained[at] for at in pairs]), *mx.array(reference[pairs].T))

        return micro_batches(build, section.pairs_per_step, micro_pairs, layout.data)

    def loss(model: Decoder, *batch: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        *packed, chosen, rejected = batch
        logps = answer_logps(
            model,
            PackedAnswers(*packed),
            chunk_bytes=settings.loss_bytes,
            checkpoint=settings.activation_checkpointing,
        )
        policy_chosen, policy_rejected = mx.split(logps.answers, 2)
        margin = preference_margin(policy_chosen, policy_rejected, chosen, rejected)
        if section.method is PreferenceMethod.DPO:
            total, count = dpo_loss(margin, beta=section.beta)
        else:
            total, count = ipo_loss(margin, tau=section.tau)
        sums = {"tokens": count, "margin": mx.sum(margin), "accuracy": mx.sum(won(margin))}
        return total, sums

    measure = PreferenceMeasure(
        measured,
        reference[len(trained) :],
        most_answers=micro_answers,
        chunk_bytes=settings.loss_bytes,
    )
    outcome = train(
        model,
        loss,
        batches,
        UpdateRule(
            recipe.optimizer.model_copy(update={"skip_norm": section.skip_norm}),
            hidden_size=model.shape.hidden_size,
        ),
        Course(
            steps=steps,
            lr=section.lr,
            warmup_steps=round(section.warmup_fraction * steps),
            final_lr_fraction=section.final_lr_fraction,
            weight_decay=section.weight_decay,
            most_skipped_steps=settings.most_skipped_steps,
        ),
        compute=compute,
        work=out,
        watch=recipe.watch,
        progress=progress,
        evaluate=measure if measured else None,
        counted="pairs",
        layout=layout,
    )
    final = outcome.evaluation or (measure(model) if measured else {})
    facts = {"recipe": recipe.name, "stage": "prefer", "tokenizer": tokenizer.fingerprint}
    joined().once(out, lambda: save_checkpoint(out / "model", model, folder, facts=facts))
    return {
        **final,
        **{f"start_{name}": value for name, value in measure.start().items()},
        **pairs.counts(),
        "steps": steps,
        **outcome.metrics(),
    }
