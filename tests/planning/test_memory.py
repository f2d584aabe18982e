"""Planned memory beside the peak that MLX counts, on the CPU: teacher, masks, first scores."""

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.importance import activation_importance, gradient_importance
from afm_mlx.compression.masks import MaskedDecoder
from afm_mlx.compression.teacher import LiveTeacher
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.planning import cost
from afm_mlx.progress import Progress
from afm_mlx.settings.compression import Prune
from afm_mlx.settings.sections import (
    Optimizer,
    OptimizerName,
    Pretraining,
    Shape,
    Training,
    Watch,
)
from afm_mlx.training.loop import Course, train
from afm_mlx.training.objectives import distillation_targets, next_token_loss
from afm_mlx.training.optimizer import Rates, UpdateRule
from tests.planning.tiny_plans import CPU

pytestmark = pytest.mark.skipif(
    mx.default_device().type == mx.DeviceType.gpu, reason="the figures are those of the CPU"
)


def shape(layers, width, units, vocabulary=512):
    return Shape(
        num_layers=layers,
        hidden_size=width,
        num_heads=4,
        num_kv_heads=2,
        head_dim=width // 4,
        intermediate_size=units,
        vocab_size=vocabulary,
        rope_base=10_000,
        norm_eps=1e-5,
        max_tokens=1_024,
    )


def rows_of(section):
    tokens = np.arange(section.row_tokens * section.rows_per_step) * 7 % 500
    return tokens.astype(np.int32).reshape(section.rows_per_step, section.row_tokens)


def decoder(of):
    model = Decoder(of)
    initialize(model, 0)
    mx.eval(model.parameters())
    return model


def loss_of(training):
    def loss(model, targets, *said):
        inputs, shares = targets, None
        if said:
            targets, shares = distillation_targets(targets, *said, teacher_weight=0.9)
        return next_token_loss(
            model,
            inputs,
            targets,
            mx.ones(inputs.shape),
            mask="causal",
            z_loss=0.0,
            chunk_bytes=training.loss_bytes,
            shares=shares,
            checkpoint=training.activation_checkpointing,
        )

    return loss


def peak_of_training(model, loss, batches, folder, rates=None):
    return train(
        model,
        loss,
        batches,
        UpdateRule(Optimizer(), hidden_size=64, rates=rates or {}),
        Course(2, 1e-3, 1, 0.1, 0.0, 2),
        compute=mx.float32,
        exact=("scores",),
        work=folder,
        watch=Watch(),
        progress=Progress(),
    ).peak_bytes


def micro_batches(section, training):
    steps = section.rows_per_step // training.rows_at_once(section.rows_per_step)
    return [(rows,) for rows in mx.split(mx.array(rows_of(section)), steps)]


def learning_masks(wide, section, training, folder):
    masked = MaskedDecoder(decoder(wide), mx.zeros((wide.num_layers, wide.intermediate_size)))

    def loss(model, rows):
        with model.masked(wide.intermediate_size / 2, 0.1) as decoder:
            return loss_of(training)(decoder, rows)

    batches = micro_batches(section, training)
    counted = peak_of_training(masked, loss, lambda step: batches, folder, {"scores": Rates(10, 0)})
    return counted, cost.mask_memory(wide, section, training, OptimizerName.AFM, CPU)


def first_scores(wide, section, training, folder):
    model = decoder(wide)
    mx.reset_peak_memory()
    rows = [rows for (rows,) in micro_batches(section, training)]
    mx.eval(gradient_importance(model, rows, lambda *given: loss_of(training)(*given)[0]))
    return mx.get_peak_memory(), cost.scoring_memory(wide, section, training, CPU)


def activity(wide, section, training, folder):
    model = decoder(wide)
    mx.reset_peak_memory()
    mx.eval(activation_importance(model, [rows for (rows,) in micro_batches(section, training)]))
    return mx.get_peak_memory(), cost.activity_memory(wide, section, training, CPU)


def live_teacher(wide, training, candidates):
    return LiveTeacher(
        decoder(wide),
        vocab_size=wide.vocab_size,
        eos_id=0,
        candidates=candidates,
        temperature=1.0,
        document_mask=False,
        micro_rows=training.rows_at_once(8),
        chunk_bytes=training.loss_bytes,
    )


def reading(wide, section, training, candidates=1):
    teacher = live_teacher(wide, training, candidates)
    mx.reset_peak_memory()
    teacher.says(rows_of(section))
    planned = cost.reading_memory(
        wide,
        section.row_tokens,
        training.rows_at_once(section.rows_per_step),
        training,
        CPU,
        candidates=candidates,
    )
    return mx.get_peak_memory(), planned


def distilling(wide, section, training, folder, candidates=1):
    narrow = wide.model_copy(update={"intermediate_size": wide.intermediate_size // 3})
    teacher, model, rows = (
        live_teacher(wide, training, candidates),
        decoder(narrow),
        rows_of(section),
    )
    steps = section.rows_per_step // training.rows_at_once(section.rows_per_step)

    def batches(step):
        said = teacher.says(rows)
        arrays = [mx.array(each) for each in (rows, said.ids, said.probabilities)]
        return list(zip(*(mx.split(array, steps) for array in arrays), strict=True))

    counted = peak_of_training(model, loss_of(training), batches, folder)
    planned = cost.distilling_memory(
        narrow, wide, section, training, OptimizerName.AFM, CPU, candidates=candidates, live=True
    )
    return counted, planned


def training_rows(row_tokens, rows):
    return Pretraining(
        tokens=3 * row_tokens * rows,
        row_tokens=row_tokens,
        rows_per_step=rows,
        lr=1e-3,
        warmup_steps=1,
        final_lr_fraction=0.1,
        weight_decay=0.0,
        mixture={"texts": 1.0},
    )


def pruning_rows(row_tokens, rows):
    return Prune(tokens=3 * row_tokens * rows, row_tokens=row_tokens, rows_per_step=rows, lr=1e-3)


CASES = {
    "whole steps": (shape(2, 64, 192), 64, 8, {}),
    "micro-rows": (shape(3, 96, 768), 64, 8, {"micro_rows": 2}),
    "recomputed": (shape(4, 96, 384), 64, 8, {"activation_checkpointing": True}),
    "logits in chunks": (shape(2, 96, 384, 4_096), 128, 4, {"loss_bytes": 4 * 2**20}),
}


@pytest.mark.parametrize("measure", [learning_masks, first_scores, activity, distilling])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_planned_memory_is_near_the_peak_that_mlx_counts(measure, case, tmp_path):
    wide, row_tokens, rows, settings = case
    section = (training_rows if measure is distilling else pruning_rows)(row_tokens, rows)
    # When MLX frees what it is done with depends on its threads: the larger of two runs.
    runs = [tmp_path / "one", tmp_path / "two"]
    for place in runs:
        place.mkdir()
    found = [measure(wide, section, Training(**settings), place) for place in runs]
    counted, parts = max(found, key=lambda one: one[0])
    assert sum(part.bytes for part in parts) == pytest.approx(counted, rel=0.35)


@pytest.mark.parametrize("candidates", [1, 16])
def test_memory_of_a_reading_teacher_is_near_the_peak(candidates):
    wide, training = shape(4, 128, 768), Training()
    counted, parts = reading(wide, training_rows(128, 8), training, candidates)
    assert sum(part.bytes for part in parts) == pytest.approx(counted, rel=0.3)
