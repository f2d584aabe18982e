"""A model's answers to prompts, into a file that can be gone on with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from afm_mlx.errors import DataError
from afm_mlx.evaluation.answers import Appending
from afm_mlx.evaluation.items import Answer, Question, Refusal
from afm_mlx.inference.requests import Message

if TYPE_CHECKING:
    from afm_mlx.evaluation.prompts import Prompt


class Author(Protocol):
    """Who answers: what is needed of a `Subject`."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the answers, ready for JSON."""

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refusal]]:
        """Answer questions, in any order, each with its place."""


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
    max_tokens: int,
    system: str = "",
    status: Callable[[int, int], None] = lambda done, total: None,
) -> Tally:
    """Answer the prompts that a file has no answer to, each added as soon as it is there.

    Args:
        author: the model.
        prompts: to be answered.
        file: gets the answers.
        max_tokens: longest answer.
        system: a message before each prompt; "" for none.
        status: told how many are done, of how many, after each.

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
    first: list[Message] = [{"role": "system", "content": system}] if system else []
    questions = [
        Question(each.id, (*first, {"role": "user", "content": each.prompt}), max_tokens)
        for each in left
    ]
    refused: Counter[str] = Counter()
    for done, (place, said) in enumerate(author.answer(questions), start=1):
        if isinstance(said, Refusal):
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
