"""How likely a model finds continuations and texts, for many of them at once.

What contexts begin with in common, such as examples, is read once; then what is left of each, in
batches of about equal length; then the options on top of their context. An option of one token
takes no reading at all: the context's last state has it.

Where a continuation begins among the tokens, and how windows are laid over a long text, is as in
lm-evaluation-harness 0.4.13 (`TemplateLM._encode_pair`, `get_rolling_token_windows`). Ours: what is
longer than the context is refused, not cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx.evaluation.items import Choice, Likelihood, Option, Passage, Refusal
from afm_mlx.evaluation.reading import Past, Reader, Scored
from afm_mlx.evaluation.subject import TOO_LONG
from afm_mlx.inference.prompts import plain_ids
from afm_mlx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from afm_mlx.inference.engine import Engine

WINDOW = 256
"""Items that are put in order together: what an interrupted run has to read again at most. Ours."""

LEAST_SHARED = 32
"""Tokens that contexts begin with in common, for which they are read apart from others. Ours."""

EMPTY = "an option that adds no token"
"""Reason of a refusal."""


Ids = tuple[int, ...]


@dataclass(frozen=True)
class _Ask:
    """A context, and those options of one choice that go on from it."""

    choice: int
    options: tuple[int, ...]
    context: Ids
    """At least one token."""
    continuations: tuple[Ids, ...]
    """At least one token each."""


@dataclass(frozen=True)
class _Run:
    """Asks whose contexts begin with the same `shared` tokens, and are longer."""

    asks: list[_Ask]
    shared: int

    def left(self, ask: _Ask) -> int:
        """Tokens of a context behind the shared ones."""
        return len(ask.context) - self.shared


def likelihoods_of_choices(
    engine: Engine, choices: Sequence[Choice]
) -> Iterator[tuple[int, list[Likelihood] | Refusal]]:
    """How likely each option is, with the place of its choice; in any order."""
    with Reader(engine) as reader:
        known = _Known(reader)
        for start in range(0, len(choices), WINDOW):
            asks: list[_Ask] = []
            for place, choice in enumerate(choices[start : start + WINDOW], start):
                some = _asks(engine, place, choice)
                if isinstance(some, Refusal):
                    yield place, some
                else:
                    asks += some
            yield from _read_asks(reader, known, asks)


def likelihoods_of_passages(
    engine: Engine, passages: Sequence[Passage]
) -> Iterator[tuple[int, Likelihood | Refusal]]:
    """How likely each text is from its first token on, with its place; in any order.

    The first token follows what the tokenizer's files begin a text with, or the end of another
    text. A longer text than the context is read in windows: each token is predicted once, and the
    last window begins as early as it can.
    """
    begin, is_written = _beginning(engine.tokenizer)
    with Reader(engine) as reader:
        for start in range(0, len(passages), WINDOW):
            windows: list[_Window] = []
            for place, passage in enumerate(passages[start : start + WINDOW], start):
                ids = _encoded(engine.tokenizer, passage.text)[int(is_written) :]
                if ids:
                    windows += _windows(place, ids, begin, engine.context_tokens)
                else:
                    yield place, Likelihood(0.0, 0, True)
            yield from _read_passages(reader, windows)


def token_pair(tokenizer: Tokenizer, option: Option) -> tuple[Ids, Ids]:
    """Tokens of a context, at least one, and of its continuation.

    Spaces at the context's end go to the continuation, where they belong to a word. An empty
    context is the beginning of a text, or the end of another one.
    """
    context = option.context.rstrip()
    whole = _encoded(tokenizer, option.context + option.continuation)
    before = _encoded(tokenizer, context)
    if not before:
        return (_beginning(tokenizer).token,), whole
    return before, whole[len(before) :]


class _Known:
    """What was read last of the beginnings of contexts: the next one may begin alike."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.past = reader, Past()
        self.ids: Ids = ()

    def past_of(self, ids: Ids) -> Past:
        if not ids:
            return Past()
        same = _common(self.ids, ids)
        self.past = self.reader.read_on(ids[same:], self.past.first(same))
        self.ids = ids
        return self.past


