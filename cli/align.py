"""afm sft: teach a model to answer as it is shown in conversations."""

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
    RunsFlag,
    SetFlag,
    SkipBadFlag,
)
from .shrink import run_own_model


def sft(
    model: ModelArgument,
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Conversations: JSONL, one a line.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to create.")
    ] = None,
    hosts: HostsFlag = None,
    skip_bad: SkipBadFlag = False,
    show_masks: Annotated[
        bool,
        typer.Option("--show-masks", help="Print the first conversation as the model sees it."),
    ] = False,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Teach a model to say what the assistant says in conversations."""
    from afm_mlx import own_model

    if show_masks:
        _show_masks(find_model(model, runs), data, skip_bad)
        return
    if out is None:
        raise typer.BadParameter("needed, it is the folder to create", param_hint="--out")
    own_model.check_out(out)
    recipe = own_model.sft_recipe(
        find_model(model, runs), data, skip_bad=skip_bad, assignments=set_
    )
    metrics = run_own_model(recipe, "sft", out, log_json, json_)
    if json_:
        return
    typer.echo(f"model       {out}")
    if "held_out_nats" in metrics:
        typer.echo(
            f"held out    {metrics['held_out_nats']:.4f} nats per assistant token, "
            f"before {metrics['start_held_out_nats']:.4f}"
        )
    typer.echo(f"next        afm chat {out}")


def _show_masks(folder: Path, data: Path, skip_bad: bool) -> None:
    """Print a file's first conversation; what is trained on is marked."""
    from afm_mlx.errors import DataError
    from afm_mlx.text.conversations import picture, read_conversations, render_turns
    from afm_mlx.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.open(folder)
    conversation = next(read_conversations(data, skip_bad=skip_bad), None)
    if conversation is None:
        raise DataError(f"no conversation in {data}")
    for rendered in render_turns(conversation, tokenizer):
        typer.echo(
            f"{conversation.where}: {len(rendered.ids):,} tokens, {sum(rendered.mask):,} learned"
        )
        typer.echo(picture(rendered, tokenizer))
