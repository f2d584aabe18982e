"""Formulas of cost: parameters, operations and memory of training a decoder, from its shape.

Pure arithmetic; MLX is not needed. Weights and states are exact, activations an estimate. Mask
learning, first scores and distillation were 93 to 134 % of MLX's peak, for nine small shapes on
the CPU.

Shapes. T tokens of a row, L layers, D width, H query heads, K key/value heads, E width of one head,
F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from afm_mlx.planning.hardware import Hardware
from afm_mlx.settings.compression import Prune
from afm_mlx.settings.sections import OptimizerName, Pretraining, Shape, Training

WEIGHT_BYTES = 4  # float32, in training, in snapshots and in checkpoints
CACHE_BYTES = 2  # float16, of a number in the key/value cache
QUERY_BLOCK_TOKENS = 128  # of our CPU attention, decoder/attention.py
LARGEST_SHORT_VOCABULARY = 2**16  # ids up to here take two bytes in a shard, others four
LOGIT_ARRAYS = 7  # arrays of the shape of the logits at once, training/cross_entropy.py
READING_BUDGET_ARRAYS = 3  # as many make a chunk of a reading teacher, compression/teacher.py
LABELLED_ROWS = 8  # most rows that a labelling teacher reads at once, compression/labels.py
# Arrays of the shape of that chunk that there are at once; measured on the CPU.
READING_ARRAYS_OF_ONE = 2  # the likeliest token is asked for
READING_ARRAYS_OF_MANY = 5  # several candidates are


class Rows(Protocol):
    """Rows of an optimizer step, as a section has them."""

    @property
    def row_tokens(self) -> int:
        """Tokens of a row."""

    @property
    def rows_per_step(self) -> int:
        """Rows of a step."""


@dataclass(frozen=True)
class Tensors:
    """Tensors of one name in all layers."""

    name: str
    """Name in the checkpoint; `*` stands for the layer's number."""
    count: int
    """How many there are."""
    size: tuple[int, ...]
    """Size of one: [out, in] of a matrix."""
    part: str
    """embedding, attention, feed-forward, norms or output layer."""

    @property
    def parameters(self) -> int:
        """Numbers in all of them."""
        return self.count * math.prod(self.size)


@dataclass(frozen=True)
class Memory:
    """One part of the memory of a stage."""

    name: str
    bytes: int
    how: str
    """The arithmetic, in words."""


def tensors(shape: Shape) -> list[Tensors]:
    """Every tensor of the decoder, those of all layers in one row."""
    layers, width, head = shape.num_layers, shape.hidden_size, shape.head_dim
    queries, keys, wide = shape.num_heads * head, shape.num_kv_heads * head, shape.intermediate_size
    attention = {
        "q_proj": (queries, width),
        "k_proj": (keys, width),
        "v_proj": (keys, width),
        "o_proj": (width, queries),
    }
    feed_forward = {
        "gate_proj": (wide, width),
        "up_proj": (wide, width),
        "down_proj": (width, wide),
    }
    prefix, norms = "model.layers.*.", ["input_layernorm", "post_attention_layernorm"]
    rows = [
        Tensors("model.embed_tokens.weight", 1, (shape.vocab_size, width), "embedding"),
        *(
            Tensors(f"{prefix}self_attn.{name}.weight", layers, size, "attention")
            for name, size in attention.items()
        ),
        *(
            Tensors(f"{prefix}mlp.{name}.weight", layers, size, "feed-forward")
            for name, size in feed_forward.items()
        ),
        *(Tensors(f"{prefix}{name}.weight", layers, (width,), "norms") for name in norms),
        Tensors("model.norm.weight", 1, (width,), "norms"),
    ]
    if shape.qk_norm:
        rows += [
            Tensors(f"{prefix}self_attn.{name}.weight", layers, (head,), "norms")
            for name in ("q_norm", "k_norm")
        ]
    if not shape.tied:
        rows.append(Tensors("lm_head.weight", 1, (shape.vocab_size, width), "output layer"))
    return rows


def count_by_part(shape: Shape) -> dict[str, int]:
    """Parameters of embedding, attention, feed-forward, norms, output layer, and their total."""
    counts: dict[str, int] = {}
    for row in tensors(shape):
        counts[row.part] = counts.get(row.part, 0) + row.parameters
    return counts | {"total": sum(counts.values())}


