"""Who is asked: a model, or a stand-in for one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from afm_mlx.errors import AfmError, DataError
from afm_mlx.evaluation.items import Answer, Choice, Likelihood, Passage, Question, Refusal
from afm_mlx.inference.requests import Chunk, Sampling

if TYPE_CHECKING:
    from afm_mlx.inference.engine import Engine

TOGETHER = 16
"""Answers that are written at once, unless told. Ours."""

TOO_LONG = "longer than the context"
"""Reason of a refusal."""


class Subject(Protocol):
    """Replies to items, in any order, each with its place among those that were asked."""

    @property
    def name(self) -> str:
        """In results."""

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its replies, ready for JSON: a changed one is another subject."""

    def choose(self, choices: Sequence[Choice]) -> Iterator[tuple[int, list[Likelihood] | Refusal]]:
        """How likely each option is."""

    def read(self, passages: Sequence[Passage]) -> Iterator[tuple[int, Likelihood | Refusal]]:
        """How likely each text is, from its first token on."""

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refusal]]:
        """Write answers."""


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn; fields as those of `Sampling`."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What decides answers, ready for JSON."""
        if not self.temperature:
            return {"temperature": 0.0}
        return {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}

    def sampling(self, question: Question) -> Sampling:
        """For the answer to a question."""
        return Sampling(
            question.max_tokens, self.temperature, self.top_p, self.seed, tuple(question.stop)
        )


class ModelSubject:
    """A model on this machine, with the adapter that its engine uses."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        together: int = TOGETHER,
        drawing: Drawing = Drawing(),
    ) -> None:
        """Ask a model; `together` answers are written at once."""
        self.engine, self.name, self.together = engine, name, together
        self.drawing = drawing

    @property
    def facts(self) -> dict[str, Any]:
        """The weights' and the adapter's hashes."""
        from afm_mlx.decoder.base_hash import base_hash

        adapter = self.engine.adapters.active
        return {
            "model": base_hash(self.engine.folder),
            "adapter": adapter or "",
            **self.drawing.facts,
        }

    def choose(self, choices: Sequence[Choice]) -> Iterator[tuple[int, list[Likelihood] | Refusal]]:
        """See `Subject`. Options of one choice are read together, and what they share once."""
        from afm_mlx.evaluation.likelihood import likelihoods_of_choices

        yield from likelihoods_of_choices(self.engine, choices)

    def read(self, passages: Sequence[Passage]) -> Iterator[tuple[int, Likelihood | Refusal]]:
        """See `Subject`. Texts longer than the context are read in windows."""
        from afm_mlx.evaluation.likelihood import likelihoods_of_passages

        yield from likelihoods_of_passages(self.engine, passages)

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refusal]]:
        """See `Subject`. What prompts begin with in common, such as examples, is read once."""
        from afm_mlx.inference.batches import Batcher

        came: queue.Queue[tuple[int, Answer | AfmError]] = queue.Queue()
        active = self.engine.adapters.active
        with Batcher(self.engine, max_together=self.together) as batcher:
            waiting = 0
            for place, question in enumerate(questions):
                try:
                    ids = self._prompt_ids(question)
                    if len(ids) >= self.engine.context_tokens:
                        raise DataError(TOO_LONG)
                    sampling = self.drawing.sampling(question)
                    schema = question.schema
                    guide = None if schema is None else self.engine.guides.json_schema(schema)
                    writer = _Writer(place, came)
                    batcher.submit(ids, sampling, adapter=active, guide=guide, tell=writer)
                except DataError as error:
                    yield place, Refusal(str(error))
                    continue
                waiting += 1
                if waiting == 1:  # what it shares with the others is known once it has been read
                    writer.began.wait()
                if waiting >= 2 * self.together:
                    yield _taken(came)
                    waiting -= 1
            for _ in range(waiting):
                yield _taken(came)

    def _prompt_ids(self, question: Question) -> list[int]:
        raw = isinstance(question.prompt, str)
        prompt = [{"role": "user", "content": question.prompt}] if raw else question.prompt
        return self.engine.prompt_ids(prompt, raw=raw, tools=question.tools or None)


class _Writer:
    """Puts an answer together from its chunks, which come from the model's thread."""

    def __init__(self, place: int, came: queue.Queue[tuple[int, Answer | AfmError]]) -> None:
        self.place, self.came = place, came
        self.pieces: list[str] = []
        self.began = threading.Event()
        """Set with the first chunk, or with an error."""

    def __call__(self, said: Chunk | AfmError) -> None:
        self.began.set()
        if isinstance(said, AfmError):
            self.came.put((self.place, said))
            return
        self.pieces.append(said.text)
        if said.finished:
            answer = Answer("".join(self.pieces), said.finished, len(self.pieces))
            self.came.put((self.place, answer))


def _taken(came: queue.Queue[tuple[int, Answer | AfmError]]) -> tuple[int, Answer]:
    place, said = came.get()
    if isinstance(said, AfmError):
        raise said
    return place, said
