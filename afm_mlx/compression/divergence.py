"""How far a changed model has gone from what it was: the divergence of their predictions.

Shapes. R rows, T tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx.decoder.decoder import Decoder

# Arrays like a chunk's logits that exist at once: two models' logits, and log-probabilities. Ours.
_LOGIT_ARRAYS = 4


class Reference:
    """What a model predicts after each token of some texts, kept as its last states.

    Keeps those, 4 x R x T x D bytes, and the output layer: the model itself may change.
    """

    def __init__(
        self,
        decoder: Decoder,
        batches: Sequence[mx.array],
        *,
        chunk_bytes: int,
        counts: Sequence[mx.array] | None = None,
    ) -> None:
        """Read texts once.

        Args:
            decoder: the model.
            batches: token ids [B, T].
            chunk_bytes: budget for logits held at once.
            counts: [B, T] each, 1 where a prediction counts, 0 at padding. None: all count.
        """
        self.counts = counts
        self.batches, self.chunk_bytes = batches, chunk_bytes
        self.weight = decoder.output_weight
        self.states = []
        for inputs in batches:
            self.states.append(decoder.hidden(inputs).astype(mx.float32))
            mx.eval(self.states[-1])

    @classmethod
    def of_rows(
        cls,
        decoder: Decoder,
        rows: Iterable[tuple[mx.array | NDArray[np.int32], mx.array | NDArray[np.float32]]],
        *,
        rows_at_once: int,
        chunk_bytes: int,
    ) -> Reference:
        """Of rows of token ids [R, T], each with what counts [R, T]; several are read at once."""
        sources = list(rows)
        return cls(
            decoder,
            [part for inputs, _ in sources for part in in_parts(inputs, rows_at_once)],
            counts=[part for _, counts in sources for part in in_parts(counts, rows_at_once)],
            chunk_bytes=chunk_bytes,
        )

    def kl(self, model: Decoder) -> float:
        """KL(reference || model), mean nats per token; 0 for the same predictions."""
        return self.kl_of([model.hidden(inputs) for inputs in self.batches], model.output_weight)

    def kl_of(self, states: Sequence[mx.array], weight: mx.array) -> float:
        """The same of last states [B, T, D] and an output layer [V, D]."""
        total = tokens = 0.0
        step = max(1, self.chunk_bytes // (_LOGIT_ARRAYS * mx.float32.size * weight.shape[0]))
        counts = self.counts or [mx.ones(each.shape[:2]) for each in states]
        for before, after, counted in zip(self.states, states, counts, strict=True):
            here, there = (each.reshape(-1, each.shape[-1]) for each in (before, after))
            flat = counted.reshape(-1).astype(mx.float32)
            for start in range(0, len(here), step):
                chunk = slice(start, start + step)
                each = _kl(here[chunk], self.weight, there[chunk], weight)
                total += float((each * flat[chunk]).sum())
            tokens += float(flat.sum())
        return total / max(tokens, 1.0)


def in_parts(rows: mx.array | NDArray[np.int32] | NDArray[np.float32], size: int) -> list[mx.array]:
    """Rows [R, T], up to `size` together."""
    return [mx.array(rows[start : start + size]) for start in range(0, len(rows), size)]


def _kl(p: mx.array, p_weight: mx.array, q: mx.array, q_weight: mx.array) -> mx.array:
    """Divergence [N] between two predictions from states [N, D]."""
    logps, logqs = (_logps(states, weight) for states, weight in ((p, p_weight), (q, q_weight)))
    return (mx.exp(logps) * (logps - logqs)).sum(-1)


def _logps(states: mx.array, weight: mx.array) -> mx.array:
    logits = states.astype(mx.float32) @ weight.astype(mx.float32).T
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
