"""What a model makes of token ids: its states in batches of rows, and how likely tokens are there.

Nothing that was read is changed by what is read after it, so many rows go on from one past.

Shapes. B rows, L tokens of a row, P tokens of a past, N places, T tokens asked at each, D width,
K key/value heads, E width of one head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

import mlx.core as mx
import numpy as np

from afm_mlx.compat import on_gpu
from afm_mlx.decoder.attention import Mask
from afm_mlx.decoder.exponential import LOG2_E, exp2, max_of_last, sum_of_last
from afm_mlx.inference.memory import FREED_SHARE, score_bytes, work_bytes
from afm_mlx.inference.steps import READ_TOKENS

if TYPE_CHECKING:
    from afm_mlx.inference.engine import Engine

LOGIT_BYTES = 2**28
"""About the most bytes of logits, and of arrays of their shape, at once. Ours."""

LOGIT_COPIES = 4
"""Such arrays that are alive together, float32."""

BATCH_TOKENS = 16
"""Tokens that are read in the time in which weights come from memory, once for each batch: so much
padding is no worse than another batch. Ours."""

WORK_SHARE = 0.5
"""Share of the memory that is free beside the weights for what one batch takes. Ours."""


Item = TypeVar("Item")

Scored = tuple[float, bool]
"""A token's log-probability in nats, and whether it is the likeliest one."""


@dataclass(frozen=True)
class Past:
    """Keys and values of tokens that were read, by layer."""

    layers: tuple[tuple[mx.array, mx.array], ...] = ()
    """[B, K, P, E] each; one row serves a batch of any number."""

    @property
    def tokens(self) -> int:
        """P."""
        return int(self.layers[0][0].shape[2]) if self.layers else 0

    def first(self, tokens: int) -> Past:
        """What was known after so many of the tokens."""
        if tokens == 0:
            return Past()
        return Past(tuple((k[:, :, :tokens], v[:, :, :tokens]) for k, v in self.layers))

    def then(self, later: Past) -> Past:
        """This, and what was read on top of it."""
        if not self.layers:
            return later
        return Past(
            tuple(
                (_joined(k, more_k), _joined(v, more_v))
                for (k, v), (more_k, more_v) in zip(self.layers, later.layers, strict=True)
            )
        )

    def rows(self, numbers: mx.array) -> Past:
        """These of its rows, in this order, as often as they are named."""
        return Past(tuple((k[numbers], v[numbers]) for k, v in self.layers))


class _LayerCache:
    """What `Attention` takes for a cache: adds the past of one layer, and is itself not changed."""

    def __init__(self, past: tuple[mx.array, mx.array] | None, offset: int | mx.array) -> None:
        self.past, self.offset = past, offset
        self.read: tuple[mx.array, mx.array]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.read = keys, values
        if self.past is None:
            return keys, values
        return _joined(self.past[0], keys), _joined(self.past[1], values)


