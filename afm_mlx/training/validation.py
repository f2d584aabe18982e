"""Held-out loss: nats per token, and bits per byte, which any two tokenizers can be compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from afm_mlx.corpus.mixture import HeldOutRows
from afm_mlx.corpus.packing import shift_right
from afm_mlx.training.objectives import next_token_loss


def held_out_loss(
    model: Any,
    sources: Mapping[str, HeldOutRows],
    *,
    eos_id: int,
    micro_rows: int,
    chunk_bytes: int,
) -> dict[str, Any]:
    """Loss on held-out rows: `held_out_nats` per token, `bits_per_byte`, and the latter by source.

    Sources count by their tokens. A byte's bits are those of the tokens that spell it, document
    ends included.
    """
    nats, by_source = 0.0, {}
    for name, held_out in sources.items():
        source_nats = 0.0
        for start in range(0, len(held_out.targets), micro_rows):
            rows = slice(start, start + micro_rows)
            targets = mx.array(held_out.targets[rows])
            _, sums = next_token_loss(
                model,
                shift_right(targets, eos_id),
                targets,
                mx.array(held_out.counts[rows]),
                mask="causal",
                z_loss=0.0,
                chunk_bytes=chunk_bytes,
                gradient=False,
            )
            source_nats += float(sums["nll"])
        by_source[name] = source_nats / math.log(2) / held_out.text_bytes
        nats += source_nats
    tokens = sum(float(held_out.counts.sum()) for held_out in sources.values())
    text_bytes = sum(held_out.text_bytes for held_out in sources.values())
    return {
        "held_out_nats": nats / tokens,
        "bits_per_byte": nats / math.log(2) / text_bytes,
        "bits_per_byte_by_source": by_source,
    }
