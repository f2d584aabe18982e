"""Many answers at once, for a server: one thread owns the model, requests come from any thread."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from afm_mlx.compat import ModelThread
from afm_mlx.errors import BusyError, RunError
from afm_mlx.inference.answers import Answer
from afm_mlx.inference.batch import Batch, Request, Tell
from afm_mlx.inference.memory import FREED_SHARE, Budget
from afm_mlx.inference.passes import REST_SECONDS, gather
from afm_mlx.inference.requests import Guide, Sampling, Stats

if TYPE_CHECKING:
    from afm_mlx.inference.engine import Engine

TOGETHER = 8
"""Answers that are written at once, unless told. Ours."""

WAITING = 64
"""Requests that may wait beside those, unless told. Ours."""

READ_TOKENS = 512
"""Tokens of prompts that are read between two tokens of the answers. Ours: fewer make reading
slower, more make the answers stutter."""

AWAKE_SECONDS = 1.0
"""With nothing to do, after which other ranks may rest. Ours: a client's next request is sooner."""

LATE_SECONDS = 0.01
"""By which rank 0 rests longer than they, who are awake then. Ours: whoever is early is busy."""

PASSES = 8
"""Later requests that may begin before one which must wait for memory. Ours."""


@dataclass(frozen=True)
class Ticket:
    """What `submit` gives for a request."""

    stats: Stats
    """Kept up to date while the answer is written."""
    _request: Request
    _batcher: Batcher

    def cancel(self) -> None:
        """Want no more of it: nothing is told from now on, and its place is free soon."""
        self._batcher._cancel(self._request)


@dataclass(frozen=True)
class Load:
    """What a batcher is doing."""

    waiting: int
    """Requests that have not begun."""
    answering: int
    """Requests that have."""
    memory_bytes: int
    """Memory in use by MLX."""
    budget_bytes: int
    """Memory that may be."""


