"""The judge's grades of single answers: five dimensions, and a score from 1 to 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afm_mlx.errors import DataError
from afm_mlx.evaluation.answers import AnswerFile
from afm_mlx.evaluation.dimensions import DIMENSIONS
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.evaluation.judge.asking import JUDGE_TOKENS, SETTLED
from afm_mlx.evaluation.judge.reading import Grades, read_grades
from afm_mlx.evaluation.judge.wording import GRADES_SCHEMA, grading_text
from afm_mlx.evaluation.prompts import Prompt
from afm_mlx.evaluation.scores import FROM_ZERO, Ends

_NOTHING = Grades(1.0, dict.fromkeys(DIMENSIONS, "poor"))
"""Of no answer."""


class Grading:
    """A task for a `Judge`: grade what a model wrote.

    An empty answer needs no judge: it has the lowest marks. A verdict that cannot be read counts
    for nothing but `unreadable`.
    """

    name = "judge"
    figures: Mapping[str, str] = {
        "good": "share of answers that are good in all dimensions",
        "poor": "share of answers that are poor in any dimension",
        "score_of_10": "mean score, from 1 to 10",
        **{f"good_{name}": f"share that is good in {name}" for name in DIMENSIONS},
        **{f"poor_{name}": f"share that is poor in {name}" for name in DIMENSIONS},
        "unreadable": "share of answers whose grades cannot be read, or were not given",
        "characters": "mean length of answers",
    }
    ranges: Mapping[str, Ends] = {"score_of_10": (1.0, 10.0), "characters": FROM_ZERO}

    def __init__(
        self,
        prompts: Sequence[Prompt],
        answers: AnswerFile,
        *,
        guided: bool = True,
        reference: bool = True,
        max_tokens: int = JUDGE_TOKENS,
    ) -> None:
        """Grade answers to prompts; prompts without an answer are left out and counted.

        Args:
            prompts: what was asked.
            answers: what the model wrote.
            guided: hold the judge to the form of its JSON.
            reference: show the judge what a person wrote, where that is known.
            max_tokens: longest verdict.
        """
        self.answers, self.model = answers, answers.model
        self.prompts = answered(prompts, answers)
        self.unanswered = len(prompts) - len(self.prompts)
        """Prompts that are left out."""
        self.guided, self.reference, self.max_tokens = guided, reference, max_tokens

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {
            "form": "grades",
            "guided": self.guided,
            "reference": self.reference,
            "max_tokens": self.max_tokens,
            "unanswered": self.unanswered,
            **drawn("answers", self.answers),
        }

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        return [
            self._item(prompt, self.answers.answers[prompt.id].answer) for prompt in self.prompts
        ]

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        assert isinstance(item, Question)
        length = {"characters": Mark(float(item.facts["characters"]))}
        grades = _NOTHING if SETTLED in item.facts else _read(reply)
        if grades is None:
            return {"unreadable": Mark(1.0), **length}
        of = grades.grades
        return {
            "good": Mark(float(grades.good)),
            "poor": Mark(float(grades.poor)),
            "score_of_10": Mark(grades.score),
            **{f"good_{name}": Mark(float(of[name] == "good")) for name in DIMENSIONS},
            **{f"poor_{name}": Mark(float(of[name] == "poor")) for name in DIMENSIONS},
            "unreadable": Mark(0.0),
            **length,
        }

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Question)
        if SETTLED in item.facts:
            return {"why": "no answer"}
        grades = _read(reply)
        return {} if grades is None else {"score": grades.score, "grades": dict(grades.grades)}

    def _item(self, prompt: Prompt, answer: str) -> Question:
        text = grading_text(prompt, answer, reference=self.reference)
        return Question(
            prompt.id,
            ({"role": "user", "content": text},),
            self.max_tokens,
            schema=GRADES_SCHEMA if self.guided else None,
            group=prompt.category,
            facts={"characters": len(answer), **({} if answer.strip() else {SETTLED: True})},
        )


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


def _read(reply: Reply) -> Grades | None:
    return read_grades(reply.text) if isinstance(reply, Answer) else None
