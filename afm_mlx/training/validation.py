"""Held-out loss: nats per token, and bits per byte, which any two tokenizers can be compared by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from afm_mlx.corpus.mixture import HeldOutRows
from afm_mlx.corpus.packing import document_mask, shift_right
from afm_mlx.training.examples import Examples, fill, pack
from afm_mlx.training.objectives import next_token_loss

MICRO_ROWS = 8  # held-out rows in memory at once, when the recipe does not say; ours


class Validation:
    """What the loop asks of a model from time to time: held-out loss, and samples."""

    def __init__(
        self,
        held_out: Mapping[str, HeldOutRows],
        *,
        eos_id: int,
        micro_rows: int | None,
        chunk_bytes: int,
        prompts: Sequence[str] = (),
        write: Callable[[str], str] | None = None,
    ) -> None:
        """Held-out rows by source; `write` continues a prompt with the model that is trained."""
        self.held_out, self.eos_id = held_out, eos_id
        self.micro_rows, self.chunk_bytes = micro_rows or MICRO_ROWS, chunk_bytes
        self.prompts, self.write = prompts if write else (), write

    def __call__(self, model: Any) -> dict[str, Any]:
        """The numbers of `held_out_loss`, where there are held-out rows, and "samples"."""
        found: dict[str, Any] = {}
        if self.held_out:
            found = held_out_loss(
                model,
                self.held_out,
                eos_id=self.eos_id,
                micro_rows=self.micro_rows,
                chunk_bytes=self.chunk_bytes,
            )
        if self.write and self.prompts:
            found["samples"] = {prompt: self.write(prompt) for prompt in self.prompts}
        return found


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


def held_out_answers(
    model: Any,
    examples: Examples,
    *,
    row_tokens: int,
    most_tokens: int,
    micro_rows: int,
    chunk_bytes: int,
) -> dict[str, Any]:
    """Loss on held-out conversations: `held_out_nats` per token that the assistant says.

    Args:
        model: the decoder.
        examples: none longer than a row; empty ones give no numbers.
        row_tokens: tokens of a row.
        most_tokens: about as many tokens are read; the first examples come first.
        micro_rows: rows in memory at once.
        chunk_bytes: budget for logits, see `linear_cross_entropy`.
    """
    rows = pack(examples.lengths, row_tokens)[: max(1, most_tokens // row_tokens)]
    nats = tokens = 0.0
    for start in range(0, len(rows), micro_rows):
        plan = [[("", number) for number in row] for row in rows[start : start + micro_rows]]
        filled = fill({"": examples}, plan, num_rows=micro_rows, row_tokens=row_tokens)
        _, sums = next_token_loss(
            model,
            mx.array(filled.inputs),
            mx.array(filled.targets),
            mx.array(filled.weights),
            mask=document_mask(mx.array(filled.documents)),
            z_loss=0.0,
            chunk_bytes=chunk_bytes,
            gradient=False,
        )
        nats += float(sums["nll"])
        tokens += float(sums["tokens"])
    return {"held_out_nats": nats / tokens} if tokens else {}
