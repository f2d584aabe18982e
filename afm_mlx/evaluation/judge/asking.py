"""Asking a judge: a subject that judges what another one wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from afm_mlx.evaluation.items import Answer, Choice, Likelihood, Passage, Question, Refusal
from afm_mlx.evaluation.subject import Subject
from afm_mlx.inference.requests import Message

JUDGE_TOKENS = 1_024
"""Longest verdict, unless told: five reasons of 200 characters and what is around them, in scripts
with two characters a token, too. Ours; judges that think aloud need more."""

SETTLED = "settled"
"""Among the facts of a question that needs no judge."""


@dataclass(frozen=True)
class InBothOrders(Question):
    """A question about two answers, which is asked a second time with their places swapped."""

    swapped: tuple[Message, ...] = ()
    """The second time's prompt."""


@dataclass(frozen=True)
class InBoth(Answer):
    """Verdicts on both orders."""

    swapped: str = ""
    """What was said the second time."""


class Judge:
    """Someone who judges a model. Results are the model's, and say who judged."""

    def __init__(self, subject: Subject, *, of: str) -> None:
        """Let a subject judge the model that is called `of`."""
        self.subject, self.name = subject, of

    @property
    def facts(self) -> dict[str, Any]:
        """Who judges."""
        facts = {f"judge_{name}": value for name, value in self.subject.facts.items()}
        return {"judge": self.subject.name, **facts}

    def choose(self, choices: Sequence[Choice]) -> Iterator[tuple[int, list[Likelihood] | Refusal]]:
        """Nothing: what judges are asked is answered in words."""
        assert not choices
        yield from ()

    def read(self, passages: Sequence[Passage]) -> Iterator[tuple[int, Likelihood | Refusal]]:
        """As `choose`."""
        assert not passages
        yield from ()

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refusal]]:
        """See `Subject`. Those that need no judge have empty answers."""
        asked: list[tuple[int, bool, Question]] = []
        for place, question in enumerate(questions):
            if SETTLED in question.facts:
                yield place, Answer("")
                continue
            asked.append((place, False, question))
            if isinstance(question, InBothOrders):
                asked.append((place, True, replace(question, prompt=question.swapped)))
        half: dict[int, Answer | Refusal] = {}
        for number, reply in self.subject.answer([question for _, _, question in asked]):
            place, is_swapped, question = asked[number]
            if not isinstance(question, InBothOrders):
                yield place, reply
            elif place not in half:
                half[place] = reply
            else:
                other = half.pop(place)
                yield place, _both(other, reply) if is_swapped else _both(reply, other)


def _both(first: Answer | Refusal, second: Answer | Refusal) -> Answer | Refusal:
    if isinstance(first, Refusal) or isinstance(second, Refusal):
        return first if isinstance(first, Refusal) else second
    finished = first.finished if first.finished != "stop" else second.finished
    return InBoth(first.text, finished, first.tokens + second.tokens, second.text)
