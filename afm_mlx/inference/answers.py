"""An answer in the making: from tokens to text, and what ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afm_mlx.errors import DataError
from afm_mlx.inference.choices import Draw, Processor, Watch, sampler, told
from afm_mlx.inference.requests import Chunk, Finish, Guide, Sampling

if TYPE_CHECKING:
    import mlx.core as mx

    from afm_mlx.text.tokenizer import Tokenizer

MAX_CHARACTER_TOKENS = 4
"""Most tokens of one character: UTF-8 has up to four bytes."""


class Answer:
    """One answer: hands mlx-lm what chooses its tokens, and makes chunks of those that come."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        context_tokens: int,
        guide: Guide | None = None,
    ) -> None:
        """Begin an answer to `ids`; no array is made yet.

        Raises:
            DataError: a limit is out of its range, or the prompt leaves no room for an answer.
        """
        check_sampling(sampling)
        room = context_tokens - len(ids)
        if not ids:
            raise DataError("the prompt is empty", hint="say something")
        if not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
            wrong = next(number for number in ids if not 0 <= number < tokenizer.vocab_size)
            raise DataError(
                f"the prompt has token {wrong:,}, and the tokenizer {tokenizer.vocab_size:,} pieces"
            )
        if room < 1:
            raise DataError(
                f"the prompt has {len(ids):,} tokens, and the model's context of "
                f"{context_tokens:,} must hold it and an answer",
                hint=f"shorten the prompt by {1 - room:,} tokens or more",
            )
        self.limit = min(sampling.max_tokens, room)
        """Most tokens of this answer."""
        self.sampler = sampler(sampling)
        """For mlx-lm."""
        self._at_limit: Finish = "length" if sampling.max_tokens <= room else "context"
        self._ends = frozenset(tokenizer.eos_ids)
        self._text = AnswerText(tokenizer, ids, sampling.stop)
        self._told = sampling.top_logprobs
        self._number = 0
        self._watch: Watch | None = None
        if guide is not None or self._told is not None:
            self._watch = Watch(guide, self._ends, limit=self.limit, keeps=self._told is not None)

    @property
    def processors(self) -> list[Processor]:
        """For mlx-lm."""
        return [self._watch] if self._watch else []

    @property
    def places(self) -> list[Processor]:
        """For mlx-lm's speculative decoding: in place of `processors`, and of no use to a guide."""
        return [self.sampler.placed] if isinstance(self.sampler, Draw) else []

    def take(self, token: int, logps: mx.array | None = None) -> Chunk:
        """The chunk of the next token.

        Args:
            token: as mlx-lm gave it.
            logps: [V] of it, where `processors` were not in use.

        Raises:
            AfmError: the guide failed.
        """
        if self._watch is not None and self._watch.failure is not None:
            raise self._watch.failure
        self._number += 1
        finished: Finish | None = self._at_limit if self._number == self.limit else None
        if token in self._ends:
            finished = "stop"
        else:
            self._text.add(token)
        piece, stopped = self._text.take(everything=finished is not None)
        finished = "stop" if stopped else finished
        if self._told is None:
            return Chunk(piece, token, finished)
        if logps is None:
            assert self._watch is not None
            logps = self._watch.logps.popleft()
        return Chunk(piece, token, finished, *told(logps, token, self._told))


def check_sampling(sampling: Sampling) -> None:
    """Look at the numbers of a request.

    Raises:
        DataError: one is out of its range.
    """
    top = sampling.top_logprobs
    for name, value, right, range_ in (
        ("max_tokens", sampling.max_tokens, sampling.max_tokens > 0, "above 0"),
        ("temperature", sampling.temperature, 0 <= sampling.temperature < 1e6, "0 or more"),
        ("top_p", sampling.top_p, 0 < sampling.top_p <= 1, "above 0, to 1"),
        ("top_logprobs", top, top is None or top >= 0, "0 or more"),
    ):
        if not right:
            raise DataError(f"{name} is {value}, and must be {range_}")


class AnswerText:
    """Text of an answer, taken in pieces that never end inside a character or a stop text."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        # New tokens are decoded together with those before them, and the difference is the new
        # text: alone, the first word would lose its space. These begin and end with a character.
        self._before: list[int] = []
        for length in range(1, min(len(prompt), MAX_CHARACTER_TOKENS) + 1):
            if "\ufffd" not in tokenizer.decode(prompt[-length:]):
                self._before = list(prompt[-length:])
                break
        self._new: list[int] = []
        self._held = ""  # decoded, and may be the beginning of a stop text

    def add(self, token: int) -> None:
        """One more token."""
        if token < self._tokenizer.vocab_size:  # a model may have rows to spare
            self._new.append(token)

    def take(self, *, everything: bool) -> tuple[str, bool]:
        """Text that is complete since the last call, and whether a stop text ends it."""
        decode = self._tokenizer.decode
        known, decoded = decode(self._before), decode(self._before + self._new)
        whole = not decoded.endswith("\ufffd")  # else bytes of the last character are missing
        if len(decoded) > len(known) and (whole or everything):
            self._held += decoded[len(known) :]
            self._before, self._new = self._new, []
        ends = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if ends:
            return self._held[: min(ends)], True
        cut = len(self._held) - (0 if everything else overlap(self._held, self._stop))
        piece, self._held = self._held[:cut], self._held[cut:]
        return piece, False


def overlap(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of `stops`."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
