"""What recovery costs: the 16-bit model reads all rows once, then one adapter after another learns.

The quantized weights are frozen, so a matrix takes 4 operations per number and token in place of 6:
forward, and the gradient of its inputs. Of the output layer there is no gradient either.
"""

from __future__ import annotations

from collections.abc import Sequence

from afm_mlx.planning.answers import READ, TRAIN, Work, computing, model_memory
from afm_mlx.planning.cost import (
    WEIGHT_BYTES,
    Memory,
    count_by_part,
    flops_per_token,
    reading_flops_per_token,
    reading_memory,
    tensors,
    training_memory,
)
from afm_mlx.planning.hardware import Hardware
from afm_mlx.planning.post_training import PostTrainingPlan
from afm_mlx.planning.quantizing import gradient_memory
from afm_mlx.planning.units import gigabytes
from afm_mlx.recipe import Recipe
from afm_mlx.settings.compression import LabelTime
from afm_mlx.settings.palette import RecoverMethod
from afm_mlx.settings.sections import Shape

LABEL_BYTES = 6  # of a candidate: 4 of its id, 2 of its log-probability
# Forward passes before an adapter starts with the residual: labels, forward and backward of
# gradients, one for the inputs at each of four places, one from block to block. Ours.
START_PASSES = 8
TRAINED_BYTES = 16  # of a number that is trained: weight, two averages, gradient; adamw and afm


def plan_recovery(recipe: Recipe, hardware: Hardware) -> tuple[PostTrainingPlan, ...]:
    """The plan of `recover`; none where the recipe has no such stage."""
    section, shape = recipe.recover, recipe.shape
    if section is None:
        return ()
    rows = section.steps * section.rows_per_step
    tokens = rows * section.row_tokens
    how = f"{section.steps:,} x {section.rows_per_step:,} rows of {section.row_tokens:,}"
    reading = tokens * reading_flops_per_token(shape, section.row_tokens)
    work = [Work("labels", READ, tokens, reading, computing(hardware, reading), f"{how}, once")]
    measured = section.calibration_rows * section.row_tokens
    once = START_PASSES * measured * reading_flops_per_token(shape, section.row_tokens)
    start_how = f"{section.calibration_rows:,} rows of {section.row_tokens:,}, x {START_PASSES}"
    for name, trained in _trained(recipe).items():
        if section.starts_with_residual:
            seconds = computing(hardware, once)
            work.append(Work(f"{name} start", READ, measured, once, seconds, start_how))
        flops = tokens * _flops(recipe, trained)
        work.append(Work(name, TRAIN, tokens, flops, computing(hardware, flops), how))
    memory = _memory(recipe, hardware)
    allowed = int(recipe.watch.memory_fraction * hardware.usable_bytes)
    size = LABEL_BYTES * section.candidates * tokens
    return (
        PostTrainingPlan(
            stage="recover",
            of="",
            missing=(),
            steps=section.steps * len(_trained(recipe)),
            rounds=0,
            work=tuple(work) if section.reference_weight else tuple(work[1:]),
            memory=memory,
            allowed_bytes=allowed,
            advice=""
            if _sum(memory) <= allowed
            else "--set recover.rows_per_step=... or recover.row_tokens=... with less",
            assumptions=("frozen matrices have no gradients of their own",),
            notes=(f"on disk, while it runs: labels, {gigabytes(size)} GB",)
            if section.reference_weight
            else (),
        ),
    )


def lora_parameters(shape: Shape, rank: int) -> int:
    """Numbers of an adapter's factors on all linear layers of the blocks."""
    return sum(
        each.count * rank * sum(each.size)
        for each in tensors(shape)
        if each.part in ("attention", "feed-forward")
    )


def _trained(recipe: Recipe) -> dict[str, int]:
    """Trainings, one after the other, by name, and how many numbers each one trains."""
    section, shape = recipe.recover, recipe.shape
    assert section is not None
    if section.method is RecoverMethod.LORA:
        return {f"rank {rank}": lora_parameters(shape, rank) for rank in section.ranks}
    counts = count_by_part(shape)
    if section.method is RecoverMethod.QAT:
        return {"qat": counts["attention"] + counts["feed-forward"] + counts["norms"]}
    rows = sum(each.count * each.size[0] for each in tensors(shape) if len(each.size) == 2)
    return {"tables": rows - shape.vocab_size * (1 if shape.tied else 2) + counts["norms"]}


def _flops(recipe: Recipe, trained: int) -> float:
    """Operations of training on a token."""
    section = recipe.recover
    assert section is not None
    again = recipe.training.activation_checkpointing
    parts = flops_per_token(recipe.shape, section.row_tokens, recompute=again)
    parts["output layer"] *= 2 / 3
    if section.method is RecoverMethod.LORA:
        return sum(parts.values()) - parts["matrices"] / 3 + 6.0 * trained
    return sum(parts.values())


def _memory(recipe: Recipe, hardware: Hardware) -> tuple[Memory, ...]:
    """Memory at the peak: of the training, or of the 16-bit model's reading where that is more."""
    section, shape, training = recipe.recover, recipe.shape, recipe.training
    assert section is not None
    counts = count_by_part(shape)
    matrices = counts["attention"] + counts["feed-forward"]
    rest = counts["total"] - matrices - counts["norms"]
    bits = recipe.quantize.target_bits_per_weight if recipe.quantize else 4.0
    parts = [
        Memory(
            "tables", int(matrices * bits / 8) + rest, f"{bits:g} bits x {matrices:,}, 8 x {rest:,}"
        )
    ]
    if not hardware.on_gpu:
        dense = matrices + rest
        parts.append(Memory("dense copy", WEIGHT_BYTES * dense, f"4 bytes x {dense:,}"))
    idle = tuple(parts)
    most = max(_trained(recipe).values())
    parts.append(Memory("trained", TRAINED_BYTES * most, f"{TRAINED_BYTES} bytes x {most:,}"))
    given = (shape, section, training, recipe.optimizer.name, hardware)
    parts += [part for part in training_memory(*given) if part.name in ("activations", "loss")]
    if section.starts_with_residual:
        original = model_memory("original", shape, hardware)
        gradients = gradient_memory(shape, section.row_tokens, hardware)
        begin = [*idle, original, *gradients]
        parts = max(parts, begin, key=_sum)
    reads = reading_memory(
        shape,
        section.row_tokens,
        training.rows_at_once(section.rows_per_step),
        training,
        hardware,
        candidates=section.candidates,
    )
    if not section.reference_weight:
        return tuple(parts)
    if section.labels is LabelTime.LIVE:
        return (*parts, *reads)
    reading = (*idle, *reads)
    return max(tuple(parts), reading, key=_sum)


def _sum(parts: Sequence[Memory]) -> int:
    return sum(part.bytes for part in parts)
