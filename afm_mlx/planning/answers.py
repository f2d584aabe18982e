"""Formulas of cost: writing answers, reading them, and learning from them.

Pure arithmetic, as `cost.py`. Shapes. L layers, D width, H query heads, K key/value heads, E width
of one head, V vocabulary; P tokens of a prompt, G of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from afm_mlx.planning.cost import WEIGHT_BYTES, Memory, count_by_part, forward_block
from afm_mlx.planning.hardware import Hardware
from afm_mlx.planning.units import gigabytes
from afm_mlx.settings.alignment import Reward
from afm_mlx.settings.sections import Shape, Training

BATCH_ANSWERS = 64  # written at once, alignment/sampling.py
SCORED_ANSWERS = 16  # read at once by a reward model, alignment/reward.py
LOGPS_ARRAYS = 10  # arrays of the shape of a chunk's logits at once, alignment/logps.py
STORED_ARRAYS = 4  # the same in token mode, all at once; measured on the CPU
CACHE_BLOCK = 256  # tokens by which mlx-lm's caches grow

READ, WRITE, TRAIN = "read", "write", "train"
"""Kinds of work."""


@dataclass(frozen=True)
class Work:
    """One kind of work in a stage."""

    name: str
    kind: str
    """read: forward passes; write: tokens one after the other; train: forward and backward."""
    tokens: int
    """Tokens read, written, or trained on, each as often as that is done."""
    flops: float
    """Operations; a multiply-add is two."""
    seconds: float
    """At the assumed shares of the machine's rates."""
    how: str
    """The arithmetic, in words."""

    def times(self, count: int) -> Work:
        """The same done `count` times."""
        return replace(
            self,
            tokens=self.tokens * count,
            flops=self.flops * count,
            seconds=self.seconds * count,
            how=self.how if self.kind == WRITE else f"{self.how}, x {count:,}",
        )


def forward_flops(shape: Shape, tokens: float, seen: float, logits: float) -> float:
    """Operations of a forward pass on tokens that look at `seen` others, with some tokens' logits.

    2 per number of the matrices and token, 4 L H E per token and token seen, 2 V D per logits.
    """
    counts = count_by_part(shape)
    matrices = 2.0 * (counts["attention"] + counts["feed-forward"]) * tokens
    scores = 4.0 * shape.num_layers * shape.num_heads * shape.head_dim * seen * tokens
    return matrices + scores + 2.0 * shape.vocab_size * shape.hidden_size * logits


def learning_flops(
    shape: Shape, tokens: float, seen: float, logits: float, *, recompute: bool
) -> float:
    """Operations of training on packed answers: of the blocks three forward passes, or four.

    The logits cost 8 V D in place of 6: the backward pass computes them again. Prompts have none.
    """
    blocks = forward_flops(shape, tokens, seen, 0.0)
    output = 8.0 * shape.vocab_size * shape.hidden_size * logits
    return blocks * (4 if recompute else 3) + output


