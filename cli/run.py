"""afm run, afm pretrain: a recipe's stages, from documents to a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    DryRunFlag,
    HostsFlag,
    JsonFlag,
    LogJsonFlag,
    ProfileFlag,
    RunsFlag,
    SetFlag,
)
from .terminal import open_progress, tell

PRETRAINING = ("core", "continued", "context")
"""Stages that `afm pretrain` runs; the others are for `afm run --until`."""


def run(
    recipe: Annotated[str, typer.Argument(help="Recipe name (see `afm models`), or a TOML file.")],
    from_: Annotated[
        str | None, typer.Option("--from", help="Do this stage and those after it again.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Stop after this stage.")] = None,
    hosts: HostsFlag = None,
    dry_run: DryRunFlag = False,
    set_: SetFlag = [],
    runs: RunsFlag = Path("runs"),
    log_json: LogJsonFlag = None,
    profile: ProfileFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Run a recipe's stages; what is done already is kept, what was interrupted goes on."""
    import json
    from contextlib import closing

    from afm_mlx import pipeline
    from afm_mlx.evaluation.report.write import write_report
    from afm_mlx.ranks import joined
    from afm_mlx.recipe import load_named_recipe

    settings = load_named_recipe(recipe, set_)
    if dry_run:
        steps = pipeline.plan_steps(settings, runs, first=from_, last=until)
        width = max(len(step.stage.name) for step in steps) + 2
        for step in steps:
            typer.echo(f"{step.stage.name:{width}}{step.todo or 'done already'}")
        return
    try:
        with closing(open_progress(log_json)) as progress:
            manifests = pipeline.run(settings, runs, progress, first=from_, last=until)
    except KeyboardInterrupt as error:  # Typer would drop what it says: where training saved
        raise typer.Abort(str(error) or "interrupted; the same command goes on") from None
    if json_:
        typer.echo(json.dumps(manifests, indent=2))
        return
    typer.echo(pipeline.summary(manifests))
    folder = runs / settings.name
    joined().once(folder, lambda: tell(f"report: {write_report(folder)}"))


def pretrain(
    recipe: Annotated[str, typer.Argument(help="Recipe name (see `afm models`), or a TOML file.")],
    stage: Annotated[str, typer.Option(help="core, continued or context.")] = "core",
    hosts: HostsFlag = None,
    set_: SetFlag = [],
    runs: RunsFlag = Path("runs"),
    log_json: LogJsonFlag = None,
    profile: ProfileFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Run one pre-training stage, and what it needs that is not done yet."""
    if stage not in PRETRAINING:
        raise typer.BadParameter(
            f"'{stage}' is not one of {', '.join(PRETRAINING)}", param_hint="--stage"
        )
    run(recipe, until=stage, set_=set_, runs=runs, log_json=log_json, json_=json_)
