"""A model's answers to prompts, into a file that can be gone on with."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from afm_mlx.errors import AfmError, DataError, FitError
from afm_mlx.evaluation.human.answers import Appending
from afm_mlx.inference.requests import Chunk, Message, Sampling

if TYPE_CHECKING:
    from afm_mlx.evaluation.human.prompts import Prompt
    from afm_mlx.inference.engine import Engine

TOGETHER = 16
"""Answers that are written at once, unless told. Ours."""


@dataclass(frozen=True)
class Said:
    """An answer."""

    text: str
    finished: str
    """`stop`, `length`, `context`, or why the model would not answer."""


@dataclass(frozen=True)
class Refused:
    """Why a prompt could not be asked."""

    reason: str


class Author(Protocol):
    """Who answers."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the answers, ready for JSON."""

    def answers(self, prompts: Sequence[str]) -> Iterator[tuple[int, Said | Refused]]:
        """Answer prompts, in any order, each with its place."""


@dataclass(frozen=True)
class Tally:
    """What became of the prompts."""

    written: int
    there: int
    """Answered before."""
    refused: Mapping[str, int]
    """Prompts that could not be asked, by reason; they are not in the file."""


def write_answers(
    author: Author,
    prompts: Sequence[Prompt],
    file: Appending,
    *,
    status: Callable[[int, int], None] = lambda done, total: None,
) -> Tally:
    """Answer the prompts that a file has no answer to, each added as soon as it is there.

    Raises:
        DataError: the file has an answer to another text by the id of one of the prompts.
    """
    left = []
    for prompt in prompts:
        old = file.there.answers.get(prompt.id)
        if old is None:
            left.append(prompt)
        elif old.prompt != prompt.prompt:
            raise DataError(
                f"{file.path} has an answer to another text of prompt '{prompt.id}'",
                hint="the prompts have changed: name another --out",
            )
    refused: Counter[str] = Counter()
    for done, (place, said) in enumerate(author.answers([each.prompt for each in left]), start=1):
        if isinstance(said, Refused):
            refused[said.reason] += 1
        else:
            prompt = left[place]
            file.add(
                prompt.id,
                prompt.prompt,
                said.text,
                category=prompt.category,
                reference=prompt.reference or "",
                finished=said.finished,
            )
        status(done, len(left))
    return Tally(len(left) - refused.total(), len(prompts) - len(left), dict(refused))


class ModelAuthor:
    """A model on this machine, with the adapter that its engine uses."""

    def __init__(
        self, engine: Engine, sampling: Sampling, *, system: str = "", together: int = TOGETHER
    ) -> None:
        """Ask a model; `together` answers are written at once."""
        self._engine, self._sampling = engine, sampling
        self._system, self._together = system, together

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Author`."""
        sampling = self._sampling
        return {
            "adapter": self._engine.adapters.active or "",
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed if sampling.temperature else 0,  # else it decides nothing
            "system": self._system,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }

    def answers(self, prompts: Sequence[str]) -> Iterator[tuple[int, Said | Refused]]:
        """See `Author`. A prompt that leaves no room for an answer is refused."""
        from afm_mlx.inference.batches import Batcher

        came: queue.Queue[tuple[int, Said | AfmError]] = queue.Queue()
        active = self._engine.adapters.active
        first: list[Message] = [{"role": "system", "content": self._system}] if self._system else []
        with Batcher(self._engine, max_together=self._together) as batcher:
            waiting = 0
            for place, prompt in enumerate(prompts):
                try:
                    messages = [*first, {"role": "user", "content": prompt}]
                    ids = self._engine.prompt_ids(messages)
                    batcher.submit(ids, self._sampling, adapter=active, tell=_Writer(place, came))
                except (DataError, FitError) as error:
                    yield place, Refused(str(error))
                    continue
                waiting += 1
                if waiting >= 2 * self._together:
                    yield _taken(came)
                    waiting -= 1
            for _ in range(waiting):
                yield _taken(came)


class _Writer:
    """Puts an answer together from its chunks, which come from the model's thread."""

    def __init__(self, place: int, came: queue.Queue[tuple[int, Said | AfmError]]) -> None:
        self.place, self.came = place, came
        self.pieces: list[str] = []

    def __call__(self, said: Chunk | AfmError) -> None:
        if isinstance(said, AfmError):
            self.came.put((self.place, said))
            return
        self.pieces.append(said.text)
        if said.finished:
            self.came.put((self.place, Said("".join(self.pieces), said.finished)))


def _taken(came: queue.Queue[tuple[int, Said | AfmError]]) -> tuple[int, Said]:
    place, said = came.get()
    if isinstance(said, AfmError):
        raise said
    return place, said
