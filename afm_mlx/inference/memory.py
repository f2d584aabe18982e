"""What answers take in memory, counted before they begin, so that a budget is never exceeded.

Shapes. L layers, K key/value heads, E width of one head, D width, I width of the feed-forward,
H query heads, V rows of the output. Sizes in bytes; GB and MB are 10^9 and 10^6 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afm_mlx.compat import device_memory_bytes, on_gpu
from afm_mlx.errors import FitError

if TYPE_CHECKING:
    from afm_mlx.settings.sections import Shape

CACHE_STEP = 256
"""Tokens by which mlx-lm's caches grow (0.32.2, `KVCache.step`)."""

CPU_SHARE = 0.5
"""Share of a machine's memory that a model on the CPU may take, unless told. Ours."""

PROMPT_SHARE = 0.2
"""Share of the device's memory that one engine keeps earlier prompts in. Ours."""

FREED_SHARE = 0.05
"""Share of a budget in which MLX may keep freed buffers for reuse. Ours."""

WORK_COPIES = 3
"""Arrays of one kind that are alive at once while a layer computes: what goes in, what comes out,
and one between. Ours, checked by measuring."""


def default_budget() -> int:
    """Bytes that serving a model may take: what Metal recommends, else a share of the memory."""
    return device_memory_bytes() if on_gpu() else int(device_memory_bytes() * CPU_SHARE)


def shown(size: float) -> str:
    """A size for people: `1.25 GB`, `13.4 MB`."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def token_bytes(shape: Shape, number_bytes: int) -> int:
    """Bytes of the keys and values of one token: 2 L K E numbers."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * number_bytes


def work_bytes(shape: Shape, *, number_bytes: int, read_tokens: int, together: int) -> int:
    """Most bytes beside weights and caches while a model reads `read_tokens`, or writes a token.

    Attention on the CPU writes all scores; a GPU does not. A guide's mask and log-probabilities
    are copies of the logits.
    """
    widest = max(3 * shape.intermediate_size, 3 * shape.num_heads * shape.head_dim)
    reading = read_tokens * (widest + 2 * shape.hidden_size) * number_bytes
    scores = 0 if on_gpu() else shape.num_heads * shape.max_tokens * max(read_tokens, together) * 4
    logits = together * shape.vocab_size * 4
    return WORK_COPIES * (max(reading, logits) + scores)


@dataclass(frozen=True)
class Budget:
    """Bytes that may be taken, and what of them is spoken for whatever is asked."""

    total: int
    """All of it."""
    fixed: int
    """Weights, work, and freed buffers."""
    per_token: int
    """Keys and values of one token."""

    def together(self, tokens: Sequence[int]) -> int:
        """Bytes of the caches of answers that are written at once.

        A batch's caches are a rectangle: every answer takes as much as the longest. While an answer
        joins, what was read of it exists twice.

        Args:
            tokens: prompt and longest answer of each.
        """
        if not tokens:
            return 0
        longest = max(tokens) + CACHE_STEP
        return (len(tokens) + 1) * longest * self.per_token

    @property
    def free(self) -> int:
        """Bytes for the caches of answers and of earlier prompts."""
        return self.total - self.fixed

    @property
    def most_tokens(self) -> int:
        """Longest prompt and answer together that ever fits; 0 for none."""
        return max(0, self.free // (2 * self.per_token) - CACHE_STEP)

    def check_model(self) -> None:
        """Refuse a budget that is too small for the model.

        Raises:
            FitError: no answer at all would fit.
        """
        if self.most_tokens < 1:
            least = self.fixed + self.together([1])
            raise FitError(
                f"the model alone needs {shown(least)}, and the memory budget is "
                f"{shown(self.total)}",
                hint="a larger budget, or a smaller or quantized model",
            )

    def check(self, prompt_tokens: int, max_tokens: int) -> None:
        """Refuse an answer that would not fit even with nothing beside it.

        Raises:
            FitError: it needs more than there is.
        """
        needed = self.together([prompt_tokens + max_tokens])
        if needed > self.free:
            rest = self.most_tokens - prompt_tokens
            raise FitError(
                f"a prompt of {prompt_tokens:,} tokens and an answer of up to {max_tokens:,} need "
                f"{shown(needed)}, and {shown(self.free)} of the memory budget of "
                f"{shown(self.total)} are free beside the model",
                hint=f"max_tokens {rest:,} or less" if rest > 0 else "a shorter prompt",
            )