def _asks(engine: Engine, place: int, choice: Choice) -> list[_Ask] | Refusal:
    """What is to be read of a choice, or why it cannot be."""
    by_context: dict[Ids, list[tuple[int, Ids]]] = {}
    for number, option in enumerate(choice.options):
        context, continuation = token_pair(engine.tokenizer, option)
        if not continuation:
            return Refusal(EMPTY)
        if len(context) + len(continuation) - 1 > engine.context_tokens:  # the last one is not read
            return Refusal(TOO_LONG)
        by_context.setdefault(context, []).append((number, continuation))
    return [
        _Ask(place, tuple(n for n, _ in some), context, tuple(ids for _, ids in some))
        for context, some in by_context.items()
    ]


def _runs(asks: Sequence[_Ask]) -> list[_Run]:
    """Asks in groups whose contexts begin alike; those like no other are in one group."""
    ordered = sorted(asks, key=lambda ask: ask.context)  # alike contexts stand together
    alone: list[_Ask] = []
    runs: list[_Run] = []
    run: list[_Ask] = []
    shared = 0

    def close() -> None:
        if len(run) > 1:
            runs.append(_Run(run, shared))
        else:
            alone.extend(run)

    for before, ask in pairwise([None, *ordered]):
        assert ask is not None
        # One token of each context is left: its state has the first token of the options.
        length = len(ask.context) - 1
        same = 0 if before is None else min(_common(before.context, ask.context), length)
        shorter = min(shared, same)
        # What is saved, shared tokens for each context but one, must not become less.
        if same < LEAST_SHARED or len(run) * shorter < (len(run) - 1) * shared:
            close()
            run, shared = [ask], length
        else:
            run.append(ask)
            shared = shorter
    close()
    return [_Run(alone, 0), *runs] if alone else runs


def _read_asks(
    reader: Reader, known: _Known, asks: Sequence[_Ask]
) -> Iterator[tuple[int, list[Likelihood]]]:
    """How likely the options of choices are, as soon as all of one choice are read."""
    found: dict[int, dict[int, Likelihood]] = {ask.choice: {} for ask in asks}
    left = Counter(ask.choice for ask in asks)
    for run in _runs(asks):
        past = known.past_of(run.asks[0].context[: run.shared])
        for batch in reader.batches(run.asks, run.left, past.tokens):
            for ask, likelihoods in zip(batch, _read(reader, batch, past), strict=True):
                options = found[ask.choice]
                options.update(zip(ask.options, likelihoods, strict=True))
                left[ask.choice] -= 1
                if left[ask.choice] == 0:
                    yield ask.choice, [options[place] for place in sorted(options)]


def _read(reader: Reader, batch: Sequence[_Ask], past: Past) -> list[list[Likelihood]]:
    """How likely the options of each ask are, whose contexts all begin with the past."""
    [first, *others] = batch
    if not others and not reader.fits(1, len(first.context) - past.tokens, past.tokens):
        past = reader.read_on(first.context[past.tokens : -1], past)
    rows = [ask.context[past.tokens :] for ask in batch]
    states, contexts = reader.read(rows, past)
    lasts = states[mx.arange(len(rows)), mx.array([len(row) - 1 for row in rows])]
    longer = [
        _Rest(number, option, ids)
        for number, ask in enumerate(batch)
        for option, ids in enumerate(ask.continuations)
        if len(ids) > 1
    ]
    mx.eval(lasts, contexts.layers if longer else ())
    firsts = [[ids[0] for ids in ask.continuations] for ask in batch]
    found = [[[one] for one in row] for row in reader.token_logps(lasts, firsts)]
    lengths = np.array([len(row) for row in rows])
    for some in reader.batches(longer, lambda rest: len(rest.ids) - 1, past.tokens + max(lengths)):
        for rest, scored in zip(
            some, _read_rests(reader, some, past, contexts, lengths), strict=True
        ):
            found[rest.row][rest.option] += scored
    return [[_likelihood(scored) for scored in row] for row in found]


@dataclass(frozen=True)
class _Rest:
    """An option of more than one token, on top of the context in a row of a batch."""

    row: int
    option: int
    ids: Ids
    """All of its tokens."""


