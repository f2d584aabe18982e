"""The answers in the making: prompts are read piece by piece between the tokens of all answers.

Built on mlx-lm's batch generator, which writes the tokens. Prompts are read here, one at a time: so
what was read can be kept for later prompts while its answer is still being written, and a prompt is
read in the same pieces whatever is beside it.

What is reproducible. A draw depends on its seed and its place in the answer, and on nothing beside
it. Logits do depend on the size of the batch, in their last digits, since matrix products of other
sizes add in another order. So an answer in a batch is the one it would be alone, but for the rare
choice that falls between two such roundings.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from afm_mlx.errors import AfmError, RunError
from afm_mlx.inference.answers import Answer
from afm_mlx.inference.memory import Budget
from afm_mlx.inference.passes import Passes
from afm_mlx.inference.requests import Chunk, Stats

if TYPE_CHECKING:
    from afm_mlx.inference.engine import Engine

Tell = Callable[[Chunk | AfmError], None]
"""Gets the chunks of an answer, or the error that ended it."""


@dataclass(eq=False)
class Request:
    """An answer that is wanted, and how far it is."""

    ids: Sequence[int]
    """Of the prompt."""
    answer: Answer
    adapter: str | None
    tell: Tell
    stats: Stats
    came: float = field(default_factory=time.perf_counter)
    """When it was submitted; a time of `perf_counter`, as are the others."""
    over: bool = False
    """Whether nobody waits for more of it: it ended, failed, or was cancelled."""
    passed: int = 0
    """Later requests that began before this one."""
    number: int = 0
    """Which of all that have begun it is."""
    num_read: int = 0
    """Tokens of the prompt that have been read."""
    began: float = 0.0
    first: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Tokens of the prompt, and most tokens of the answer."""
        return len(self.ids), self.answer.limit

    def give(self, said: Chunk | AfmError) -> None:
        """Tell what came, unless nobody waits for it. An error, and a last chunk, end the request.

        Whatever goes wrong in `tell` ends it, too: the thread that calls it serves others.
        """
        if self.over:
            return
        if isinstance(said, AfmError) or said.finished:
            self.over = True
        try:
            self.tell(said)
        except Exception:
            self.over = True
            raise


class Batch:
    """Requests that have begun. One thread makes it and calls it."""

    def __init__(
        self,
        engine: Engine,
        budget: Callable[[], Budget],
        *,
        max_together: int,
        report: Callable[[Exception], None],
    ) -> None:
        """An empty one. `report` gets errors of our own and of `tell`, which nobody else sees."""
        self.passes = Passes(engine, max_together=max_together)
        self._budget, self._report = budget, report
        self._max_together, self._alone = max_together, engine.ranks.size == 1
        self._numbers = itertools.count()
        self._reading: list[Request] = []
        self._writing: dict[int, Request] = {}

    def __len__(self) -> int:
        return len(self._reading) + len(self._writing)

    @property
    def requests(self) -> list[Request]:
        """All that have begun and are not over."""
        return [*self._reading, *self._writing.values()]

    def fits(self, request: Request) -> bool:
        """Whether a request can begin now, earlier prompts dropped if need be."""
        return len(self) < self._max_together and self._room([request]) >= 0

    def add(self, request: Request) -> None:
        """Begin a request that fits."""
        import mlx.core as mx

        if not len(self):
            mx.reset_peak_memory()
        request.began = time.perf_counter()
        request.stats.waited_seconds = request.began - request.came
        request.number, room = next(self._numbers), self._room([request])
        known = self.passes.begin(request.number, request.adapter, request.ids, room)
        request.num_read = request.stats.cached_tokens = known
        self._reading.append(request)

    def read(self, tokens: int) -> None:
        """Read up to this many tokens of prompts, in the order in which they came."""
        while self._reading and tokens > 0:
            request = self._reading[0]
            end = min(request.num_read + tokens, len(request.ids) - 1)
            tokens -= end - request.num_read
            try:
                if end > request.num_read:
                    self.passes.read(request.number, end)
                    request.num_read = end
                if end == len(request.ids) - 1:
                    self._begin_writing(self._reading.pop(0))
            except Exception as error:
                if not self._alone:  # the other ranks are in the middle of it
                    raise
                self._reading = [other for other in self._reading if other is not request]
                self.passes.drop(request.number)
                self._fail([request], error)

    def write(self) -> None:
        """One more token of every answer whose prompt has been read."""
        for adapter in dict.fromkeys(request.adapter for request in self._writing.values()):
            for number, response in self.passes.write(adapter).items():
                request = self._writing[number]
                if not request.over:
                    self._take(request, response)
        self.drop()

    def drop(self) -> None:
        """Let go of requests that are over."""
        over = [request for request in self.requests if request.over]
        self._reading = [request for request in self._reading if request not in over]
        for request in over:
            self._writing.pop(request.number, None)
            self.passes.drop(request.number)

    def refuse(self, request: Request) -> None:
        """End a request that does not fit even alone."""
        budget = self._budget()
        try:
            budget.check(*request.size)
        except AfmError as error:
            self._give(request, error)

    def fail(self, error: Exception, more: Sequence[Request] = ()) -> None:
        """End every request, and `more`, with an error, and start from an empty batch."""
        requests = [*self.requests, *more]
        self._reading.clear()
        self._writing.clear()
        self.passes.close()
        self._fail(requests, error)

    def _begin_writing(self, request: Request) -> None:
        self.passes.join(request.number, self._room([request]), request.answer)
        self._writing[request.number] = request

    def _take(self, request: Request, response: Any) -> None:
        """One more token of one answer."""
        self._count(request)
        try:
            chunk = request.answer.take(int(response.token))
        except AfmError as error:
            self._give(request, error)
            return
        if chunk.finished:
            self._keep(request, response)
        self._give(request, chunk)

    def _keep(self, request: Request, response: Any) -> None:
        """Keep what was read and written for later prompts, if there is room."""
        others = [other for other in self.requests if other is not request]
        room = self._room(others, begun=False)
        if response.prompt_cache is None:  # a stop text ended it, unknown to the generator
            self.passes.keep(request.number, room)
        else:
            written = response.all_tokens[len(request.ids) :]
            self.passes.keep(request.number, room, written, response.prompt_cache)

    def _room(self, more: Sequence[Request], *, begun: bool = True) -> int:
        """Bytes left for earlier prompts beside these requests and, unless told, those begun."""
        requests = {*more, *(self.requests if begun else ())}
        budget = self._budget()
        return budget.free - budget.together([request.size for request in requests])

    def _count(self, request: Request) -> None:
        import mlx.core as mx

        now = time.perf_counter()
        stats = request.stats
        stats.answer_tokens += 1
        if stats.answer_tokens == 1:
            request.first = now
            stats.first_seconds = now - request.began
        stats.answer_seconds = now - request.first
        stats.peak_gb = mx.get_peak_memory() / 1e9

    def _give(self, request: Request, said: Chunk | AfmError) -> None:
        try:
            request.give(said)
        except Exception as error:
            self._report(error)

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        """Tell requests that they failed. An error that is no user's is ours, and reported."""
        if not isinstance(error, AfmError):
            self._report(error)
            error = RunError(f"the answer failed: {type(error).__name__}: {error}")
        for request in requests:
            self._give(request, error)
