"""What quantization costs: reading texts block by block, one backward pass, and fitting tables."""

from __future__ import annotations

from math import ceil, inf

from afm_mlx.planning.answers import READ, Work, computing, forward_flops, model_memory, write
from afm_mlx.planning.cost import WEIGHT_BYTES, Memory, count_by_part, forward_block
from afm_mlx.planning.hardware import Hardware
from afm_mlx.planning.post_training import PostTrainingPlan
from afm_mlx.planning.units import gigabytes
from afm_mlx.recipe import Recipe
from afm_mlx.settings.palette import DamageMeasure, Quantize
from afm_mlx.settings.sections import Shape

BATCH_TOKENS = 2_048  # read at once, stages/quantize.py
OWN_HELD_OUT = 8  # the same
# Forward passes on the texts: one to equalize, two for damages, five to fit (the model as it was
# and as it becomes, whole and up to each place). Ours.
PASSES = 8
GRADIENT_PASSES = 3  # labels, forward, and backward to the outputs alone
FITS = 2  # tables of each weight for damages, at 2 and at 4 bits; then those that are kept
GRADIENT_ARRAYS = 2  # of the size of all outputs: what they are moved by, and its gradient
MOMENT_ARRAYS = 10  # float32: moments and drift, in float64 while they are solved
LOGIT_ARRAYS = 3  # of those rows, float32
# Of a weight, on one core, seen with SmolLM2 on Linux: 11 s of k-means, 67 s with error feedback.
FIT_SECONDS, FEEDBACK_SECONDS = 1.1e-7, 6.3e-7


def plan_quantize(recipe: Recipe, hardware: Hardware) -> PostTrainingPlan:
    """The plan of stage `quantize`, which the recipe has."""
    section, shape = recipe.quantize, recipe.shape
    assert section is not None
    memory = _memory(shape, section, hardware)
    allowed = int(recipe.watch.memory_fraction * hardware.usable_bytes)
    return PostTrainingPlan(
        stage="quantize",
        of="",
        missing=(),
        steps=0,
        rounds=0,
        work=_work(recipe, shape, section, hardware),
        memory=memory,
        allowed_bytes=allowed,
        advice="" if _sum(memory) <= allowed else _advice(shape, section, hardware, allowed),
        assumptions=(
            f"on one core, k-means takes {FIT_SECONDS * 1e9:g} ns for each weight, and with error "
            f"feedback {FEEDBACK_SECONDS * 1e9:g}",
        ),
        notes=(),
    )


def _work(recipe: Recipe, shape: Shape, section: Quantize, hardware: Hardware) -> tuple[Work, ...]:
    rows, row_tokens = section.calibration_rows, section.calibration_row_tokens
    tokens = rows * row_tokens
    written: tuple[Work, ...] = ()
    if not recipe.data:
        written = write(
            shape,
            hardware,
            prompts=1,
            answers=rows + ceil(rows / OWN_HELD_OUT),
            prompt_tokens=1,
            answer_tokens=row_tokens,
        )[1:]
    flops = PASSES * rows * forward_flops(shape, row_tokens, row_tokens, 0)
    flops += 3 * tokens * _moment_operations(shape)  # damages, inputs, their drift
    inputs = Work(
        "inputs",
        READ,
        PASSES * tokens,
        flops,
        computing(hardware, flops),
        f"{PASSES} passes on {rows:,} rows of {row_tokens:,} tokens, and E[x x^T]",
    )
    taken = min(section.gradient_rows, rows)
    read = rows + taken  # of all for what tokens count, then of some for what outputs count
    flops = GRADIENT_PASSES * read * forward_flops(shape, row_tokens, row_tokens, row_tokens)
    gradients = Work(
        "gradients",
        READ,
        GRADIENT_PASSES * read * row_tokens,
        flops,
        computing(hardware, flops),
        f"labels, forward, backward on {read:,} rows",
    )
    found = [*written, inputs, gradients]
    counts = count_by_part(shape)
    weights = counts["attention"] + counts["feed-forward"]
    if section.damage is DamageMeasure.MEASURED:
        times = 7 * shape.num_layers * len(section.widths) / 2  # from its block on: half a pass
        flops = times * taken * forward_flops(shape, row_tokens, row_tokens, 2 * row_tokens)
        found.append(
            Work(
                "damages",
                READ,
                int(times * taken * row_tokens),
                flops,
                computing(hardware, flops),
                "each matrix alone at each width",
            )
        )
    last = FEEDBACK_SECONDS if section.error_feedback else FIT_SECONDS
    seconds = weights * (FITS * FIT_SECONDS + last)
    tables = Work("tables", READ, 0, 0.0, seconds, f"{FITS + 1} fits of {weights:,} weights")
    return (*found, tables)


