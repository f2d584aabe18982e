"""Formulas of cost: parameters, operations and memory of training a decoder, from its shape.

Pure arithmetic; MLX is not needed. Weights and states are exact, activations an estimate.

Shapes. T tokens of a row, L layers, D width, H query heads, K key/value heads, E width of one head,
F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from afm_mlx.planning.hardware import Hardware
from afm_mlx.settings.sections import OptimizerName, Pretraining, Shape, Training

WEIGHT_BYTES = 4  # float32, in training, in snapshots and in checkpoints
CACHE_BYTES = 2  # float16, of a number in the key/value cache
QUERY_BLOCK_TOKENS = 128  # of our CPU attention, decoder/attention.py
LOGIT_ARRAYS = 7  # arrays of the shape of the logits at once, training/cross_entropy.py


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


def training_memory(
    shape: Shape,
    section: Pretraining,
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


def state_bytes(shape: Shape, optimizer: OptimizerName) -> int:
    """Bytes of an update rule's averages, float32."""
    counts = count_by_part(shape)
    matrices = counts["attention"] + counts["feed-forward"]
    once = matrices if optimizer is OptimizerName.MUON else 0
    return WEIGHT_BYTES * (2 * counts["total"] - once)


def _state_how(shape: Shape, optimizer: OptimizerName) -> str:
    counts = count_by_part(shape)
    if optimizer is OptimizerName.MUON:
        matrices = counts["attention"] + counts["feed-forward"]
        return f"4 bytes x {matrices:,} (muon), 8 bytes x {counts['total'] - matrices:,} (adamw)"
    return f"8 bytes x {counts['total']:,}, two averages of {optimizer}"


def _activations(
    shape: Shape, row_tokens: int, micro_rows: int, training: Training, hardware: Hardware
) -> tuple[int, str]:
    """What the backward pass needs of the forward pass, in bytes, and how that is counted.

    A block keeps, per token, its input, the middle of its residual stream and both normalized
    (4 D), queries before and after normalizing and the attention's result (3 H E), keys likewise
    and values (3 K E), and the four arrays of SwiGLU (4 F). The weights of attention are kept, too:
    T per token and head on a GPU, half of that on our CPU path. One block's worth more is taken by
    its gradients. With recomputing, only one block is there in full, beside the input of each.
    """
    size, tokens = hardware.compute_bytes, micro_rows * row_tokens
    width, head = shape.hidden_size, shape.head_dim
    plain = 4 * width + 3 * (shape.num_heads + shape.num_kv_heads) * head
    plain += 4 * shape.intermediate_size
    seen = row_tokens if hardware.on_gpu else (row_tokens + QUERY_BLOCK_TOKENS) // 2
    block = size * tokens * (plain + shape.num_heads * min(seen, row_tokens))
    rows = f"{micro_rows} x {row_tokens:,} tokens"
    if training.activation_checkpointing:
        kept = size * tokens * width * shape.num_layers + 2 * block
        return kept, f"estimate: {rows}, input of each block, and one block twice"
    return (shape.num_layers + 1) * block, f"estimate: {rows}, {shape.num_layers} + 1 blocks"


def _loss_memory(shape: Shape, tokens: int, training: Training) -> Memory:
    """Logits are computed in chunks within a budget; the output layer's gradient is added up."""
    all_logits = LOGIT_ARRAYS * WEIGHT_BYTES * shape.vocab_size * tokens
    layer = WEIGHT_BYTES * shape.vocab_size * shape.hidden_size
    within = "training.loss_bytes of logits" if all_logits > training.loss_bytes else "all logits"
    how = f"{within}, float32, and the output layer's gradient"
    return Memory("loss", min(training.loss_bytes, all_logits) + layer, how)
