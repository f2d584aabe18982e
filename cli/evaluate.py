"""afm eval: a model's scores on benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .models_io import open_engine
from .options import RUNS, AdapterFlag, JsonFlag, LogJsonFlag, ModelArgument, RunsFlag
from .terminal import tell

TOGETHER = 16
"""Answers that are written at once, unless told. Ours."""


def _list_tasks(wanted: bool) -> None:
    if not wanted:
        return
    from afm_mlx.evaluation.registry import HARNESS, KINDS

    for name, kind in KINDS.items():
        typer.echo(f"{name:15}{kind.about:52}{kind.data}")
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
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a setting of the task. Can be repeated."
        ),
    ] = [],
    together: Annotated[
        int, typer.Option(min=1, metavar="N", help="Answers that are written at once.")
    ] = TOGETHER,
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
    from afm_mlx.evaluation.registry import open_task
    from afm_mlx.evaluation.run import run_task
    from afm_mlx.evaluation.subject import ModelSubject
    from afm_mlx.progress import Progress
    from afm_mlx.recipe import read_assignments

    if len(task) > 1 and (data or out):
        raise RecipeError(
            "--data and --out are of one task", hint="leave them away, or ask one task at a time"
        )
    settings = read_assignments(set_)
    for word in task:
        open_task(word, data, settings)  # refused before a model is loaded
    engine = open_engine(model, runs, [adapter] if adapter else [])
    name = Path(model).name if "/" in model else model
    active = engine.adapters.active
    subject = ModelSubject(engine, f"{name}+{active}" if active else name, together=together)
    tasks = [open_task(word, data, settings, engine=engine) for word in task]
    results = []
    with closing(Progress(log_json=log_json)) as progress:
        for each in tasks:
            folder = out or runs / "evals" / subject.name
            results.append(run_task(each, subject, folder, progress, limit=limit, apart=not out))
    if json_:
        typer.echo(json.dumps([result.to_json() for result in results], indent=2))
        return
    for result, each in zip(results, tasks, strict=True):
        for figure, score in result.scores.items():
            about = each.figures.get(figure, "")
            typer.echo(f"{result.task:14}{figure:22}{score!s:28}{about}")
        refused = ", ".join(f"{count:,} {reason}" for reason, count in result.refused.items())
        typer.echo(
            f"{result.task:14}{result.items:,} items in {result.seconds:,.1f} s"
            + (f"; not asked: {refused}" if refused else "")
        )
        tell(f"samples: {result.folder}")
