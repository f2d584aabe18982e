"""afm reward, afm prefer: learn from comparisons of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .models_io import find_model
from .options import (
    RUNS,
    HostsFlag,
    JsonFlag,
    LogJsonFlag,
    ModelArgument,
    OutFlag,
    RunsFlag,
    SetFlag,
    SkipBadFlag,
)
from .shrink import run_own_model

DataFlag = Annotated[
    Path,
    typer.Option(
        "--data", metavar="FILE", help="Comparisons: JSONL of prompt, chosen and rejected."
    ),
]


def reward(
    model: ModelArgument,
    data: DataFlag,
    out: OutFlag,
    hosts: HostsFlag = None,
    skip_bad: SkipBadFlag = False,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Make a reward model, which says how good an answer is."""
    from afm_mlx import own_model

    own_model.check_out(out)
    recipe = own_model.reward_recipe(
        find_model(model, runs), data, skip_bad=skip_bad, assignments=set_
    )
    metrics = run_own_model(recipe, "reward", out, log_json, json_)
    if json_:
        return
    typer.echo(f"model       {out}")
    if "held_out_accuracy" in metrics:
        typer.echo(
            f"held out    the better answer has the higher reward in "
            f"{metrics['held_out_accuracy']:.1%} of {metrics['held_out_pairs']:,} pairs"
        )


def prefer(
    model: ModelArgument,
    data: DataFlag,
    out: OutFlag,
    method: Annotated[
        Literal["dpo", "ipo"],
        typer.Option(help="dpo: ever surer; ipo: up to a margin, for pairs that are never wrong."),
    ] = "dpo",
    hosts: HostsFlag = None,
    skip_bad: SkipBadFlag = False,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Move a model towards the answers that were preferred."""
    from afm_mlx import own_model

    own_model.check_out(out)
    recipe = own_model.prefer_recipe(
        find_model(model, runs), data, method=method, skip_bad=skip_bad, assignments=set_
    )
    metrics = run_own_model(recipe, "prefer", out, log_json, json_)
    if json_:
        return
    typer.echo(f"model       {out}")
    if "held_out_accuracy" in metrics:
        typer.echo(
            f"held out    gained on the other answer in {metrics['held_out_accuracy']:.1%} of "
            f"{metrics['held_out_pairs']:,} pairs; the likelier one in "
            f"{metrics['held_out_likelier']:.1%}, before {metrics['start_held_out_likelier']:.1%}"
        )
    typer.echo(f"next        afm chat {out}")
