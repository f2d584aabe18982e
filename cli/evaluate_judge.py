"""`afm eval --task judge`: a model answers prompts, and another one judges the answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .subjects import find_subject, folder_name, free_memory

if TYPE_CHECKING:
    from afm_mlx.evaluation.answers import AnswerFile
    from afm_mlx.evaluation.items import Task
    from afm_mlx.evaluation.judge.judging import Judging
    from afm_mlx.evaluation.prompts import Prompt
    from afm_mlx.evaluation.run import Result
    from afm_mlx.progress import Progress

    from .subjects import Found

JudgeFlag = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="MODEL", help="Who judges, for task judge.", show_default=False
    ),
]
JudgeEndpointFlag = Annotated[
    str | None,
    typer.Option(
        "--judge-endpoint",
        metavar="URL",
        help="Where the judge is; --judge is its name there.",
        show_default=False,
    ),
]
AgainstFlag = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="FILE|MODEL",
        help="Compare with answers of a file, FILE.jsonl, or of another model.",
        show_default="single grades",
    ),
]

ANSWERS, OPPONENT = "answers.jsonl", "opponent.jsonl"
"""Files in --out."""


@dataclass(frozen=True)
class Flags:
    """What the command line says of a judgment."""

    judge: str | None
    judge_endpoint: str | None
    against: str | None
    endpoint: str | None
    adapter: str | None
    data: str | None
    limit: int | None
    together: int | None
    out: Path | None
    runs: Path


def judge(
    model: str, settings: dict[str, Any], flags: Flags, progress: Progress
) -> tuple[Task, Result]:
    """Let a model's answers be judged, and say what came of it.

    Everybody is looked for before anybody is loaded, and one is released before the next is loaded.
    """
    from afm_mlx.evaluation.answers import AnswerFile
    from afm_mlx.evaluation.judge.asking import Judge
    from afm_mlx.evaluation.judge.judging import drawing_of, read_judging
    from afm_mlx.evaluation.judge.task import answered
    from afm_mlx.evaluation.run import run_task, take_evenly

    judging = read_judging(settings)
    judge = _find_judge(flags)
    everything = judging.prompts(None if flags.data is None else Path(flags.data))
    who = _find(model, flags.runs, adapter=flags.adapter, endpoint=flags.endpoint)
    other = None if flags.against is None else _find(flags.against, flags.runs)
    there = answered(everything, *(each for each in (who, other) if isinstance(each, AnswerFile)))
    if len(there) < len(everything):
        progress.say(f"{len(everything) - len(there):,} prompts are left out: a file lacks them")
    prompts = take_evenly(there, flags.limit, group=lambda prompt: prompt.category)
    work = _Work(judging, everything, prompts, flags, progress)
    answers = work.answers(who, ANSWERS)
    opponent = None if other is None else work.answers(other, OPPONENT)
    task = judging.task(prompts, answers, opponent)
    subject = Judge(
        judge.open(drawing_of(judging.judge_temperature), flags.together), of=task.model
    )
    folder = flags.out or flags.runs / "evals" / folder_name(task.model)
    return task, run_task(task, subject, folder, progress, apart=not flags.out)


@dataclass(frozen=True)
class _Work:
    """How answers are come by."""

    judging: Judging
    everything: list[Prompt]
    """All prompts, of which a limit takes some."""
    prompts: list[Prompt]
    flags: Flags
    progress: Progress

    def answers(self, who: Found | AnswerFile, name: str) -> AnswerFile:
        """What somebody has written, or now writes into a file: in --out, of this name."""
        from afm_mlx.evaluation.answers import AnswerFile
        from afm_mlx.evaluation.judge.judging import answers_name, drawing_of

        if isinstance(who, AnswerFile):
            return who
        author = who.open(drawing_of(self.judging.temperature), self.flags.together)
        if self.flags.out:
            path = self.flags.out / name
        else:
            folder = self.flags.runs / "evals" / folder_name(author.name)
            path = folder / answers_name(self.everything, self.judging.drawn(author))
        written = self.judging.write(author, self.prompts, path, self.progress)
        del author
        free_memory()
        return written


def _find(
    word: str, runs: Path, *, adapter: str | None = None, endpoint: str | None = None
) -> Found | AnswerFile:
    """Who answers, or a file of answers."""
    from afm_mlx.errors import DataError, RecipeError
    from afm_mlx.evaluation.answers import FORMAT, read_answers
    from afm_mlx.evaluation.human.apple import WORD as APPLE

    if word == APPLE and endpoint is None:
        raise RecipeError(
            "Apple's model cannot be asked here, but its answers can be judged",
            hint=f"afm human answers {APPLE} --out {APPLE}.jsonl, and name that file",
        )
    if endpoint is not None or not word.endswith(".jsonl"):
        return find_subject(word, runs, adapter=adapter, endpoint=endpoint)
    if adapter is not None:
        raise RecipeError(f"{word} has answers already", hint="leave --adapter away")
    found = read_answers(Path(word))
    if not found.answers:
        raise DataError(f"{word} has no answer", hint=FORMAT)
    return found


def _find_judge(flags: Flags) -> Found:
    from afm_mlx.errors import RecipeError

    if flags.judge is None:
        raise RecipeError(
            "task judge needs a judge",
            hint="--judge MODEL, with --judge-endpoint URL for one behind a server",
        )
    return find_subject(flags.judge, flags.runs, endpoint=flags.judge_endpoint)
