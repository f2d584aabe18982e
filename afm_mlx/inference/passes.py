"""What a model computes for answers that are written together, on one rank or on several.

Each rank has a part of the model, so all must make the same passes in the same order. Rank 0
decides what is read, written, kept and dropped, and the others replay its calls: each call that
computes is told, and those before it with it. Each pass reads the tokens that rank 0 has chosen, so
only rank 0 needs to know how an answer is drawn or guided, and when it is over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import import_mlx_lm
from afm_mlx.inference.memory import FREED_SHARE
from afm_mlx.inference.prompt_cache import Caches, PromptCache
from afm_mlx.inference.steps import new_caches

if TYPE_CHECKING:
    from afm_mlx.inference.answers import Answer
    from afm_mlx.inference.engine import Engine

REST_SECONDS = 0.2
"""How long other ranks sleep between two looks for something to do. Ours: who waits for a message
keeps a core busy, and the first answer after a rest begins so much later at most."""

_NO_LIMIT = 2**31
"""Tokens of an answer, for ranks that hear when it is over."""


@dataclass
class _Place:
    """An answer's place in the batch."""

    adapter: str | None
    ids: Sequence[int]
    """Of the prompt."""
    num_read: int
    caches: Caches
    """Until the generator has its own."""
    uid: int | None = None
    """The generator's name for it; None while its prompt is read."""


class Passes:
    """The calls of a `Batch` that change what the model holds. Answers go by numbers of its own."""

    def __init__(self, engine: Engine, *, max_together: int) -> None:
        """Nothing is held yet."""
        self._engine, self._lead = engine, engine.lead
        self._max_together = max_together
        self._prompts = PromptCache()
        # One generator for each adapter, with its own numbers for its answers. They take turns: it
        # takes 0.3 to 3 ms to exchange adapters, and all answers go on together.
        self._generators: dict[str | None, Any] = {}
        self._places: dict[int, _Place] = {}
        self._news: list[tuple[Any, ...]] = []  # calls that the others have not heard of

    def begin(self, number: int, adapter: str | None, ids: Sequence[int], room: int) -> int:
        """Take a place; how many tokens of the prompt were read before, at most all but one.

        Args:
            number: of the answer, given once.
            adapter: who answers.
            ids: of the prompt.
            room: bytes that earlier prompts may take from now on.
        """
        self._note("begin", number, adapter, ids, room)
        caches, known = self._prompts.take(adapter, ids, room=room)
        caches = caches or new_caches(self._engine.model)
        self._places[number] = _Place(adapter, ids, known, caches)
        return known

    def read(self, number: int, end: int) -> None:
        """Read the prompt of an answer, up to this token."""
        import mlx.core as mx

        self._note("read", number, end)
        self._send()
        place = self._places[number]
        generator = self._generator(place.adapter)
        self._engine.use_adapter(place.adapter)
        with mx.stream(generator.stream):
            part = mx.array([place.ids[place.num_read : end]])
            self._engine.model(part, cache=place.caches)
            mx.eval([cache.state for cache in place.caches])
        place.num_read = end

    def join(self, number: int, room: int, answer: Answer | None = None) -> None:
        """Write an answer from now on whose prompt has been read but for its last token.

        Args:
            number: of the answer.
            room: bytes that earlier prompts may take, of which this is one.
            answer: chooses the tokens, on rank 0.
        """
        self._note("join", number, room)
        place = self._places[number]
        generator = self._generator(place.adapter)
        *before, last = place.ids
        self._prompts.put(place.adapter, before, place.caches, room=room)
        [place.uid] = generator.insert(
            [[last]],
            max_tokens=[answer.limit if answer else _NO_LIMIT],
            caches=[place.caches],
            all_tokens=[before],
            samplers=[answer.sampler if answer else None],
            logits_processors=[answer.processors if answer else []],
        )
        place.caches = []  # the generator makes its own from them

    def write(self, adapter: str | None) -> dict[int, Any]:
        """One more token of each of an adapter's answers: mlx-lm's responses by their numbers."""
        self._note("write", adapter)
        self._send()
        self._engine.use_adapter(adapter)
        responses = {each.uid: each for each in self._generator(adapter).next()[1]}
        return {
            number: responses[place.uid]
            for number, place in self._places.items()
            if place.adapter == adapter and place.uid in responses
        }

    def keep(
        self, number: int, room: int, written: Sequence[int] | None = None, caches: Any = None
    ) -> None:
        """Keep what was read and written for later prompts, if there is room.

        Args:
            number: of the answer.
            room: bytes that earlier prompts may take, this one included.
            written: tokens that were; None: those that the generator knows of.
            caches: of all of them; None: the generator's.
        """
        place = self._places[number]
        if caches is None:
            found = self._generator(place.adapter).extract_cache([place.uid])
            caches, ids = found[place.uid]
            written = ids[len(place.ids) :] if written is None else written
        assert written is not None
        self._note("keep", number, room, written)
        self._prompts.put(place.adapter, [*place.ids, *written], caches, room=room)

    def drop(self, number: int) -> None:
        """Let go of an answer."""
        self._note("drop", number)
        place = self._places.pop(number)
        if place.uid is not None:
            self._generator(place.adapter).remove([place.uid])

    def rest(self) -> None:
        """Let the other ranks sleep a little: there is nothing to do."""
        import mlx.core as mx

        self._note("rest")
        self._send()
        if self._lead.follows:
            mx.clear_cache()
            time.sleep(REST_SECONDS)

    def close(self) -> None:
        """Let go of all answers, and put back what mlx-lm had set, last things first."""
        self._places.clear()
        while self._generators:
            self._generators.popitem()[1].close()

    def _generator(self, adapter: str | None) -> Any:
        if adapter not in self._generators:
            ends = [] if self._lead.follows else self._engine.tokenizer.eos_ids
            self._generators[adapter] = import_mlx_lm("mlx_lm.generate").BatchGenerator(
                self._lead.led(self._engine.model),
                stop_tokens=[[number] for number in ends],
                completion_batch_size=self._max_together,
                prefill_batch_size=self._max_together,
            )
        return self._generators[adapter]

    def _note(self, call: str, *arguments: Any) -> None:
        """Remember a call that the others are to make, too."""
        if self._lead.leads:
            self._news.append((call, *arguments))

    def _send(self) -> None:
        if self._lead.leads:
            self._lead.tell(self._news)
            self._news.clear()


def gather(engine: Engine, *, max_together: int) -> None:
    """On rank 0: get the others ready to `follow` its passes. Returns when they are."""
    if engine.lead.leads:
        engine.lead.tell({"adapters": engine.told_adapters, "max_together": max_together})
        engine.lead.meet()


def follow(engine: Engine) -> None:
    """On ranks above 0: make rank 0's passes, until it is done.

    Raises:
        ModelError: an adapter that rank 0 uses is not on this machine.
    """
    import mlx.core as mx

    if (told := engine.lead.hear()) is None:
        return
    engine.hold(told["adapters"])
    engine.lead.meet()
    passes = Passes(engine, max_together=told["max_together"])
    freed = mx.set_cache_limit(int(engine.budget_bytes * FREED_SHARE))
    while (news := engine.lead.hear()) is not None:
        for call, *arguments in news:
            getattr(passes, call)(*arguments)
    passes.close()
    mx.set_cache_limit(freed)
