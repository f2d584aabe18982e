"""Recovery's lessons: rows of texts and of conversations, and a teacher's word on each.

Texts first, as the model itself was made (source: OB, LS, notes on arXiv:2407.21075), or both by
turns.

Shapes. R rows of a step, T tokens of a row, K candidates of the teacher for one token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx import compat
from afm_mlx.artifact import Inputs
from afm_mlx.corpus.packing import document_ids, document_mask, shift_right
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.settings.palette import LessonOrder, Recover
from afm_mlx.settings.sections import Training, Watch
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.demonstrations import read_demonstrations
from afm_mlx.training.examples import Examples, PackedExamples, Rows
from afm_mlx.training.loop import Course, Outcome, Rule, train
from afm_mlx.training.micro_batches import Batch, micro_batches
from afm_mlx.training.objectives import distillation_targets, next_token_loss
from afm_mlx.training.sharding import layout_of
from afm_mlx.training.texts import TrainingTexts


@dataclass(frozen=True)
class Lesson:
    """Rows of one step."""

    inputs: NDArray[np.int32]
    """[R, T] ids."""
    targets: NDArray[np.int32]
    """[R, T], the id after each of them."""
    weights: NDArray[np.float32]
    """[R, T], 1 where the target is learned."""
    documents: NDArray[np.int32] | None
    """[R, T], numbers of documents that see only themselves; None: each row is one."""


class Lessons:
    """Steps on texts and steps on conversations. A function of the step."""

    def __init__(
        self,
        texts: TrainingTexts | None,
        conversations: Mapping[str, Examples],
        weights: Mapping[str, float],
        *,
        steps: int,
        conversation_fraction: float,
        order: LessonOrder,
        row_tokens: int,
        rows_per_step: int,
        eos_id: int,
        document_mask: bool,
        seed: int,
    ) -> None:
        """Plan all steps.

        Args:
            texts: rows of the same size; None: conversations alone.
            conversations: examples by source, none longer than a row; none at all: texts alone.
            weights: of the sources, as `PackedExamples` takes them.
            steps: how many there are.
            conversation_fraction: share of them on conversations, where there are both.
            order: which ones these are.
            row_tokens: T.
            rows_per_step: R.
            eos_id: ends a document of the texts.
            document_mask: whether documents of one row of texts see only themselves.
            seed: decides the order.
        """
        there = any(len(examples) for examples in conversations.values())
        share = 0.0 if not there else 1.0 if texts is None else conversation_fraction
        self.steps, self.order = steps, order
        self.text_steps = steps - round(share * steps)
        self.texts, self.eos_id, self.document_mask = texts, eos_id, document_mask
        self._packed: PackedExamples | None = None
        while there and (self._packed is None or self._packed.steps < steps - self.text_steps):
            self._packed = PackedExamples(
                conversations,
                weights,
                row_tokens=row_tokens,
                rows_per_step=rows_per_step,
                epochs=1 if self._packed is None else 2 * self._packed.epochs,
                seed=seed,
            )

    def step(self, number: int) -> Lesson:
        """Rows of a step, counted from 1; after the last one, conversations begin anew."""
        told = self._conversations_until(number)
        if told == self._conversations_until(number - 1):
            assert self.texts is not None
            targets = self.texts.targets(number - told)
            inputs = shift_right(mx.array(targets), self.eos_id)
            documents = np.array(document_ids(inputs, self.eos_id)) if self.document_mask else None
            weights = np.ones(targets.shape, np.float32)
            return Lesson(np.array(inputs), targets, weights, documents)
        assert self._packed is not None
        rows: Rows = self._packed.rows((told - 1) % self._packed.steps + 1)
        return Lesson(rows.inputs, rows.targets, rows.weights, rows.documents)

    def first_rows(self, count: int) -> NDArray[np.int32]:
        """Inputs [count, T] of the first rows, also of more than training has."""
        inputs: list[NDArray[np.int32]] = []
        while sum(map(len, inputs)) < count:
            inputs.append(self.step(len(inputs) + 1).inputs)
        return np.concatenate(inputs)[:count]

    def _conversations_until(self, number: int) -> int:
        """Steps on conversations among the first `number` ones."""
        if self.order is LessonOrder.MIXED:
            return number * (self.steps - self.text_steps) // self.steps
        return max(0, number - self.text_steps)


def open_lessons(recipe: Recipe, inputs: Inputs, tokenizer: Tokenizer) -> tuple[Lessons, Examples]:
    """Lessons of [recover] from a recipe's texts and its conversations, and examples held out.

    Raises:
        DataError: texts or conversations are damaged, or shorter than a row.
    """
    section, settings = recipe.recover, recipe.training
    assert section is not None
    shown, held_out = {}, Examples.of([])
    if section.data:
        read = read_demonstrations(
            {name: source.file(inputs) for name, source in section.data.items()},
            tokenizer,
            row_tokens=section.row_tokens,
            held_out_fraction=section.held_out_fraction,
            skip_bad=section.skip_bad,
            section="recover",
        )
        shown, held_out = read.train, read.held_out
    texts = None
    if recipe.data:
        texts = TrainingTexts(
            inputs["data"],
            section.mixture or dict.fromkeys(recipe.data, 1.0),
            tokenizer,
            row_tokens=section.row_tokens,
            rows_per_step=section.rows_per_step,
            seed=settings.seed,
        )
    lessons = Lessons(
        texts,
        shown,
        {name: source.weight for name, source in section.data.items()},
        steps=section.steps,
        conversation_fraction=section.conversation_fraction,
        order=section.order,
        row_tokens=section.row_tokens,
        rows_per_step=section.rows_per_step,
        eos_id=tokenizer.eos_id,
        document_mask=settings.document_mask,
        seed=settings.seed,
    )
    return lessons, held_out


def learn(
    model: Decoder,
    lessons: Lessons,
    says: Callable[[int, slice], tuple[NDArray[np.int32], NDArray[np.float32]]] | None,
    section: Recover,
    *,
    settings: Training,
    rule: Rule,
    watch: Watch,
    work: Path,
    progress: Progress,
    evaluate: Callable[[Any], dict[str, Any]],
) -> Outcome:
    """Teach `model`, in place, what a teacher predicts of all steps.

    Args:
        model: its unfrozen weights, float32, are trained. Its output layer is not among them.
        lessons: all steps.
        says: the teacher's candidates [R, T, K] of some rows of a step, and their probabilities.
            None: nothing, and the text's own tokens are learned.
        section: how.
        settings: what all training shares.
        rule: the update rule.
        watch: when to log, validate and snapshot.
        work: folder of the snapshots and the log.
        progress: where the journey is told.
        evaluate: what is measured at validations.

    Raises:
        FitError, RunError: see `training.loop.train`.
    """
    micro_rows = settings.rows_at_once(section.rows_per_step)
    nothing: NDArray[Any] = np.zeros((section.rows_per_step, 0), np.int32)
    layout = layout_of(model, settings)

    def batches(step: int) -> list[Batch]:
        lesson = lessons.step(step)

        def build(part: slice) -> Batch:
            said = says(step, part) if says else (nothing[part], nothing[part])
            arrays = [lesson.inputs[part], lesson.targets[part], lesson.weights[part], *said]
            arrays += [] if lesson.documents is None else [lesson.documents[part]]
            return tuple(map(mx.array, arrays))

        return micro_batches(build, section.rows_per_step, micro_rows, layout.data)

    def loss(
        model: Decoder,
        inputs: mx.array,
        text: mx.array,
        weights: mx.array,
        candidates: mx.array,
        probabilities: mx.array,
        documents: mx.array | None = None,
    ) -> tuple[mx.array, dict[str, mx.array]]:
        targets, shares = text, None
        if says:
            targets, shares = distillation_targets(
                text, candidates, probabilities, teacher_weight=section.reference_weight
            )
        return next_token_loss(
            model,
            inputs,
            targets,
            weights,
            mask="causal" if documents is None else document_mask(documents),
            z_loss=0.0,
            chunk_bytes=settings.loss_bytes,
            shares=shares,
            checkpoint=settings.activation_checkpointing,
            train_weight=False,
        )

    course = Course(
        steps=section.steps,
        lr=section.lr,
        warmup_steps=round(section.warmup_fraction * section.steps),
        final_lr_fraction=section.final_lr_fraction,
        weight_decay=section.weight_decay,
        most_skipped_steps=settings.most_skipped_steps,
    )
    return train(
        model,
        loss,
        batches,
        rule,
        course,
        compute=compat.compute_dtype(settings.compute),
        work=work,
        watch=watch,
        progress=progress,
        evaluate=evaluate,
        layout=layout,
    )
