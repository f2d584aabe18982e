"""A request that is ready for the model, and its answers while they are written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afm_mlx.errors import AfmError
from afm_mlx.inference.guardrails import FEATURE
from afm_mlx.inference.requests import Chunk, Guide, Sampling
from afm_mlx.inference.server.feed import Feed, Said
from afm_mlx.inference.server.writing import Piece, Writing, refused

if TYPE_CHECKING:
    from afm_mlx.inference.batches import Batcher, Ticket
    from afm_mlx.inference.calls import ToolFormat
    from afm_mlx.inference.tools import Tool


@dataclass(frozen=True)
class Job:
    """A request, ready to be answered."""

    adapter: str | None
    prompts: Sequence[Sequence[int]]
    samplings: Sequence[Sampling]
    """Of each prompt's answers."""
    guide: Guide | None = None
    tools: Sequence[Tool] = ()
    form: ToolFormat | None = None
    parallel: bool = True
    refusal: str = ""
    """What to tell the user in place of any answer."""

    @property
    def feature(self) -> str:
        """Whose actions of the policy count: an adapter is a feature of its own."""
        return self.adapter or FEATURE


@dataclass
class Usage:
    """What the answers of a request took."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0


class Answers:
    """The answers of one request, while they are written."""

    def __init__(
        self,
        job: Job,
        batcher: Batcher,
        feed: Feed,
        writing: Callable[[], Writing],
        checked: Callable[[Writing, Sequence[Chunk]], Awaitable[Piece]],
    ) -> None:
        """Hand them to the model. Any thread may do so.

        Args:
            job: what is asked.
            batcher: of the model.
            feed: of the coroutine that takes `pieces`.
            writing: makes one answer's.
            checked: lets it take chunks.

        Raises:
            AfmError: they cannot be answered, or not now.
        """
        self.num = len(job.prompts) * len(job.samplings)
        """How many there are."""
        self._job, self._feed, self._checked = job, feed, checked
        self._tickets: list[Ticket] = []
        self._writings: list[Writing] = []
        if job.refusal:
            return
        pairs = [(ids, sampling) for ids in job.prompts for sampling in job.samplings]
        try:
            for number, (ids, sampling) in enumerate(pairs):
                ticket = batcher.submit(
                    ids,
                    sampling,
                    adapter=job.adapter,
                    guide=job.guide,
                    tell=feed.teller(number),
                )
                self._tickets.append(ticket)
                self._writings.append(writing())
        except AfmError:
            self.cancel()
            raise

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """What may be told, with the number of its answer, until all have ended.

        Raises:
            AfmError: an answer failed.
            SlowReader: it was not asked for soon enough.
        """
        if self._job.refusal:
            for number in range(self.num):
                yield number, refused(self._job.refusal)
            return
        while not all(writing.finished for writing in self._writings):
            for number, chunks in _by_answer(await self._feed.take()):
                writing = self._writings[number]
                if writing.finished:
                    continue
                piece = await self._checked(writing, chunks)
                if writing.finished:
                    self._tickets[number].cancel()  # a refusal ends it before the model does
                yield number, piece

    async def overflow(self) -> None:
        """Wait until more of them has been written than waits for a reader."""
        await self._feed.overflow()

    @property
    def usage(self) -> Usage:
        """What they took so far. A prompt with several answers counts once."""
        per_prompt = len(self._job.samplings)
        usage = Usage(prompt_tokens=sum(len(ids) for ids in self._job.prompts))
        for number, ticket in enumerate(self._tickets):
            if number % per_prompt == 0:
                usage.cached_tokens += ticket.stats.cached_tokens
            usage.answer_tokens += ticket.stats.answer_tokens
        return usage

    def cancel(self) -> None:
        """Stop computing, and keep nothing."""
        self._feed.close()
        for ticket in self._tickets:
            ticket.cancel()


def _by_answer(said: Sequence[tuple[int, Said]]) -> list[tuple[int, list[Chunk]]]:
    """Chunks of each answer. Raises the first error among them."""
    found: dict[int, list[Chunk]] = {}
    for number, one in said:
        if isinstance(one, AfmError):
            raise one
        found.setdefault(number, []).append(one)
    return list(found.items())
