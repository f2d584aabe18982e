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

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import AfmError, RunError
from afm_mlx.inference.answers import Answer
from afm_mlx.inference.memory import Budget
from afm_mlx.inference.prompt_cache import Caches, PromptCache
from afm_mlx.inference.requests import Chunk, Stats
from afm_mlx.inference.steps import new_caches

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
    num_read: int = 0
    """Tokens of the prompt that `caches` hold."""
    caches: Caches = field(default_factory=list)
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
        self.prompts = PromptCache()
        self._engine, self._budget = engine, budget
        self._max_together, self._report = max_together, report
        self._reading: list[Request] = []
        # One generator for each adapter, with its own numbers for its answers. They take turns: it
        # takes 0.3 to 3 ms to exchange adapters, and all answers go on together.
        self._generators: dict[str | None, Any] = {}
        self._writing: dict[tuple[str | None, int], Request] = {}

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
        room = self._room([request])
        request.caches, known = self.prompts.take(request.adapter, request.ids, room=room)
        request.caches = request.caches or new_caches(self._engine.model)
        request.num_read = request.stats.cached_tokens = known
        self._reading.append(request)

    def read(self, tokens: int) -> None:
        """Read up to this many tokens of prompts, in the order in which they came."""
        import mlx.core as mx

        while self._reading and tokens > 0:
            request = self._reading[0]
            end = min(request.num_read + tokens, len(request.ids) - 1)
            tokens -= end - request.num_read
            try:
                generator = self._generator(request.adapter)
                self._engine.use_adapter(request.adapter)
                if end > request.num_read:
                    with mx.stream(generator.stream):
                        part = mx.array([request.ids[request.num_read : end]])
                        self._engine.model(part, cache=request.caches)
                        mx.eval([cache.state for cache in request.caches])
                    request.num_read = end
                if end == len(request.ids) - 1:
                    self._begin_writing(generator, self._reading.pop(0))
            except Exception as error:
                self._reading = [other for other in self._reading if other is not request]
                self._fail([request], error)

    def write(self) -> None:
        """One more token of every answer whose prompt has been read."""
        for adapter in dict.fromkeys(adapter for adapter, _ in self._writing):
            self._engine.use_adapter(adapter)
            for response in self._generator(adapter).next()[1]:
                request = self._writing[adapter, response.uid]
                if not request.over:
                    self._take(request, response)
        self.drop()

    def drop(self) -> None:
        """Let go of requests that are over."""
        self._reading = [request for request in self._reading if not request.over]
        for (adapter, number), request in list(self._writing.items()):
            if request.over:
                self._generator(adapter).remove([number])
                del self._writing[adapter, number]

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
        self.close()
        self._fail(requests, error)

    def close(self) -> None:
        """Put back what mlx-lm had set, last things first."""
        while self._generators:
            self._generators.popitem()[1].close()

    def _generator(self, adapter: str | None) -> Any:
        if adapter not in self._generators:
            self._generators[adapter] = import_mlx_lm("mlx_lm.generate").BatchGenerator(
                self._engine.model,
                stop_tokens=[[number] for number in self._engine.tokenizer.eos_ids],
                completion_batch_size=self._max_together,
                prefill_batch_size=self._max_together,
            )
        return self._generators[adapter]

    def _begin_writing(self, generator: Any, request: Request) -> None:
        *before, last = request.ids
        self.prompts.put(request.adapter, before, request.caches, room=self._room([request]))
        [number] = generator.insert(
            [[last]],
            max_tokens=[request.answer.limit],
            caches=[request.caches],
            all_tokens=[before],
            samplers=[request.answer.sampler],
            logits_processors=[request.answer.processors],
        )
        request.caches = []  # the generator makes its own from them
        self._writing[request.adapter, number] = request

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
        caches, tokens = response.prompt_cache, response.all_tokens
        if caches is None:  # a stop text ended it, of which the generator knows nothing
            found = self._generator(request.adapter).extract_cache([response.uid])
            caches, tokens = found[response.uid]
        others = [other for other in self.requests if other is not request]
        room = self._room(others, begun=False)
        self.prompts.put(request.adapter, tokens, caches, room=room)

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
