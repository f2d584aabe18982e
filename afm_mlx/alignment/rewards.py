"""What an answer is worth: a check by a program, a reward model, or both; less penalties."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from afm_mlx.alignment.logps import Answer
from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.sampling import Sampled
from afm_mlx.errors import DataError

Check = Callable[[Mapping[str, Any], str], float]
"""How much of an answer is right, 0 to 1, by a conversation's `check`."""


def try_checks(check: Check, prompts: Sequence[Prompt]) -> None:
    """Try the check of each prompt once, on an answer of one word.

    Checks that run code are left out, it may take long.

    Raises:
        DataError: one cannot be read; its line is named.
    """
    for prompt in prompts:
        wanted = prompt.conversation.check
        if wanted is None or wanted.get("kind") == "tests":
            continue
        try:
            check(wanted, "word")
        except DataError as error:
            where = prompt.conversation.where
            raise DataError(f"{where}: {error}", hint=error.hint) from None


class Scorer(Protocol):
    """A reward model."""

    def score_answers(self, answers: Sequence[Answer]) -> list[float]:
        """Reward of each answer."""


@dataclass(frozen=True)
class Rewards:
    """A weighted sum of what is said of an answer."""

    check: Check
    """Asked about prompts that have a check; others get nothing from it."""
    scorer: Scorer | None
    """Asked about all, unless its weight is 0."""
    check_weight: float
    model_weight: float
    length_penalty: float
    """Taken from an answer of `max_tokens` tokens, and from shorter ones in proportion."""
    truncation_penalty: float
    """Taken from an answer that was cut."""
    max_tokens: int

    def __call__(self, prompt: Prompt, answers: Sequence[Sampled]) -> list[float]:
        """Reward of each answer to a prompt.

        Raises:
            DataError: the check cannot be read.
        """
        return self.of_checked(prompt, answers, self.checked(prompt, answers))

    def of_checked(
        self, prompt: Prompt, answers: Sequence[Sampled], checked: Sequence[float]
    ) -> list[float]:
        """Reward of each answer, of which `checked` is known: a check may run code, for seconds."""
        found = [
            self.check_weight * score
            - self.length_penalty * len(answer.ids) / self.max_tokens
            - self.truncation_penalty * (not answer.finished)
            for answer, score in zip(answers, checked, strict=True)
        ]
        if self.scorer is None or not self.model_weight:
            return found
        read = [Answer([*prompt.ids, *answer.ids], len(prompt.ids)) for answer in answers]
        scores = self.scorer.score_answers(read)
        return [one + self.model_weight * score for one, score in zip(found, scores, strict=True)]

    def checked(self, prompt: Prompt, answers: Sequence[Sampled]) -> list[float]:
        """How much of each answer is right, 0 to 1; 0 where the prompt has no check."""
        check = prompt.conversation.check
        if check is None:
            return [0.0] * len(answers)
        return [self.check(check, answer.text) for answer in answers]