def _moment_operations(shape: Shape) -> float:
    """Operations of E[x x^T] at the four places of all blocks, for a token."""
    queries = shape.num_heads * shape.head_dim
    sizes = (shape.hidden_size, queries, shape.hidden_size, shape.intermediate_size)
    return 2.0 * shape.num_layers * sum(size**2 for size in sizes)


def _memory(shape: Shape, section: Quantize, hardware: Hardware) -> tuple[Memory, ...]:
    """At the gradients or at a block, whichever takes more."""
    row_tokens, size = section.calibration_row_tokens, hardware.compute_bytes
    tokens = section.calibration_rows * row_tokens
    weights = model_memory("weights", shape, hardware)
    wide = shape.intermediate_size
    gradients = gradient_memory(shape, row_tokens, hardware)
    micro_rows = min(section.calibration_rows, max(1, BATCH_TOKENS // row_tokens))
    block = (
        Memory(
            "states",
            4 * size * tokens * shape.hidden_size,
            f"{4 * size} bytes x {tokens:,} tokens x {shape.hidden_size:,}, before and now",
        ),
        Memory(
            "block",
            2 * forward_block(shape, row_tokens, micro_rows, hardware),
            f"estimate: a pass of {micro_rows:,} rows",
        ),
        Memory(
            "moments",
            MOMENT_ARRAYS * WEIGHT_BYTES * wide**2,
            f"{MOMENT_ARRAYS * WEIGHT_BYTES} bytes x {wide:,}^2, the widest, and drift like it",
        ),
    )
    return (weights, *max(gradients, block, key=_sum))


def gradient_memory(shape: Shape, row_tokens: int, hardware: Hardware) -> tuple[Memory, ...]:
    """What gradients at all outputs take, of one row, beside the weights."""
    keys = shape.num_kv_heads * shape.head_dim
    queries, wide = shape.num_heads * shape.head_dim, shape.intermediate_size
    outputs = shape.num_layers * (queries + 2 * keys + 2 * shape.hidden_size + 2 * wide)
    moved = GRADIENT_ARRAYS * WEIGHT_BYTES * row_tokens * outputs
    kept = shape.num_layers * forward_block(shape, row_tokens, 1, hardware)
    logits = LOGIT_ARRAYS * WEIGHT_BYTES * row_tokens * shape.vocab_size
    return (
        Memory(
            "activations", kept, f"estimate: {shape.num_layers} blocks, a row of {row_tokens:,}"
        ),
        Memory(
            "gradients",
            moved,
            f"{GRADIENT_ARRAYS * WEIGHT_BYTES} bytes x {outputs:,} outputs x {row_tokens:,}",
        ),
        Memory(
            "logits",
            logits,
            f"{LOGIT_ARRAYS * WEIGHT_BYTES} bytes x {shape.vocab_size:,} x {row_tokens:,}",
        ),
    )


def _advice(shape: Shape, section: Quantize, hardware: Hardware, allowed: int) -> str:
    """Fewer rows, then shorter ones, with which it fits."""
    least = inf
    rows, row_tokens = section.calibration_rows, section.calibration_row_tokens
    for length in (row_tokens, row_tokens // 2, row_tokens // 4):
        for count in (rows, rows // 2, rows // 4, rows // 8):
            if not length or not count:
                continue
            update = {"calibration_rows": count, "calibration_row_tokens": length}
            needed = _sum(_memory(shape, section.model_copy(update=update), hardware))
            if needed <= allowed:
                words = [
                    f"--set quantize.{key}={value}"
                    for key, value in update.items()
                    if value != getattr(section, key)
                ]
                return f"{' '.join(words)} needs {gigabytes(needed)} GB"
            least = min(least, needed)
    return f"no setting is enough: fewer rows and shorter ones need {gigabytes(int(least))} GB"


def _sum(parts: tuple[Memory, ...]) -> int:
    return sum(part.bytes for part in parts)