def head_parameters(shape: Shape, reward: Reward) -> int:
    """Numbers in a reward model's heads: D of the reward, and a small network for each grade."""
    width = shape.hidden_size
    inner = max(1, width // reward.grade_width_divisor)
    grade = (width + 1) * inner + (inner + 1) * reward.grade_classes
    return width + len(reward.grades) * grade


def computing(hardware: Hardware, flops: float) -> float:
    """Seconds of so many operations at the assumed share of the rate."""
    return flops / (hardware.flops * hardware.utilization)


def read(
    name: str, shape: Shape, hardware: Hardware, *, texts: int, tokens: int, logits: int, how: str
) -> Work:
    """Forward passes on so many texts of equal length, each with so many tokens' logits."""
    flops = texts * forward_flops(shape, tokens, tokens, logits)
    return Work(name, READ, texts * tokens, flops, computing(hardware, flops), how)


def write(
    shape: Shape,
    hardware: Hardware,
    *,
    prompts: int,
    answers: int,
    prompt_tokens: int,
    answer_tokens: int,
) -> tuple[Work, Work]:
    """Reading prompts, each once, and writing answers to them.

    A step writes a token of each answer of the batch. It reads the weights and the batch's caches,
    and computes a forward pass: it takes as long as the longer of the two. Caches are half full on
    average.
    """
    prefill = read(
        "prompts",
        shape,
        hardware,
        texts=prompts,
        tokens=prompt_tokens,
        logits=1,
        how=f"{prompts:,} x {prompt_tokens:,} tokens, each read once",
    )
    batch = min(BATCH_ANSWERS, answers)
    seen = prompt_tokens + answer_tokens / 2
    tokens = answers * answer_tokens
    flops = forward_flops(shape, tokens, seen, tokens)
    bytes_read = step_bytes(shape, hardware, batch, seen)
    reading = bytes_read / (hardware.bandwidth * hardware.bandwidth_share)
    computed = computing(hardware, flops * batch / tokens)
    how = (
        f"{batch} at once; a step: {gigabytes(bytes_read)} GB in {_short(reading)}, "
        f"computing {_short(computed)}"
    )
    steps = tokens / batch
    return prefill, Work("answers", WRITE, tokens, flops, steps * max(reading, computed), how)


def step_bytes(shape: Shape, hardware: Hardware, batch: int, seen: float) -> float:
    """Bytes read to write one token of each answer: all matrices, and the caches so far."""
    counts = count_by_part(shape)
    matrices = counts["attention"] + counts["feed-forward"] + shape.vocab_size * shape.hidden_size
    return hardware.compute_bytes * matrices + batch * seen * cache_bytes(shape, hardware)


def cache_bytes(shape: Shape, hardware: Hardware) -> int:
    """Keys and values of one token in all layers, in the compute format."""
    return 2 * hardware.compute_bytes * shape.num_layers * shape.num_kv_heads * shape.head_dim


def caches(
    shape: Shape,
    hardware: Hardware,
    *,
    answers: int,
    samples: int,
    prompt_tokens: int,
    answer_tokens: int,
) -> Memory:
    """Memory of the caches of answers that are written at once, `samples` to each prompt.

    mlx-lm's caches grow by whole blocks. Prompts are read before the first answer begins.
    """
    batch, each = min(BATCH_ANSWERS, answers), cache_bytes(shape, hardware)
    prompts = -(-batch // samples) + 1
    size = batch * (prompt_tokens + _blocks(answer_tokens)) + prompts * _blocks(prompt_tokens)
    how = f"estimate: {each:,} bytes x {size:,} tokens of {batch} answers and {prompts} prompts"
    return Memory("caches", each * size, how)


def model_memory(name: str, shape: Shape, hardware: Hardware, *, scores: bool = False) -> Memory:
    """A model that is not trained; one that `scores` has no output layer of its own."""
    count = count_by_part(shape.model_copy(update={"tied": True}) if scores else shape)["total"]
    size = hardware.compute_bytes
    return Memory(name, size * count, f"{size} bytes x {count:,}, as it computes")


def scoring_pass(shape: Shape, hardware: Hardware, tokens: int) -> Memory:
    """Memory of a forward pass of a reward model."""
    how = f"estimate: {SCORED_ANSWERS} x {tokens:,} tokens, two blocks, nothing kept"
    return Memory("pass", 2 * forward_block(shape, tokens, SCORED_ANSWERS, hardware), how)


def answer_loss(shape: Shape, tokens: int, training: Training) -> Memory:
    """Memory of the logits of answer tokens, in chunks, and of the output layer's gradient."""
    logits = LOGPS_ARRAYS * WEIGHT_BYTES * shape.vocab_size * tokens
    layer = WEIGHT_BYTES * shape.vocab_size * shape.hidden_size
    within = "training.loss_bytes of logits" if logits > training.loss_bytes else "all logits"
    how = f"{within}, float32, and the output layer's gradient"
    return Memory("loss", min(training.loss_bytes, logits) + layer, how)


def stored_logits(shape: Shape, tokens: int) -> Memory:
    """Memory of token mode: logits of all answer tokens of a micro-batch, and arrays like them."""
    how = f"estimate: {STORED_ARRAYS} arrays, 4 bytes x {tokens:,} tokens x {shape.vocab_size:,}"
    return Memory("logits", STORED_ARRAYS * WEIGHT_BYTES * tokens * shape.vocab_size, how)


def _blocks(tokens: int) -> int:
    return -(-tokens // CACHE_BLOCK) * CACHE_BLOCK


def _short(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-4 else f"{seconds * 1e3:.3f} ms"