class Batcher:
    """Answers requests together, as many as fit, and others when their turn comes.

    Requests begin in the order in which they came. One that must wait for memory is passed by
    smaller ones, at most `PASSES` times: then all wait until it begins. Answers of one adapter are
    one batch, and the batches take turns token by token.

    Nothing else may use the engine meanwhile, but for its tokenizer and `prompt_ids`. Keys and
    values are exact: mlx-lm has no batches of rounded ones.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        memory_gb: float | None = None,
        max_waiting: int = WAITING,
        max_together: int = TOGETHER,
    ) -> None:
        """Start the thread that owns the model.

        Args:
            engine: with its adapters.
            memory_gb: memory budget in 10^9 bytes, weights included; None for the engine's.
            max_waiting: requests that may wait beside those that are answered.
            max_together: requests that are answered at once.

        Raises:
            FitError: the model and one answer do not fit the budget.
        """
        self.engine = engine
        self.max_waiting, self.max_together = max_waiting, max_together
        self._total = engine.budget_bytes if memory_gb is None else int(memory_gb * 1e9)
        self._freed = int(self._total * FREED_SHARE)
        self.budget.check_model()
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._answering = 0
        self._closing = False
        self.failure: Exception | None = None
        """What ended the thread, where other ranks compute with it; None: nothing did."""
        gather(engine, max_together=max_together)
        self._thread = ModelThread(self._run)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether requests are still answered: False once it is closed."""
        return self._thread.is_alive and not self._closing

    @property
    def budget(self) -> Budget:
        """The memory budget, with the adapters that are loaded now."""
        return Budget.of(
            [self.engine.sizes],
            total=self._total,
            held=self.engine.adapters.bytes + self._freed,
            read_tokens=READ_TOKENS,
            together=self.max_together,
        )

    @property
    def load(self) -> Load:
        """What is going on now."""
        import mlx.core as mx

        with self._changed:
            waiting, answering = len(self._waiting), self._answering
        return Load(waiting, answering, mx.get_active_memory(), self._total)

    def submit(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: str | None = None,
        guide: Guide | None = None,
        tell: Tell,
    ) -> Ticket:
        """Want an answer. Returns at once; may be called from any thread.

        Args:
            ids: the prompt, as `Engine.prompt_ids` makes it.
            sampling: how it is drawn, and what ends it.
            adapter: who answers; None for the model as it is.
            guide: a form that the answer must have.
            tell: called from the model's thread with every chunk, of which the last has `finished`,
                or once with an error in place of what is missing. It should return soon.

        Raises:
            DataError: the prompt does not leave room for an answer in the model's context, or a
                number is out of its range.
            ModelError: no adapter of this name is loaded.
            FitError: the request would not fit the memory budget even alone.
            BusyError: too many requests wait already.
            RunError: the batcher is closed.
        """
        context = self.engine.context_tokens
        answer = Answer(self.engine.tokenizer, ids, sampling, context_tokens=context, guide=guide)
        self.engine.adapters.check(adapter)
        self.budget.check(len(ids), answer.limit)
        request = Request(list(ids), answer, adapter, tell, Stats(prompt_tokens=len(ids)))
        with self._changed:
            if self._closing:
                raise _closed()
            num_here = len(self._waiting) + self._answering
            if num_here >= self.max_together + self.max_waiting:
                raise BusyError(
                    f"{num_here:,} requests are being answered or wait already",
                    hint="try again later",
                )
            self._waiting.append(request)
            self._changed.notify()
        return Ticket(request.stats, request, self)

    def close(self) -> None:
        """End all requests with an error, and the thread with them."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _cancel(self, request: Request) -> None:
        with self._changed:
            request.over = True
            self._changed.notify()

    def _run(self) -> None:
        """The model's thread, until `close`."""
        import mlx.core as mx

        batch = Batch(
            self.engine,
            lambda: self.budget,
            max_together=self.max_together,
            report=lambda error: traceback.print_exception(error),
        )
        freed = mx.set_cache_limit(self._freed)
        try:
            while self._wait(batch):
                try:
                    self._turn(batch)
                except Exception as error:
                    batch.fail(error)
                    if self.engine.lead.leads:  # who knows where the others are
                        self.failure, self._closing = error, True
            if self.failure is None:
                self.engine.dismiss()
        finally:
            with self._changed:
                left = list(self._waiting)
                self._waiting.clear()
            batch.fail(_closed(), left)
            mx.set_cache_limit(freed)

    def _wait(self, batch: Batch) -> bool:
        """Sleep until there is something to do; False where it is to end."""
        import mlx.core as mx

        with self._changed:
            self._answering = len(batch)
            if not (len(batch) or self._waiting or self._closing):
                mx.clear_cache()
                longest = AWAKE_SECONDS if self.engine.lead.leads else None
                while not self._changed.wait_for(lambda: self._waiting or self._closing, longest):
                    batch.passes.rest()
                    longest = REST_SECONDS + LATE_SECONDS
            return not self._closing

    def _turn(self, batch: Batch) -> None:
        """One more token of every answer, and some reading between."""
        batch.drop()
        while (request := self._next(batch)) is not None:
            batch.add(request)
        batch.read(READ_TOKENS)
        batch.write()

    def _next(self, batch: Batch) -> Request | None:
        """Take the next request that can begin from those that wait."""
        with self._changed:
            self._waiting = deque(request for request in self._waiting if not request.over)
            self._answering = len(batch)
            for place, request in enumerate(self._waiting):
                if batch.fits(request):
                    for earlier in range(place):
                        self._waiting[earlier].passed += 1
                    del self._waiting[place]
                    self._answering += 1
                    return request
                if request.passed >= PASSES:
                    return None
            # Adapters that were loaded since it was submitted have taken its room.
            never = self._waiting.popleft() if self._waiting and not len(batch) else None
        if never is not None:
            batch.refuse(never)
        return None


def _closed() -> RunError:
    return RunError("the model is shut down")
