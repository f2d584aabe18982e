"""Training on conversations, of all of a model's weights or of an adapter's: what stages share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from afm_mlx import compat
from afm_mlx.artifact import write_text
from afm_mlx.corpus.packing import document_mask
from afm_mlx.decoder.checkpoint import check_context
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.progress import Progress
from afm_mlx.ranks import joined
from afm_mlx.settings.alignment import FineTuning
from afm_mlx.settings.sections import Optimizer, Training, Watch
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.demonstrations import Demonstrations, read_demonstrations
from afm_mlx.training.dropout import residual_dropout
from afm_mlx.training.examples import PackedExamples
from afm_mlx.training.loop import Course, train
from afm_mlx.training.micro_batches import Batch, micro_batches
from afm_mlx.training.objectives import next_token_loss
from afm_mlx.training.optimizer import UpdateRule
from afm_mlx.training.sharding import layout_of
from afm_mlx.training.state import step_key
from afm_mlx.training.validation import held_out_answers

SHOWN = 3  # bad lines that are printed; all are in skipped.txt


def fine_tune(
    model: Decoder,
    tokenizer: Tokenizer,
    section: FineTuning,
    files: Mapping[str, Path],
    *,
    name: str,
    settings: Training,
    optimizer: Optimizer,
    watch: Watch,
    work: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Teach `model`, in place, what the assistant says in conversations; returns metrics.

    Args:
        model: its unfrozen weights, float32, are trained.
        tokenizer: its own, with the chat template.
        section: how, such as [sft].
        files: conversations, by the names of `section.data`.
        name: of the section, for hints.
        settings: what all training shares.
        optimizer: the update rule.
        watch: when to log, validate and snapshot.
        work: the stage's folder in the making.
        progress: where the journey is told.

    Raises:
        DataError: a file or line is no conversation, or the chat template refuses one, or none is
            short enough.
        ModelError: the model's context is shorter than a row.
        FitError, RunError: see `training.loop.train`.
    """
    shape = model.shape
    check_context(shape, section.row_tokens, f"{name}.row_tokens")
    shown = read_demonstrations(
        files,
        tokenizer,
        row_tokens=section.row_tokens,
        held_out_fraction=section.held_out_fraction,
        skip_bad=section.skip_bad,
        section=name,
    )
    packed = PackedExamples(
        shown.train,
        {name: source.weight for name, source in section.data.items()},
        row_tokens=section.row_tokens,
        rows_per_step=section.rows_per_step,
        epochs=section.epochs,
        seed=settings.seed,
    )
    _tell(shown, packed, work, progress)
    flat: Any = tree_flatten(model.trainable_parameters())
    trained = {name: array.size for name, array in flat}
    del flat  # or what is cut would stay whole
    output_layer = "model.embed_tokens.weight" if shape.tied else "lm_head.weight"
    micro_rows = settings.rows_at_once(section.rows_per_step)
    layout = layout_of(model, settings)

    def batches(step: int) -> list[Batch]:
        rows = packed.rows(step)
        keys = mx.random.split(step_key(settings.seed, step), section.rows_per_step)
        arrays = (rows.inputs, rows.targets, rows.weights, rows.documents, keys)
        return micro_batches(
            lambda part: tuple(mx.array(each[part]) for each in arrays),
            section.rows_per_step,
            micro_rows,
            layout.data,
        )

    def loss(
        model: Decoder,
        tokens: mx.array,
        targets: mx.array,
        weights: mx.array,
        documents: mx.array,
        keys: mx.array,
    ) -> tuple[mx.array, dict[str, mx.array]]:
        return next_token_loss(
            model,
            tokens,
            targets,
            weights,
            mask=document_mask(documents) if section.document_mask else "causal",
            z_loss=settings.z_loss,
            chunk_bytes=settings.loss_bytes,
            checkpoint=settings.activation_checkpointing,
            branch=residual_dropout(section.dropout_fraction, keys, num_layers=shape.num_layers),
            train_weight=output_layer in trained,
        )

    def evaluate(model: Decoder) -> dict[str, Any]:
        return held_out_answers(
            model,
            shown.held_out,
            row_tokens=section.row_tokens,
            most_tokens=watch.evaluation_tokens,
            micro_rows=micro_rows,
            chunk_bytes=settings.loss_bytes,
        )

    before = evaluate(model)
    if before:
        progress.say(f"  before: held out {before['held_out_nats']:.4f} nats per assistant token")
    progress.say(
        f"  {sum(trained.values()):,} parameters, {packed.steps:,} steps "
        f"of {section.rows_per_step:,} rows of {section.row_tokens:,} tokens"
    )
    outcome = train(
        model,
        loss,
        batches,
        UpdateRule(optimizer, hidden_size=shape.hidden_size),
        Course(
            steps=packed.steps,
            lr=section.lr,
            warmup_steps=0,
            final_lr_fraction=section.final_lr_fraction,
            weight_decay=section.weight_decay,
            most_skipped_steps=settings.most_skipped_steps,
        ),
        compute=compat.compute_dtype(settings.compute),
        work=work,
        watch=watch,
        progress=progress,
        evaluate=evaluate if shown.held_out else None,
        layout=layout,
    )
    final = outcome.evaluation or evaluate(model)
    if final:
        progress.say(f"  after: held out {final['held_out_nats']:.4f} nats per assistant token")
    return {
        **final,
        **{f"start_{key}": value for key, value in before.items()},
        "conversations": shown.num_conversations,
        "skipped": len(shown.skipped),
        "too_long": shown.num_too_long,
        "held_out_examples": len(shown.held_out),
        "examples": {source: len(examples) for source, examples in shown.train.items()},
        "seen": packed.seen,
        "learned": sum(examples.learned for examples in shown.train.values()),
        "tokens": packed.tokens,
        "filled": round(packed.filled, 4),
        "steps": packed.steps,
        **outcome.metrics(),
    }


def _tell(shown: Demonstrations, packed: PackedExamples, work: Path, progress: Progress) -> None:
    """What was read, what was left out, and how full the rows are."""
    examples = [*shown.train.values(), shown.held_out]
    learned, tokens = sum(e.learned for e in examples), sum(e.ids.size for e in examples)
    progress.say(
        f"  {shown.num_conversations:,} conversations, {len(shown.held_out):,} examples held out; "
        f"the assistant says {learned:,} of {tokens:,} tokens"
    )
    if shown.skipped:
        skipped = "".join(f"{line}\n" for line in shown.skipped)
        joined().once(work, lambda: write_text(work / "skipped.txt", skipped))
        for line in shown.skipped[:SHOWN]:
            progress.say(f"  left out: {line}")
        lines = "line" if len(shown.skipped) == 1 else "lines"
        progress.say(f"  {len(shown.skipped):,} {lines} left out, see skipped.txt")
    if shown.num_too_long:
        progress.say(f"  {shown.num_too_long:,} dropped, longer than {packed.row_tokens:,} tokens")
    progress.say(f"  rows are {packed.filled:.1%} full")