class Reader:
    """Reads with an engine's model as it is now, the adapter in use included.

    Within its `with`, MLX keeps a share of the memory budget in freed buffers for the next batch.
    """

    def __init__(self, engine: Engine) -> None:
        """Keeps a copy of the output layer in float32, 4 x V x D bytes, where it is none."""
        self.model = engine.model
        self.sizes = engine.sizes
        # In bfloat16, logits near 16 are multiples of 1/8, and half of all close calls are ties.
        self.table = engine.model.output_weight.astype(mx.float32)
        self._freed = int(engine.budget_bytes * FREED_SHARE)
        taken = self.sizes.weights + self.table.nbytes + engine.adapters.bytes + self._freed
        self.room = int(max(engine.budget_bytes - taken, 0) * WORK_SHARE)
        """Bytes that one batch may take."""

    def __enter__(self) -> Self:
        self._before = mx.set_cache_limit(self._freed)
        return self

    def __exit__(self, *_: object) -> None:
        mx.set_cache_limit(self._before)

    def fits(self, rows: int, tokens: int, past: int) -> bool:
        """Whether so many rows of so many tokens each can be read at once, on top of a past."""
        count = rows * tokens
        if count > READ_TOKENS:
            return False
        work = work_bytes(self.sizes, read_tokens=count, together=0)
        scores = score_bytes(self.sizes.shape) * count * (past + tokens)
        # The past is repeated for each row, in one layer at a time; what is read stays for a while.
        repeated = rows * (past + tokens) * self.sizes.per_token // self.sizes.shape.num_layers
        return work + scores + repeated + count * self.sizes.per_token <= self.room

    def read(
        self,
        rows: Sequence[Sequence[int]],
        past: Past,
        *,
        offsets: mx.array | None = None,
        mask: Mask = "causal",
    ) -> tuple[mx.array, Past]:
        """States [B, L, D] after the last norm, and the past that is new.

        Args:
            rows: token ids, padded on the right to the longest: no token sees a later one.
            past: of one row that all go on from, or of as many as there are.
            offsets: [B], position of each row's first token; None: all stand behind the past.
            mask: booleans [B, 1, L, P + L], True where a query may attend.
        """
        length = max(len(row) for row in rows)
        padded = np.zeros((len(rows), length), np.int32)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = row
        offset = past.tokens if offsets is None else offsets
        caches = [
            _LayerCache(layer, offset) for layer in past.layers or [None] * len(self.model.layers)
        ]
        x = self.model.model.embed_tokens(mx.array(padded))
        for layer, cache in zip(self.model.layers, caches, strict=True):
            x = layer(x, mask, cache)
        return self.model.model.norm(x), Past(tuple(cache.read for cache in caches))

    def read_on(self, ids: Sequence[int], past: Past) -> Past:
        """The past of a text of any length on top of another one, read piece by piece."""
        start = 0
        while start < len(ids):
            piece = ids[start : start + self.piece_tokens(past.tokens)]
            _, new = self.read([piece], past)
            past = past.then(new)
            mx.eval(past.layers)
            start += len(piece)
        return past

    def batches(
        self, items: Sequence[Item], length: Callable[[Item], int], past: int
    ) -> Iterator[list[Item]]:
        """Items in batches of about equal length, so that all are read soonest."""
        ordered = sorted(items, key=length)
        lengths = [length(item) for item in ordered]
        least = [0]  # by number of the first items: tokens' worth of reading them
        begins: list[int] = []  # and where the last batch of them begins
        for end, longest in enumerate(lengths, start=1):
            ways = []
            for start in range(end - 1, -1, -1):
                rows = end - start
                if rows > 1 and not self.fits(rows, longest, past):
                    break
                ways.append((least[start] + rows * longest + BATCH_TOKENS, start))
            cost, start = min(ways)
            least.append(cost)
            begins.append(start)
        end, found = len(ordered), []
        while end:
            start = begins[end - 1]
            found.append(ordered[start:end])
            end = start
        yield from reversed(found)

    def along(self, inputs: Sequence[int], targets: Sequence[int], past: Past) -> list[Scored]:
        """How likely the targets are that the last inputs predict; one row of any length."""
        scored: list[Scored] = []
        start, unscored = 0, len(inputs) - len(targets)
        while start < len(inputs):
            piece = inputs[start : start + self.piece_tokens(past.tokens)]
            states, new = self.read([piece], past)
            start += len(piece)
            if start < len(inputs):
                past = past.then(new)
            asked = targets[max(0, start - len(piece) - unscored) : max(0, start - unscored)]
            mx.eval(states, past.layers)
            scored += self.scored(states, [piece], [asked])[0]
        return scored

    def scored(
        self,
        states: mx.array,
        inputs: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
    ) -> list[list[Scored]]:
        """Scores of the targets that the last inputs of each row predict; states [B, L, D]."""
        length = states.shape[1]
        places = [
            row * length + place
            for row, (read, asked) in enumerate(zip(inputs, targets, strict=True))
            for place in range(len(read) - len(asked), len(read))
        ]
        if not places:
            return [[] for _ in targets]
        wanted = states.reshape(-1, states.shape[-1])[mx.array(places)]
        flat = iter(self.token_logps(wanted, [[token] for asked in targets for token in asked]))
        return [[next(flat)[0] for _ in asked] for asked in targets]

    def token_logps(self, states: mx.array, tokens: Sequence[Sequence[int]]) -> list[list[Scored]]:
        """How likely tokens are, in nats, and whether each is the likeliest.

        Args:
            states: [N, D].
            tokens: for each state, the tokens that are asked: at least one.
        """
        most = max(1, LOGIT_BYTES // (LOGIT_COPIES * mx.float32.size * self.table.shape[0]))
        found: list[list[Scored]] = []
        for start in range(0, len(tokens), most):
            asked = tokens[start : start + most]
            width = max(map(len, asked))
            padded = np.array([[*some, *[0] * (width - len(some))] for some in asked], np.int32)
            logps, likeliest = _logps(states[start : start + most], self.table, mx.array(padded))
            for row, best, some in zip(np.array(logps), np.array(likeliest), asked, strict=True):
                count = len(some)
                found.append(list(zip(row[:count].tolist(), best[:count].tolist(), strict=True)))
        return found

    def piece_tokens(self, past: int) -> int:
        """Tokens of one row that can be read at once, at least one."""
        tokens = READ_TOKENS
        while tokens > 1 and not self.fits(1, tokens, past):
            tokens //= 2
        return tokens


def _logps(states: mx.array, table: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
    """Log-probabilities [N, T] of tokens, and whether they are the likeliest."""
    unit = 1.0 if on_gpu() else LOG2_E  # on the CPU, the fast exponential has base 2
    logits = (states.astype(mx.float32) * unit) @ table.T
    top = max_of_last(logits)
    powers = mx.exp(logits - top) if on_gpu() else exp2(logits - top)
    asked = mx.take_along_axis(logits, tokens, axis=-1)
    logps = (asked - top) / unit - mx.log(sum_of_last(powers))
    likeliest = asked == top
    mx.eval(logps, likeliest)
    return logps, likeliest


def _joined(past: mx.array, new: mx.array) -> mx.array:
    """[1 or B, K, P, E] and [B, K, L, E] to [B, K, P + L, E]."""
    if past.shape[0] != new.shape[0]:
        past = mx.broadcast_to(past, (new.shape[0], *past.shape[1:]))
    return mx.concatenate([past, new], axis=2)
