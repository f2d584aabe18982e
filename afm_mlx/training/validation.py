"""Held-out loss: nats per token, and bits per byte, which any two tokenizers can be compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from afm_mlx.corpus.packing import shift_right
from afm_mlx.training.objectives import next_token_loss


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows of one source."""

    rows: np.ndarray[Any, np.dtype[np.int32]]
    """[R, T] target tokens."""
    text_bytes: float
    """UTF-8 bytes of text in these rows."""


def held_out_loss(
    model: Any, sets: Mapping[str, HeldOut], *, eos_id: int, micro_rows: int, chunk_bytes: int
) -> dict[str, Any]:
    """Loss on held-out rows: `held_out_nats` per token, `bits_per_byte`, and the latter by source.

    Sources count by their tokens. A byte's bits are those of the tokens that spell it, document
    ends included.
    """
    nats, tokens, by_source = 0.0, 0, {}
    for name, held_out in sets.items():
        source_nats = 0.0
        for start in range(0, len(held_out.rows), micro_rows):
            targets = mx.array(held_out.rows[start : start + micro_rows])
            _, sums = next_token_loss(
                model,
                shift_right(targets, eos_id),
                targets,
                mx.ones(targets.shape),
                mask="causal",
                z_loss=0.0,
                chunk_bytes=chunk_bytes,
                gradient=False,
            )
            source_nats += float(sums["nll"])
        by_source[name] = source_nats / math.log(2) / held_out.text_bytes
        nats += source_nats
        tokens += held_out.rows.size
    text_bytes = sum(held_out.text_bytes for held_out in sets.values())
    return {
        "held_out_nats": nats / tokens,
        "bits_per_byte": nats / math.log(2) / text_bytes,
        "bits_per_byte_by_source": by_source,
    }
