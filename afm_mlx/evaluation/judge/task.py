"""What all tasks for a judge have in common: answers to prompts, and how a judge is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afm_mlx.errors import DataError
from afm_mlx.evaluation.answers import AnswerFile
from afm_mlx.evaluation.judge.asking import JUDGE_TOKENS
from afm_mlx.evaluation.prompts import Prompt


class JudgeTask:
    """Its figures are about the first model."""

    name = "judge"

    def __init__(
        self,
        prompts: Sequence[Prompt],
        answers: AnswerFile,
        *opponents: AnswerFile,
        guided: bool = True,
        reference: bool = True,
        max_tokens: int = JUDGE_TOKENS,
    ) -> None:
        """Judge answers to prompts; those that somebody has not answered are left out, counted.

        Args:
            prompts: what was asked.
            answers: what the model wrote.
            opponents: what others wrote, whom it is compared with.
            guided: hold the judge to the form of its JSON.
            reference: show the judge what a person wrote, where that is known.
            max_tokens: longest verdict.
        """
        self.answers, self.model = answers, answers.model
        self.prompts = answered(prompts, answers, *opponents)
        self.unanswered = len(prompts) - len(self.prompts)
        """Prompts that are left out."""
        self.guided, self.reference, self.max_tokens = guided, reference, max_tokens

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {
            "guided": self.guided,
            "reference": self.reference,
            "max_tokens": self.max_tokens,
            "unanswered": self.unanswered,
            **drawn("answers", self.answers),
        }


def answered(prompts: Sequence[Prompt], *files: AnswerFile) -> list[Prompt]:
    """Prompts that all models have answered.

    Raises:
        DataError: there is none, or a model has answered another text.
    """
    found = [prompt for prompt in prompts if all(prompt.id in each.answers for each in files)]
    if not found:
        names = " and ".join(each.model or str(each.path) for each in files)
        known = next((id for each in files for id in each.answers), None)
        raise DataError(
            f"{names} answered none of the {len(prompts):,} prompts",
            hint=f"the answers have ids such as '{known}', and the prompts '{prompts[0].id}'",
        )
    for prompt in found:
        for each in files:
            if each.answers[prompt.id].prompt.strip() != prompt.prompt.strip():
                raise DataError(
                    f"{each.path} has an answer to another text of prompt '{prompt.id}'",
                    hint="answer the same prompts with each model",
                )
    return found


def drawn(name: str, file: AnswerFile) -> dict[str, Any]:
    """How a file's answers were drawn, as far as it says, for settings."""
    return {name: dict(file.settings)} if file.settings else {}
