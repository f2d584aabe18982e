"""What is asked of a model and what comes back: the words that engine, batcher and server share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Message = Mapping[str, Any]
"""A turn in the form of OpenAI's API: `role`, `content`; `tool_calls` of an assistant."""

Finish = Literal["stop", "length", "context"]
"""Why an answer ended: a stop token or text, `max_tokens`, or the end of the model's context."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn, and what ends it."""

    max_tokens: int
    """Longest answer in tokens, above 0."""
    temperature: float = 0.0
    """0 takes the likeliest token; else log-probabilities are divided by it."""
    top_p: float = 1.0
    """Above 0, to 1: choose among the fewest tokens that have this probability together, before
    the temperature is applied (mlx-lm's order)."""
    seed: int = 0
    """Decides the choices: the same seed, prompt and model give the same answer."""
    stop: tuple[str, ...] = ()
    """Texts at which the answer ends; they are not part of it."""
    top_logprobs: int | None = None
    """Likeliest tokens to tell beside each chosen one; 0 for the chosen one's log-probability
    alone, None for no log-probabilities."""


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: one token, and the text that it completed."""

    text: str
    """May be empty: characters and stop texts can span tokens."""
    token: int
    """Id of the token, the stop token included."""
    finished: Finish | None
    """None until the last chunk."""
    logprob: float | None = None
    """Of the token, in nats: the model's own, before temperature and guide. None: not asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """Ids and log-probabilities of the likeliest tokens, likeliest first, as many as asked for."""


@dataclass
class Stats:
    """What an answer cost."""

    prompt_tokens: int = 0
    """Tokens of the prompt, chat template included."""
    cached_tokens: int = 0
    """Of these, tokens that an earlier request had left in the prompt cache."""
    answer_tokens: int = 0
    """Tokens of the answer, the stop token included."""
    waited_seconds: float = 0.0
    """Seconds before the prompt began to be read; only requests that share a model wait."""
    first_seconds: float = 0.0
    """Seconds from then until the first token."""
    answer_seconds: float = 0.0
    """Seconds from the first token to the last."""
    peak_gb: float = 0.0
    """Highest memory in use by MLX during the answer, in 10^9 bytes, weights included."""
    drafted_tokens: int = 0
    """Of the answer's tokens, those that a draft model had guessed."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens written per second, after the first; 0 where there is no second one."""
        if self.answer_tokens < 2:
            return 0.0
        return (self.answer_tokens - 1) / max(self.answer_seconds, 1e-9)

    def __str__(self) -> str:
        cached = f" ({self.cached_tokens:,} cached)" if self.cached_tokens else ""
        speed = f" at {self.tokens_per_second:.1f} tokens/s" if self.answer_tokens > 1 else ""
        drafted = f" ({self.drafted_tokens:,} drafted)" if self.drafted_tokens else ""
        return (
            f"{self.prompt_tokens:,} prompt tokens{cached}, "
            f"{self.answer_tokens:,} tokens{drafted}{speed}, "
            f"first after {self.first_seconds:.1f} s, peak {self.peak_gb:.1f} GB"
        )


class Guide(Protocol):
    """A form that answers must have, such as a JSON Schema; compiled once, shared by answers."""

    def start(self, max_tokens: int | None = None) -> GuideState:
        """The state of an answer that has no token yet.

        Args:
            max_tokens: tokens that the answer may have, the stop token included. A guide can see
                to it that the answer ends before; None for no limit.

        Raises:
            DataError: no answer of this form is that short.
        """


class GuideState(Protocol):
    """Where one guided answer is."""

    @property
    def finished(self) -> bool:
        """Whether nothing but a stop token may follow."""

    def allowed(self) -> NDArray[np.uint32]:
        """Tokens that may come next: bits [ceil(V / 32)], bit i % 32 of word i // 32 for token i.

        Stop tokens are among them where the answer may end.
        """

    def accept(self, token: int) -> None:
        """Go on with a token that was allowed, stop tokens excepted: they are not told."""