def cache_bytes_per_token(shape: Shape) -> int:
    """Keys and values of one token in all layers, in float16."""
    return 2 * CACHE_BYTES * shape.num_layers * shape.num_kv_heads * shape.head_dim


def flops_per_token(shape: Shape, row_tokens: int, *, recompute: bool) -> dict[str, float]:
    """Operations of training on one token, by part of the model. A multiply-add is two.

    A matrix takes 2 operations per number and token forward, and twice that backward: 6. Scores
    and weighted sums take 4 x H x E x T forward in each layer, so 12 L H E T; the half above the
    diagonal is counted, as usual. Looking up the embedding is free, the output layer is not.

    Args:
        shape: the model.
        row_tokens: T.
        recompute: blocks are computed again in the backward pass.

    Source: arXiv:2204.02311, appendix B, with the output layer added.
    """
    counts = count_by_part(shape)
    matrices = counts["attention"] + counts["feed-forward"]
    scores = shape.num_layers * shape.num_heads * shape.head_dim * row_tokens
    parts = {
        "matrices": 6.0 * matrices,
        "attention": 12.0 * scores,
        "output layer": 6.0 * shape.vocab_size * shape.hidden_size,
    }
    if recompute:
        parts["recomputed"] = 2.0 * matrices + 4.0 * scores
    return parts


def reading_flops_per_token(shape: Shape, row_tokens: int) -> float:
    """Operations of a forward pass on one token, logits included: a third of training's."""
    return sum(flops_per_token(shape, row_tokens, recompute=False).values()) / 3


def scoring_flops_per_token(shape: Shape, row_tokens: int, *, recompute: bool) -> float:
    """Operations of gradient importance: as training, without the gradients of the matrices."""
    parts = flops_per_token(shape, row_tokens, recompute=recompute)
    return sum(parts.values()) - parts["matrices"] / 3


def training_memory(
    shape: Shape,
    section: Rows,
    training: Training,
    optimizer: OptimizerName,
    hardware: Hardware,
) -> tuple[Memory, ...]:
    """Memory of a stage at its peak. Weights and states are exact, activations an estimate.

    For eight small shapes on the CPU, the sum was 94 to 120 % of the peak that MLX counted. With
    recomputing it holds where the backward pass is done with one block before it begins the next.
    No Mac has been measured.
    """
    total = count_by_part(shape)["total"]
    micro_rows = training.rows_at_once(section.rows_per_step)
    tokens, size = micro_rows * section.row_tokens, hardware.compute_bytes
    states = state_bytes(shape, optimizer)
    several = micro_rows < section.rows_per_step
    parts = [
        Memory("weights", WEIGHT_BYTES * total, f"4 bytes x {total:,}, float32"),
        Memory("optimizer", states, _state_how(shape, optimizer)),
        Memory(
            "gradients",
            WEIGHT_BYTES * total * (2 if several else 1),
            f"{'(4 sum + 4 of micro-rows)' if several else '4'} bytes x {total:,}",
        ),
    ]
    if size < WEIGHT_BYTES:
        parts.append(Memory("compute copy", size * total, f"{size} bytes x {total:,}, bfloat16"))
    kept, how = _activations(shape, section.row_tokens, micro_rows, training, hardware)
    parts.append(Memory("activations", kept, how))
    parts.append(_loss_memory(shape, tokens, training))
    return tuple(parts)


def mask_memory(
    wide: Shape,
    section: Prune,
    training: Training,
    optimizer: OptimizerName,
    hardware: Hardware,
) -> tuple[Memory, ...]:
    """Memory of mask learning: as training the wide model, and masks on all layers at once.

    The down projections times their masks stay through a pass, in the compute format.
    """
    several = training.rows_at_once(section.rows_per_step) < section.rows_per_step
    scores = wide.num_layers * wide.intermediate_size
    each = WEIGHT_BYTES * (5 if several else 4)  # scores, two averages, gradients
    masked = hardware.compute_bytes * scores * wide.hidden_size
    return (
        *training_memory(wide, section, training, optimizer, hardware),
        Memory("scores", each * scores, f"{each} bytes x {scores:,} units, with averages"),
        Memory(
            "masked copy",
            masked,
            f"{hardware.compute_bytes} bytes x {scores * wide.hidden_size:,}, down projections",
        ),
    )


