"""What is judged, and how: prompts, answers to them, and the task for a judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from afm_mlx.errors import DataError
from afm_mlx.evaluation.answers import AnswerFile, Appending, Written, read_answers
from afm_mlx.evaluation.judge.asking import JUDGE_TOKENS
from afm_mlx.evaluation.judge.comparing import Comparing
from afm_mlx.evaluation.judge.grading import Grading
from afm_mlx.evaluation.prompts import (
    SUMMARIES,
    WRITING,
    Prompt,
    of_categories,
    own_prompts,
    read_prompts,
)
from afm_mlx.evaluation.registry import JUDGE, read_settings
from afm_mlx.evaluation.subject import Drawing
from afm_mlx.evaluation.writing import Author, write_answers
from afm_mlx.inference.answers import check_sampling
from afm_mlx.inference.requests import Sampling
from afm_mlx.progress import Progress

JUDGED = (SUMMARIES, WRITING)
"""Categories of prompts that are judged: summaries, and what R24 calls composition."""

ANSWER_TOKENS = 512
"""Longest answer, unless told. Ours."""

Temperature = float | Literal["server"]


@dataclass(frozen=True)
class Judging:
    """What decides answers and verdicts, besides who is asked what."""

    guided: bool = True
    """Hold the judge to the form of its JSON."""
    reference: bool = True
    """Show the judge what a person wrote, where that is known."""
    whole_meetings: bool = False
    """Take QMSum's queries about a whole meeting, too."""
    max_tokens: int = ANSWER_TOKENS
    """Longest answer."""
    judge_tokens: int = JUDGE_TOKENS
    """Longest verdict."""
    temperature: Temperature = 0.0
    """Of answers; "server" for models behind an endpoint that take none."""
    judge_temperature: Temperature = 0.0
    """Of verdicts."""

    def check(self) -> None:
        """Look at the numbers.

        Raises:
            DataError: one is out of its range.
        """
        for tokens, temperature in (
            (self.max_tokens, self.temperature),
            (self.judge_tokens, self.judge_temperature),
        ):
            check_sampling(Sampling(tokens, 0.0 if temperature == "server" else temperature))

    def prompts(self, data: Path | None) -> list[Prompt]:
        """Prompts of the categories in `JUDGED`: a file's, or our own.

        Raises:
            DataError: as `read_prompts`, or none is of such a category.
        """
        if data is None:
            found: Sequence[Prompt] = own_prompts()
        else:
            found = read_prompts(data, whole_meetings=self.whole_meetings)
        there = {prompt.category for prompt in found}
        wanted = [category for category in JUDGED if category in there]
        if not wanted:
            raise DataError(
                f"{data} has no prompt of {' or '.join(JUDGED)}: it has {', '.join(sorted(there))}",
                hint="a judge knows what to look for in those two",
            )
        return of_categories(found, wanted)

    def drawn(self, author: Author) -> dict[str, Any]:
        """What decides an author's answers, ready for JSON, as `afm human answers` has it."""
        return {**author.facts, "max_tokens": self.max_tokens, "system": ""}

    def write(
        self, author: Author, prompts: Sequence[Prompt], path: Path, progress: Progress
    ) -> AnswerFile:
        """What a model answers to prompts, from a file as far as it is there.

        Prompts that cannot be asked have empty answers.

        Raises:
            DataError: the file has answers of another model, or that were drawn otherwise.
        """
        settings = self.drawn(author)
        with Appending(path, author.name, settings) as file:
            tally = write_answers(
                author,
                prompts,
                file,
                max_tokens=self.max_tokens,
                status=lambda done, total: progress.status(
                    f"{author.name}: {done:,} of {total:,} answers", last=done == total
                ),
            )
        for reason, count in tally.refused.items():
            progress.say(f"{author.name}: {count:,} not asked, and so empty: {reason}")
        there = read_answers(path).answers if path.exists() else {}
        answers = {
            prompt.id: there.get(prompt.id)
            or Written(prompt.id, prompt.prompt, author.name, "", prompt.category)
            for prompt in prompts
        }
        return AnswerFile(path, author.name, settings, answers)

    def task(
        self, prompts: Sequence[Prompt], answers: AnswerFile, opponent: AnswerFile | None
    ) -> Grading | Comparing:
        """The task for a `Judge`: single grades, or a comparison.

        Raises:
            DataError: no prompt is answered, or both have one name.
        """
        if opponent is None:
            return Grading(
                prompts,
                answers,
                guided=self.guided,
                reference=self.reference,
                max_tokens=self.judge_tokens,
            )
        if answers.model == opponent.model:
            raise DataError(
                f"both models are called '{answers.model}'",
                hint="write one's answers first: afm human answers MODEL --name NAME --out FILE",
            )
        return Comparing(
            prompts,
            answers,
            opponent,
            guided=self.guided,
            reference=self.reference,
            max_tokens=self.judge_tokens,
        )


def drawing_of(temperature: Temperature) -> Drawing | None:
    """How answers are drawn; None for as a server does it."""
    return None if temperature == "server" else Drawing(temperature)


def answers_name(prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> str:
    """A file for answers to some of these prompts, drawn so; whichever judges read them later."""
    drawn = {"settings": dict(settings), "prompts": [asdict(each) for each in prompts]}
    digest = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()
    return f"answers-{digest[:8]}.jsonl"


def read_judging(settings: Mapping[str, Any]) -> Judging:
    """What `--set` says.

    Raises:
        RecipeError: a setting is unknown, or of a wrong type.
        DataError: as `Judging.check`.
    """
    judging = Judging(**read_settings(JUDGE, settings, get_type_hints(Judging)))
    judging.check()
    return judging
