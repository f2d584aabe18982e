"""How the next token is chosen: draws, masks of guides, log-probabilities. In mlx-lm's interfaces.

A sampler is a function from log-probabilities [B, V] to token ids [B]. A processor is one from the
tokens so far [L] and logits [1, V] to logits; mlx-lm calls it right before the sampler.

Shapes. B rows, V rows of the model's output, L tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from afm_mlx.errors import AfmError, RunError

if TYPE_CHECKING:
    import mlx.core as mx

    from afm_mlx.inference.requests import Guide, Sampling

Sampler = Callable[["mx.array"], "mx.array"]
Processor = Callable[["mx.array", "mx.array"], "mx.array"]

COLDEST = 1e-6  # temperatures below it choose the same, and may overflow float32; ours


def sampler(sampling: Sampling) -> Sampler:
    """What chooses the tokens of one answer. All greedy answers share one, as batches like it."""
    return Draw(sampling) if sampling.temperature > 0 else greedy


def greedy(logps: mx.array) -> mx.array:
    """The likeliest token."""
    import mlx.core as mx

    return mx.argmax(logps, axis=-1)


class Draw:
    """Draws the tokens of one answer, each with the random key of its place in the answer.

    So a draw depends on the seed, its place and the model, and on nothing that runs beside it.
    mlx-lm's own sampler draws from the process's random state, and calls a C++ compiler on the CPU.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.place = 0
        """Of the next token; counted up by each draw."""
        self._temperature, self._top_p = max(sampling.temperature, COLDEST), sampling.top_p
        self._seed = sampling.seed
        self._keys: list[mx.array] = []
        self._chain: mx.array | None = None

    def __call__(self, logps: mx.array) -> mx.array:
        """Token ids [1] of log-probabilities [1, V]."""
        import mlx.core as mx

        key = self._key(self.place)
        self.place += 1
        logps = logps.astype(mx.float32)  # draws in bfloat16 would have few values
        if self._top_p == 1:
            return mx.random.categorical(logps / self._temperature, key=key)
        order = mx.argsort(-logps, axis=-1)
        ranked = mx.take_along_axis(logps, order, axis=-1)
        chances = mx.softmax(ranked, axis=-1)
        before = mx.cumsum(chances, axis=-1, inclusive=False)
        ranked = mx.where(before < max(self._top_p, 1e-9), ranked, -mx.inf)
        drawn = mx.random.categorical(ranked / self._temperature, key=key)
        return mx.take_along_axis(order, drawn[..., None], axis=-1).squeeze(-1)

    def placed(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """A processor that changes nothing, for speculative decoding, which draws a place twice.

        There, `tokens` are those of the answer before this place, and the prompt's last one.
        """
        self.place = tokens.size - 1
        return logits

    def _key(self, place: int) -> mx.array:
        import mlx.core as mx

        if self._chain is None:  # made here, on the thread that draws
            self._chain = mx.random.key(self._seed % 2**64)
        while len(self._keys) <= place:
            self._chain, now = mx.random.split(self._chain)
            self._keys.append(now)
        return self._keys[place]


class Watch:
    """A processor that applies a guide, and keeps the model's own log-probabilities.

    mlx-lm computes a token ahead: when a token comes out, the one after it has been chosen. Hence
    the queue. It raises nothing, which would spoil the other answers of a batch: see `failure`.
    """

    def __init__(
        self, guide: Guide | None, ends: Collection[int], *, limit: int | None = None, keeps: bool
    ) -> None:
        """`ends` are the stop tokens; `limit`: most tokens; `keeps`: whether `logps` is filled."""
        self.failure: AfmError | None = None
        """What went wrong with the guide; the answer is of no use from then on."""
        self.logps: deque[mx.array] = deque()
        """Log-probabilities [V] float32 of tokens that have been chosen and not yet come out."""
        self._state = guide.start(limit) if guide else None
        self._ends = ends
        self._keeps = keeps
        self._begun = False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Logits [1, V], those of tokens that may not come next at minus infinity."""
        import mlx.core as mx

        if self._keeps:
            exact = logits[0].astype(mx.float32)
            self.logps.append(exact - mx.logsumexp(exact))
        if self._state is None or self.failure is not None:
            return logits
        try:
            return self._masked(tokens, logits)
        except AfmError as error:
            self.failure = error
        except Exception as error:
            self.failure = RunError(f"the guide failed: {type(error).__name__}: {error}")
        return logits

    def _masked(self, tokens: mx.array, logits: mx.array) -> mx.array:
        import mlx.core as mx
        import numpy as np

        assert self._state is not None
        mx.async_eval(logits)  # the model computes while we find out what may come
        if self._begun:
            last: Any = tokens[-1].item()  # waits for the choice before
            if last in self._ends:
                self._state = None  # the answer is over, and this choice is thrown away
                return logits
            self._state.accept(int(last))
        self._begun = True
        bits = self._state.allowed().astype("<u4", copy=False).view(np.uint8)
        allowed = np.zeros(logits.shape[-1], dtype=np.bool_)
        known = np.unpackbits(bits, bitorder="little")[: allowed.size]
        allowed[: known.size] = known
        if not allowed.any():
            raise RunError("the guide allows no token at all here")
        return mx.where(mx.array(allowed), logits, -mx.inf)


def told(logps: mx.array, token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Log-probability of `token`, and the `count` likeliest tokens with theirs; `logps` is [V]."""
    import mlx.core as mx

    own: Any = logps[token].astype(mx.float32)
    if count == 0:
        return own.item(), ()
    best: Any = mx.argpartition(-logps, kth=min(count, logps.size) - 1)[:count]
    values: Any = logps[best].astype(mx.float32)
    mx.eval(own, best, values)
    ranked = sorted(zip(values.tolist(), best.tolist(), strict=True), key=lambda pair: -pair[0])
    return own.item(), tuple((number, value) for value, number in ranked)
