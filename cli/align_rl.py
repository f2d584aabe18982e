"""afm rl, afm reject, afm itec: models learn from their own answers, alone or as a committee."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

PromptsFlag = Annotated[
    Path,
    typer.Option(
        "--data", metavar="FILE", help="Prompts: JSONL of conversations, with a check each."
    ),
]


def rl(
    model: ModelArgument,
    data: PromptsFlag,
    out: OutFlag,
    hosts: HostsFlag = None,
    skip_bad: SkipBadFlag = False,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Train a model on its own answers: better ones get likelier."""
    from afm_mlx import own_model

    own_model.check_out(out)
    recipe = own_model.rl_recipe(find_model(model, runs), data, skip_bad=skip_bad, assignments=set_)
    metrics = run_own_model(recipe, "rl", out, log_json, json_)
    if json_:
        return
    typer.echo(f"model       {out}")
    if "held_out_right" in metrics:
        typer.echo(
            f"held out    {metrics['held_out_right']:.1%} right, "
            f"before {metrics['start_held_out_right']:.1%}"
        )
    typer.echo(f"next        afm chat {out}")


def reject(
    model: ModelArgument,
    data: PromptsFlag,
    out: OutFlag,
    skip_bad: SkipBadFlag = False,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Let a model answer several times, and keep the best answers that pass their check."""
    from afm_mlx import own_model

    own_model.check_out(out)
    recipe = own_model.reject_recipe(
        find_model(model, runs), data, skip_bad=skip_bad, assignments=set_
    )
    metrics = run_own_model(recipe, "reject", out, log_json, json_)
    if json_:
        return
    typer.echo(f"kept        {metrics['kept']:,} of {metrics['prompts']:,} prompts' answers")
    typer.echo(f"answers     {metrics['answers']:,}, {metrics['right']:.1%} right")
    typer.echo(f"file        {out / 'conversations.jsonl'}")
    typer.echo(f"next        afm sft {model} --data {out / 'conversations.jsonl'} --out DIR")


def itec(
    model: ModelArgument,
    data: PromptsFlag,
    out: OutFlag,
    comparisons: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Comparisons by people, for the reward model."),
    ] = None,
    skip_bad: SkipBadFlag = False,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Hold rounds: a committee answers, the best answers teach the next models."""
    from afm_mlx import own_model

    own_model.check_out(out)
    recipe = own_model.itec_recipe(
        find_model(model, runs),
        data,
        comparisons=comparisons,
        skip_bad=skip_bad,
        assignments=set_,
    )
    metrics = run_own_model(recipe, "itec", out, log_json, json_)
    if json_:
        return
    typer.echo(f"model       {out}")
    typer.echo(
        f"held out    best member {metrics['best_member']:.1%}, "
        f"committee {metrics['committee']:.1%}, in {len(metrics['rounds'])} rounds"
    )
    typer.echo(f"rounds      {out / 'rounds.md'}")
    typer.echo(f"next        afm chat {out}")
