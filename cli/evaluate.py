"""afm eval: a model's scores on benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .evaluate_judge import AgainstFlag, Flags, JudgeEndpointFlag, JudgeFlag
from .options import RUNS, AdapterFlag, JsonFlag, LogJsonFlag, ModelArgument, RunsFlag
from .subjects import EndpointFlag, find_subject, folder_name
from .terminal import tell

if TYPE_CHECKING:
    from afm_mlx.evaluation.items import Task
    from afm_mlx.evaluation.run import Result
    from afm_mlx.progress import Progress


def _list_tasks(wanted: bool) -> None:
    if not wanted:
        return
    from afm_mlx.evaluation.registry import HARNESS, JUDGE, KINDS

    for name, kind in KINDS.items():
        typer.echo(f"{name:15}{kind.about:52}{kind.data}")
    typer.echo(f"{JUDGE:15}{'answers that another model grades or compares':52}our own prompts")
    typer.echo(f"{HARNESS + 'NAME':15}{'a task of lm-evaluation-harness':52}the package lm-eval")
    raise typer.Exit


def evaluate(
    model: ModelArgument,
    task: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="What to ask; `afm eval --list` names them. Can be repeated.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Where the task's items are: a file, a folder, or hub:ORG/NAME.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Ask this many items, taken evenly from the task's groups.",
            show_default=False,
        ),
    ] = None,
    adapter: AdapterFlag = None,
    endpoint: EndpointFlag = None,
    judge: JudgeFlag = None,
    judge_endpoint: JudgeEndpointFlag = None,
    against: AgainstFlag = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a setting of the task. Can be repeated."
        ),
    ] = [],
    together: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Answers that are written at once.",
            show_default="16, and 8 behind an endpoint",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for samples and result; an interrupted run in it goes on.",
            show_default="runs/evals/MODEL/TASK-...",
        ),
    ] = None,
    list_: Annotated[
        bool,
        typer.Option(
            "--list", callback=_list_tasks, is_eager=True, help="Name the tasks, and stop."
        ),
    ] = False,
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Ask a model a benchmark's items; its scores with intervals of 95 %."""
    from contextlib import closing

    from afm_mlx.errors import RecipeError
    from afm_mlx.evaluation.registry import JUDGE
    from afm_mlx.progress import Progress
    from afm_mlx.recipe import read_assignments

    if len(task) > 1 and (data or out):
        raise RecipeError(
            "--data and --out are of one task", hint="leave them away, or ask one task at a time"
        )
    if JUDGE in task and len(task) > 1:
        raise RecipeError(f"task {JUDGE} stands alone", hint="ask the other tasks apart from it")
    if JUDGE not in task:
        for flag, given in (
            ("--judge", judge),
            ("--judge-endpoint", judge_endpoint),
            ("--against", against),
        ):
            if given is not None:
                raise RecipeError(f"{flag} is of task {JUDGE}", hint=f"--task {JUDGE}")
    settings = read_assignments(set_)
    flags = Flags(
        judge, judge_endpoint, against, endpoint, adapter, data, limit, together, out, runs
    )
    with closing(Progress(log_json=log_json)) as progress:
        if JUDGE in task:
            from .evaluate_judge import judge as judge_answers

            done = [judge_answers(model, settings, flags, progress)]
        else:
            done = _ask(model, task, settings, flags, progress)
    if json_:
        typer.echo(json.dumps([result.to_json() for _, result in done], indent=2))
        return
    for each, result in done:
        wide = max([20, *map(len, result.scores)])
        for figure, score in result.scores.items():
            about = each.figures.get(figure, "")
            typer.echo(f"{result.task:14}{figure:{wide}}  {score!s:26}  {about}")
        refused = ", ".join(f"{count:,} {reason}" for reason, count in result.refused.items())
        typer.echo(
            f"{result.task:14}{result.items:,} items in {result.seconds:,.1f} s"
            + (f"; not asked: {refused}" if refused else "")
        )
        tell(f"samples: {result.folder}")


def _ask(
    model: str, names: list[str], settings: dict[str, Any], flags: Flags, progress: Progress
) -> list[tuple[Task, Result]]:
    """The results of tasks that need nobody else."""
    from afm_mlx.evaluation.registry import open_task
    from afm_mlx.evaluation.run import run_task
    from afm_mlx.evaluation.subject import Drawing, ModelSubject

    for name in names:
        open_task(name, flags.data, settings)  # refused before a model is loaded
    found = find_subject(model, flags.runs, adapter=flags.adapter, endpoint=flags.endpoint)
    subject = found.open(Drawing(), flags.together)
    tasks = [
        open_task(
            name,
            flags.data,
            settings,
            engine=subject.engine if isinstance(subject, ModelSubject) else None,
            behind_endpoint=not isinstance(subject, ModelSubject),
        )
        for name in names
    ]
    folder = flags.out or flags.runs / "evals" / folder_name(subject.name)
    return [
        (
            each,
            run_task(each, subject, folder, progress, limit=flags.limit, apart=not flags.out),
        )
        for each in tasks
    ]