def _read_rests(
    reader: Reader, rests: Sequence[_Rest], past: Past, contexts: Past, lengths: NDArray[np.int64]
) -> list[list[Scored]]:
    """How likely the tokens of options are, the first one of each left out.

    Args:
        reader: reads.
        rests: the options.
        past: what all contexts begin with.
        contexts: the rest of each context, padded on the right.
        lengths: [B], of these rests without padding.
    """
    owners = np.array([rest.row for rest in rests])
    targets = [rest.ids[1:] for rest in rests]
    inputs = [rest.ids[:-1] for rest in rests]
    below = past.then(contexts.rows(mx.array(owners)))
    if len(rests) == 1:
        below = below.first(past.tokens + int(lengths[owners[0]]))
        return [reader.along(inputs[0], targets[0], below)]
    width, length = contexts.tokens, max(map(len, inputs))
    at = np.arange(past.tokens + width + length) - past.tokens  # of a key, behind the past
    in_context = at < lengths[owners][:, None, None]  # [B, 1, keys]
    behind = at - width  # place in its option
    in_option = (behind >= 0) & (behind <= np.arange(length)[:, None])  # [L, keys]
    mask = mx.array((in_context | in_option)[:, None])
    offsets = mx.array(past.tokens + lengths[owners])
    states, _ = reader.read(inputs, below, offsets=offsets, mask=mask)
    return reader.scored(states, inputs, targets)


@dataclass(frozen=True)
class _Window:
    """A part of a passage."""

    passage: int
    inputs: Sequence[int]
    """Tokens that are read."""
    targets: Sequence[int]
    """Tokens that the last of them predict."""


def _windows(passage: int, ids: Sequence[int], begin: int, most: int) -> list[_Window]:
    """Windows over a text so that each of its tokens is predicted once; none for no token.

    Args:
        passage: its place.
        ids: the text's tokens.
        begin: the token before the first one.
        most: tokens that are read at once.
    """
    line = [begin, *ids]
    windows = []
    for start in range(0, len(ids), most):
        end = min(start + most, len(ids))  # of the targets, in `ids`
        windows.append(_Window(passage, line[max(0, end - most) : end], ids[start:end]))
    return windows


def _read_passages(reader: Reader, windows: Sequence[_Window]) -> Iterator[tuple[int, Likelihood]]:
    """How likely passages are, as soon as all windows of one are read."""
    found: dict[int, list[Likelihood]] = {window.passage: [] for window in windows}
    left = Counter(window.passage for window in windows)
    for batch in reader.batches(windows, lambda window: len(window.inputs), 0):
        for window, likelihood in zip(batch, _read_windows(reader, batch), strict=True):
            parts = found[window.passage]
            parts.append(likelihood)
            left[window.passage] -= 1
            if left[window.passage] == 0:
                yield window.passage, _sum(parts)


def _read_windows(reader: Reader, windows: Sequence[_Window]) -> list[Likelihood]:
    """How likely the targets of windows are."""
    inputs, targets = [each.inputs for each in windows], [each.targets for each in windows]
    if len(windows) == 1:
        return [_likelihood(reader.along(inputs[0], targets[0], Past()))]
    states, _ = reader.read(inputs, Past())
    return [_likelihood(scored) for scored in reader.scored(states, inputs, targets)]


def _likelihood(scored: Sequence[Scored]) -> Likelihood:
    return Likelihood(
        sum(logp for logp, _ in scored), len(scored), all(likeliest for _, likeliest in scored)
    )


def _sum(parts: Sequence[Likelihood]) -> Likelihood:
    return Likelihood(
        sum(part.nats for part in parts),
        sum(part.tokens for part in parts),
        all(part.greedy for part in parts),
    )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens with which both begin."""
    return next(
        (place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
        min(len(a), len(b)),
    )


@lru_cache(maxsize=4)  # options of one choice mostly have the same context
def _encoded(tokenizer: Tokenizer, text: str) -> Ids:
    """Tokens of a text, begun as the tokenizer's files say; so an empty one may have none."""
    if not text and not _beginning(tokenizer).is_written:
        return ()
    return tuple(plain_ids(tokenizer, [{"content": text}]))


class _Beginning(NamedTuple):
    token: int
    """That stands before a text's first token."""
    is_written: bool
    """Whether the tokenizer's files begin texts with it; else it is the end of another text."""


@lru_cache(maxsize=4)
def _beginning(tokenizer: Tokenizer) -> _Beginning:
    of_none, of_some = (plain_ids(tokenizer, [{"content": text}])[0] for text in ("", "a"))
    return _Beginning(of_none, of_none == of_some)