def scoring_memory(
    wide: Shape, section: Prune, training: Training, hardware: Hardware
) -> tuple[Memory, ...]:
    """Memory of gradient importance, which is float32: a gain of each activation, its gradient.

    The matrices get no gradients, and one block less is there at once than in training.
    """
    total, exact = count_by_part(wide)["total"], replace(hardware, compute_bytes=WEIGHT_BYTES)
    micro_rows = training.rows_at_once(section.rows_per_step)
    tokens = micro_rows * section.row_tokens
    units = wide.num_layers * wide.intermediate_size * tokens
    kept, how = _activations(
        wide, section.row_tokens, micro_rows, training, exact, with_gradients=False
    )
    return (
        Memory("weights", WEIGHT_BYTES * total, f"4 bytes x {total:,}, float32"),
        Memory("activations", kept, how),
        Memory("gains", 8 * units, f"8 bytes x {units:,}, of each unit and token"),
        _loss_memory(wide, tokens, training),
    )


def activity_memory(
    wide: Shape, section: Prune, training: Training, hardware: Hardware
) -> tuple[Memory, ...]:
    """Memory of activation importance, which is float32: a forward pass, all units' activations."""
    total, exact = count_by_part(wide)["total"], replace(hardware, compute_bytes=WEIGHT_BYTES)
    micro_rows = training.rows_at_once(section.rows_per_step)
    units = wide.num_layers * wide.intermediate_size * micro_rows * section.row_tokens
    block = forward_block(wide, section.row_tokens, micro_rows, exact)
    return (
        Memory("weights", WEIGHT_BYTES * total, f"4 bytes x {total:,}, float32"),
        Memory("units", WEIGHT_BYTES * units, f"4 bytes x {units:,}, a unit's of each token"),
        Memory("forward pass", 2 * block, _reading_how(section.row_tokens, micro_rows)),
    )


def reading_memory(
    shape: Shape,
    row_tokens: int,
    micro_rows: int,
    training: Training,
    hardware: Hardware,
    *,
    candidates: int,
) -> tuple[Memory, ...]:
    """Memory of a teacher that reads: weights in the compute format, and a forward pass.

    The pass is an estimate: two blocks, or a chunk's logits where these are more.
    """
    total, size = count_by_part(shape)["total"], hardware.compute_bytes
    most = training.loss_bytes // (READING_BUDGET_ARRAYS * WEIGHT_BYTES * shape.vocab_size)
    chunk_tokens = min(micro_rows * row_tokens, max(1, most))
    arrays = READING_ARRAYS_OF_ONE if candidates == 1 else READING_ARRAYS_OF_MANY
    logits = arrays * WEIGHT_BYTES * shape.vocab_size * chunk_tokens
    blocks = 2 * forward_block(shape, row_tokens, micro_rows, hardware)
    how = _reading_how(row_tokens, micro_rows) if blocks >= logits else "estimate: logits"
    return (
        Memory("teacher", size * total, f"{size} bytes x {total:,}, as it computes"),
        Memory("teacher pass", max(blocks, logits), how),
    )


def distilling_memory(
    shape: Shape,
    teacher: Shape | None,
    section: Pretraining,
    training: Training,
    optimizer: OptimizerName,
    hardware: Hardware,
    *,
    candidates: int,
    live: bool,
) -> tuple[Memory, ...]:
    """Memory of a stage that learns from a teacher: the student, what is said, a live teacher.

    The teacher reads the next step's rows when the student's activations are gone, so its pass
    counts only where it is larger than they. `teacher` None: of unknown shape, and left out.
    """
    parts = training_memory(shape, section, training, optimizer, hardware)
    said = 2 * section.tokens_per_step * candidates
    parts += (Memory("answers", 8 * said, f"8 bytes x {said:,} candidates, of two steps"),)
    if not live or teacher is None:
        return parts
    micro_rows = training.rows_at_once(section.rows_per_step)
    weights, reads = reading_memory(
        teacher, section.row_tokens, micro_rows, training, hardware, candidates=candidates
    )
    freed = sum(part.bytes for part in parts if part.name in ("activations", "loss"))
    parts += (weights,)
    if reads.bytes > freed:
        parts += (replace(reads, bytes=reads.bytes - freed, how="beyond the student's own"),)
    return parts


