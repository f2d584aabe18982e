"""mlx-lm's generation of one answer: step by step, or several at once with a draft's guesses."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import DataError, ModelError
from afm_mlx.inference.answers import Answer
from afm_mlx.inference.prompt_cache import Caches
from afm_mlx.inference.speculative import Draft

if TYPE_CHECKING:
    import mlx.core as mx

    from afm_mlx.decoder.decoder import Decoder
    from afm_mlx.settings.sections import Shape

READ_TOKENS = 2_048
"""Tokens of a prompt that are read at once; mlx-lm's own default."""

KV_BITS = (4, 8)
"""Bits to which keys and values can be rounded."""

Step = tuple[int, "mx.array | None", bool]
"""A token; its log-probabilities [V], only where a draft guesses; whether the draft guessed it."""


def new_caches(model: Decoder, draft: Draft | None = None) -> Caches:
    """Empty caches: of the model's layers, then of the draft's."""
    make = import_mlx_lm("mlx_lm.models.cache").make_prompt_cache
    return [*make(model), *(make(draft.model) if draft is not None else [])]


def kv_settings(shape: Shape, bits: int | None) -> dict[str, int]:
    """mlx-lm's settings for keys and values that are rounded from the first token on.

    Raises:
        DataError: there is no such number of bits.
        ModelError: heads of this size cannot be rounded.
    """
    if bits is None:
        return {}
    if bits not in KV_BITS:
        raise DataError(f"kv_bits is {bits}, and must be one of {', '.join(map(str, KV_BITS))}")
    group = next((size for size in (64, 32) if shape.head_dim % size == 0), None)
    if group is None:
        raise ModelError(
            "kv_bits needs heads of a multiple of 32 numbers, and this model's have "
            f"{shape.head_dim}"
        )
    return {"kv_bits": bits, "kv_group_size": group, "quantized_kv_start": 0}


def answer_steps(
    model: Decoder,
    ids: mx.array,
    answer: Answer,
    caches: Caches,
    *,
    draft: Draft | None = None,
    kv: dict[str, int],
) -> Generator[Step, None, None]:
    """Tokens of an answer, at most its limit.

    Args:
        model: the one that answers.
        ids: [N], what is left to read of the prompt, N above 0.
        answer: chooses; its guide plays no part where a draft guesses.
        caches: as `new_caches` makes them, extended in place.
        draft: guesses ahead; None for one token at a time.
        kv: of `kv_settings`.
    """
    generation = import_mlx_lm("mlx_lm.generate")
    settings = {
        "max_tokens": answer.limit,
        "sampler": answer.sampler,
        "prompt_cache": caches,
        "prefill_step_size": READ_TOKENS,
        **kv,
    }
    if draft is None:
        steps = generation.generate_step(
            ids, model, logits_processors=answer.processors, **settings
        )
        with contextlib.closing(steps):
            for token, _ in steps:
                yield int(token), None, False
        return
    steps = generation.speculative_generate_step(
        ids,
        model,
        draft.model,
        num_draft_tokens=draft.tokens,
        logits_processors=answer.places,
        **settings,
    )
    with contextlib.closing(steps):
        for token, logps, guessed in steps:
            yield int(token), logps, bool(guessed)
