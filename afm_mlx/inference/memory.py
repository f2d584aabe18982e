"""What answers take in memory, counted before they begin, so that a budget is never exceeded.

Sizes in bytes; GB and MB are 10^9 and 10^6 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import device_memory_bytes, import_mlx_lm, on_gpu
from afm_mlx.errors import FitError

if TYPE_CHECKING:
    from afm_mlx.decoder.decoder import Decoder
    from afm_mlx.settings.sections import Shape

CACHE_STEP = 256
"""Tokens by which mlx-lm's caches grow (0.32.2, `KVCache.step`)."""

CPU_SHARE = 0.5
"""Share of a machine's memory that a model on the CPU may take, unless told. Ours."""

PROMPT_SHARE = 0.2
"""Most of its budget that one engine keeps earlier prompts in. Ours."""

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


@dataclass(frozen=True)
class Sizes:
    """What a model takes."""

    shape: Shape
    weights: int
    """All its arrays, and on the CPU the dense copies of those in tables."""
    per_token: int
    """Keys and values of one token."""
    per_number: int
    """One number of them, and of its activations."""

    def rounded(self, bits: int, group: int) -> Sizes:
        """With keys and values of so many bits; each `group` has a scale and an offset of its own.

        Exact ones are made first while a prompt is read, but of one piece of it at a time.
        """
        exact = 8 * self.per_number
        return replace(self, per_token=int(self.per_token * (bits + 2 * exact / group) / exact))


def sizes_of(model: Decoder) -> Sizes:
    """What a model takes; keys and values as they are in caches that it would fill.

    Nothing is computed but the dense copies of weights in tables, which the CPU needs anyway.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from afm_mlx.decoder.palette import copied_bytes

    arrays: Any = tree_flatten(model.parameters())
    caches = import_mlx_lm("mlx_lm.models.cache").make_prompt_cache(model)
    model(mx.array([[0]]), cache=caches)
    # Adapters are counted where they are held.
    own = [array for name, array in arrays if not name.endswith((".lora_a", ".lora_b"))]
    return Sizes(
        model.shape,
        weights=sum(array.nbytes for array in own) + copied_bytes(model),
        per_token=sum(cache.nbytes for cache in caches) // CACHE_STEP,
        per_number=caches[0].keys.dtype.size,
    )


def work_bytes(sizes: Sizes, *, read_tokens: int, together: int) -> int:
    """Most bytes beside weights, caches and attention's scores while a model computes.

    Args:
        sizes: of the model.
        read_tokens: of a prompt at once.
        together: answers that are written at once; a guide's masks and log-probabilities are copies
            of their logits.
    """
    shape = sizes.shape
    widest = max(3 * shape.intermediate_size, 3 * shape.num_heads * shape.head_dim)
    reading = read_tokens * (widest + 2 * shape.hidden_size) * sizes.per_number
    logits = together * shape.vocab_size * 4
    return WORK_COPIES * max(reading, logits)


def score_bytes(shape: Shape) -> int:
    """Bytes of the scores of one token with one of its past; a GPU writes none of them."""
    return 0 if on_gpu() else WORK_COPIES * shape.num_heads * 4


@dataclass(frozen=True)
class Budget:
    """Bytes that may be taken, and what of them is spoken for whatever is asked."""

    total: int
    """All of it."""
    fixed: int
    """Weights, work, and freed buffers."""
    per_token: int
    """Keys and values of one token."""
    per_score: int
    """Attention's score of one token with one of its past."""
    read_tokens: int
    """Tokens of a prompt that are read at once."""

    @classmethod
    def of(
        cls, models: Sequence[Sizes], *, total: int, held: int, read_tokens: int, together: int
    ) -> Budget:
        """The budget of models that answer together: one, or one and its draft.

        Args:
            models: what they take.
            total: bytes that may be taken.
            held: bytes that are taken whatever happens, beside weights.
            read_tokens: of a prompt at once.
            together: answers that are written at once.
        """
        works = [work_bytes(each, read_tokens=read_tokens, together=together) for each in models]
        return cls(
            total,
            fixed=held + sum(each.weights for each in models) + max(works),
            per_token=sum(each.per_token for each in models),
            per_score=max(score_bytes(each.shape) for each in models),
            read_tokens=read_tokens,
        )

    def together(self, answers: Sequence[tuple[int, int]]) -> int:
        """Bytes of the caches and scores of answers that are written at once.

        A batch's caches are a rectangle: every answer takes as much as the longest. While an answer
        joins, what was read of it exists twice.

        Args:
            answers: tokens of the prompt, and most tokens of the answer, of each.
        """
        if not answers:
            return 0
        longest = max(prompt + answer for prompt, answer in answers) + CACHE_STEP
        reading = self._read_scores(max(prompt for prompt, _ in answers))
        scores = self.per_score * max(reading, len(answers) * longest)
        return longest * (len(answers) + 1) * self.per_token + scores

    @property
    def free(self) -> int:
        """Bytes for the caches of answers and of earlier prompts."""
        return self.total - self.fixed

    def most_answer(self, prompt_tokens: int) -> int:
        """Longest answer to a prompt that ever fits; 0 or less for none."""
        beside = self.free - self.per_score * self._read_scores(prompt_tokens)
        longest = min(
            beside // (2 * self.per_token), self.free // (2 * self.per_token + self.per_score)
        )
        return longest - CACHE_STEP - prompt_tokens

    def check_model(self) -> None:
        """Refuse a budget that is too small for the model.

        Raises:
            FitError: no answer at all would fit.
        """
        if self.most_answer(1) < 1:
            least = self.fixed + self.together([(1, 1)])
            raise FitError(
                f"the model alone needs {shown(least)}, and the memory budget is "
                f"{shown(self.total)}",
                hint="a larger budget, or a smaller or quantized model",
            )

    def check(self, prompt_tokens: int, max_tokens: int) -> None:
        """Refuse an answer that would not fit even with nothing beside it.

        Raises:
            FitError: it needs more than there is, or the model does.
        """
        self.check_model()
        needed = self.together([(prompt_tokens, max_tokens)])
        if needed > self.free:
            rest = self.most_answer(prompt_tokens)
            raise FitError(
                f"a prompt of {prompt_tokens:,} tokens and an answer of up to {max_tokens:,} need "
                f"{shown(needed)}, and {shown(self.free)} of the memory budget of "
                f"{shown(self.total)} are free beside the model",
                hint=f"max_tokens {rest:,} or less" if rest > 0 else "a shorter prompt",
            )

    def _read_scores(self, prompt_tokens: int) -> int:
        """Scores that are alive at once while the end of a prompt is read."""
        return min(self.read_tokens, prompt_tokens) * prompt_tokens
