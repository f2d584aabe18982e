"""The reward model: learn from comparisons how good an answer is, and how it would be graded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from afm_mlx import compat
from afm_mlx.alignment.logps import PackedAnswers
from afm_mlx.alignment.measures import RewardMeasure, grade_table, won
from afm_mlx.alignment.pairs import PairOrder, open_pairs, pack_pairs
from afm_mlx.alignment.reward import HEADS, RewardModel, initialize_heads, save_reward_model
from afm_mlx.artifact import Inputs, write_text
from afm_mlx.decoder.checkpoint import check_context, open_checkpoint, read_shape
from afm_mlx.progress import Progress
from afm_mlx.ranks import joined
from afm_mlx.recipe import Recipe
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.loop import Course, train
from afm_mlx.training.micro_batches import Batch, micro_batches
from afm_mlx.training.objectives import grade_loss, reward_ranking_loss
from afm_mlx.training.optimizer import Rates, UpdateRule
from afm_mlx.training.sharding import layout_of

MICRO_ANSWERS = 8  # answers at once while nothing is trained, when the recipe does not say; ours

HEAD_LAYERS = ("reward", "grade_hidden", "grade_output")
"""Layers that start anew."""


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Train heads on the model that comes before, and that model; leave a checkpoint in `out`.

    Raises:
        DataError: a line is no comparison, or none is short enough.
        ModelError: the model's context is shorter than the longest answer may be.
        FitError, RunError: see `training.loop.train`.
    """
    section, settings = recipe.reward, recipe.training
    start = recipe.start_of("reward")
    assert section is not None
    assert start is not None
    folder = inputs[start] / "model"
    tokenizer = Tokenizer.open(folder)
    check_context(read_shape(folder), section.max_tokens, "reward.max_tokens")
    pairs = open_pairs(
        {name: source.file(inputs) for name, source in section.data.items()},
        tokenizer,
        max_tokens=section.max_tokens,
        held_out_fraction=section.held_out_fraction,
        levels=section.levels,
        grades=section.grades,
        grade_classes=section.grade_classes,
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
    steps, trained = order.steps(section.epochs), pairs.all_train()
    progress.say(f"  {pairs.summary()}; {steps:,} steps of {section.pairs_per_step:,} pairs")
    decoder = open_checkpoint(folder, dtype=mx.float32, dense=True)
    width = decoder.shape.hidden_size
    model = RewardModel(
        decoder,
        qualities=section.grades,
        classes=section.grade_classes,
        inner=max(1, width // section.grade_width_divisor),
        likelihood_weight=section.likelihood_weight,
    )
    initialize_heads(model, settings.seed)

    layout = layout_of(model, settings)
    micro_pairs = max(1, settings.rows_at_once(2 * section.pairs_per_step) // 2)

    def batches(step: int) -> list[Batch]:
        pairs_of_step = [trained[at] for at in order.pairs(step)]

        def build(part: slice) -> Batch:
            pairs = pairs_of_step[part]
            probabilities = mx.array([pair.probability for pair in pairs])
            return (*pack_pairs(pairs), probabilities, mx.array(grade_table(pairs)))

        return micro_batches(build, section.pairs_per_step, micro_pairs, layout.data)

    def loss(model: RewardModel, *batch: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        *packed, probability, grades = batch
        scores = model(PackedAnswers(*packed), checkpoint=settings.activation_checkpointing)
        chosen, rejected = mx.split(scores.rewards, 2)
        ranking, count = reward_ranking_loss(chosen, rejected, probability)
        graded, _ = grade_loss(scores.grades, grades)
        return ranking + section.grade_weight * graded, {
            "tokens": count,
            "ranking": ranking,
            "grading": graded,
            "margin": mx.sum(chosen - rejected),
            "accuracy": mx.sum(won(chosen - rejected)),
        }

    measured = pairs.measured(recipe.watch.evaluation_tokens)
    measure = RewardMeasure(measured, most_answers=settings.micro_rows or MICRO_ANSWERS)
    head_rates = Rates(section.head_lr_factor, section.weight_decay)
    outcome = train(
        model,
        loss,
        batches,
        UpdateRule(
            recipe.optimizer.model_copy(update={"skip_norm": section.skip_norm}),
            hidden_size=width,
            rates=dict.fromkeys(HEAD_LAYERS, head_rates),
        ),
        Course(
            steps=steps,
            lr=section.lr,
            warmup_steps=round(section.warmup_fraction * steps),
            final_lr_fraction=section.final_lr_fraction,
            weight_decay=section.weight_decay,
            most_skipped_steps=settings.most_skipped_steps,
        ),
        compute=compat.compute_dtype(settings.compute),
        exact=HEADS,
        work=out,
        watch=recipe.watch,
        progress=progress,
        evaluate=measure if measured else None,
        counted="pairs",
        layout=layout,
    )
    final = outcome.evaluation or (measure(model) if measured else {})
    facts = {"recipe": recipe.name, "stage": "reward", "tokenizer": tokenizer.fingerprint}
    joined().once(out, lambda: save_reward_model(out / "model", model, folder, facts=facts))
    return {
        **final,
        **pairs.counts(),
        "steps": steps,
        **outcome.metrics(),
    }
