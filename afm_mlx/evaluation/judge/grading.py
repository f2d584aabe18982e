"""The judge's grades of single answers: five dimensions, and a score from 1 to 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afm_mlx.evaluation.dimensions import DIMENSIONS
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.evaluation.judge.asking import SETTLED
from afm_mlx.evaluation.judge.reading import Grades, read_grades
from afm_mlx.evaluation.judge.task import JudgeTask
from afm_mlx.evaluation.judge.wording import GRADES_SCHEMA, grading_text
from afm_mlx.evaluation.prompts import Prompt
from afm_mlx.evaluation.scores import FROM_ZERO, Ends

_NOTHING = Grades(1.0, dict.fromkeys(DIMENSIONS, "poor"))
"""Of no answer."""


class Grading(JudgeTask):
    """Grade what a model wrote.

    An empty answer needs no judge: it has the lowest marks. A verdict that cannot be read counts
    for nothing but `unreadable`.
    """

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

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {"form": "grades", **super().settings}

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


def _read(reply: Reply) -> Grades | None:
    return read_grades(reply.text) if isinstance(reply, Answer) else None