def label_bytes_per_token(shape: Shape, candidates: int) -> int:
    """Label files: an id of 2 or 4 bytes for each candidate; of several, float16 probabilities."""
    return (id_bytes(shape) + (2 if candidates > 1 else 0)) * candidates


def id_bytes(shape: Shape) -> int:
    """Bytes of a token id in shards and labels."""
    return 2 if shape.vocab_size <= LARGEST_SHORT_VOCABULARY else 4


def state_bytes(shape: Shape, optimizer: OptimizerName) -> int:
    """Bytes of an update rule's averages, float32."""
    counts = count_by_part(shape)
    matrices = counts["attention"] + counts["feed-forward"]
    once = matrices if optimizer is OptimizerName.MUON else 0
    return WEIGHT_BYTES * (2 * counts["total"] - once)


def forward_block(shape: Shape, row_tokens: int, micro_rows: int, hardware: Hardware) -> int:
    """Bytes of one block in a forward pass; MLX's fused attention on a GPU keeps no weights."""
    seen = 0 if hardware.on_gpu else min((row_tokens + QUERY_BLOCK_TOKENS) // 2, row_tokens)
    width = _block_width(shape) + shape.num_heads * seen
    return hardware.compute_bytes * micro_rows * row_tokens * width


def _state_how(shape: Shape, optimizer: OptimizerName) -> str:
    counts = count_by_part(shape)
    if optimizer is OptimizerName.MUON:
        matrices = counts["attention"] + counts["feed-forward"]
        return f"4 bytes x {matrices:,} (muon), 8 bytes x {counts['total'] - matrices:,} (adamw)"
    return f"8 bytes x {counts['total']:,}, two averages of {optimizer}"


def _activations(
    shape: Shape,
    row_tokens: int,
    micro_rows: int,
    training: Training,
    hardware: Hardware,
    *,
    with_gradients: bool = True,
) -> tuple[int, str]:
    """What the backward pass needs of the forward pass, in bytes, and how that is counted.

    A block keeps, per token, its input, the middle of its residual stream and both normalized
    (4 D), queries before and after normalizing and the attention's result (3 H E), keys likewise
    and values (3 K E), and the four arrays of SwiGLU (4 F). The weights of attention are kept, too:
    T per token and head on a GPU, half of that on our CPU path. One block's worth more is taken by
    its gradients, if its matrices get any. With recomputing, only one block is there in full,
    beside the input of each.
    """
    size, tokens = hardware.compute_bytes, micro_rows * row_tokens
    width = shape.hidden_size
    seen = row_tokens if hardware.on_gpu else (row_tokens + QUERY_BLOCK_TOKENS) // 2
    block = size * tokens * (_block_width(shape) + shape.num_heads * min(seen, row_tokens))
    rows = f"{micro_rows} x {row_tokens:,} tokens"
    if training.activation_checkpointing:
        kept = size * tokens * width * shape.num_layers + 2 * block
        return kept, f"estimate: {rows}, input of each block, and one block twice"
    if not with_gradients:
        return shape.num_layers * block, f"estimate: {rows}, {shape.num_layers} blocks"
    return (shape.num_layers + 1) * block, f"estimate: {rows}, {shape.num_layers} + 1 blocks"


def _block_width(shape: Shape) -> int:
    """Numbers of one token in a block, without the weights of attention."""
    heads = (shape.num_heads + shape.num_kv_heads) * shape.head_dim
    return 4 * shape.hidden_size + 3 * heads + 4 * shape.intermediate_size


def _reading_how(row_tokens: int, micro_rows: int) -> str:
    return f"estimate: {micro_rows} x {row_tokens:,} tokens, two blocks, nothing kept"


def _loss_memory(shape: Shape, tokens: int, training: Training) -> Memory:
    """Logits are computed in chunks within a budget; the output layer's gradient is added up."""
    all_logits = LOGIT_ARRAYS * WEIGHT_BYTES * shape.vocab_size * tokens
    layer = WEIGHT_BYTES * shape.vocab_size * shape.hidden_size
    within = "training.loss_bytes of logits" if all_logits > training.loss_bytes else "all logits"
    how = f"{within}, float32, and the output layer's gradient"
    return Memory("loss", min(training.loss_bytes, all_logits) + layer, how)
