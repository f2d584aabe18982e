"""afm recover: win back what quantization lost."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

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
)
from .shrink import KindFlag, TextsFlag, run_own_model, source_kind


def recover(
    model: ModelArgument,
    data: TextsFlag,
    out: OutFlag,
    hosts: HostsFlag = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The 16-bit model that was quantized. With qat: MODEL itself.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        Literal["lora", "tables", "qat"],
        typer.Option(
            help="Train an adapter, the tables' values, or all weights of a 16-bit model in 2 bits."
        ),
    ] = "lora",
    rank: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Rank of the adapter.", show_default="16"),
    ] = None,
    kind: KindFlag = None,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Train a quantized model to predict what the model predicted before."""
    from afm_mlx import own_model
    from afm_mlx.settings.palette import RecoverMethod

    own_model.check_out(out)
    recipe = own_model.recover_recipe(
        find_model(model, runs),
        data,
        teacher=None if teacher is None else find_model(teacher, runs),
        method=RecoverMethod(method),
        rank=rank,
        kind=source_kind(kind),
        assignments=set_,
    )
    metrics = run_own_model(recipe, "recover", out, log_json, json_)
    if json_:
        return
    typer.echo(f"model       {out}")
    for number, found in metrics.get("ranks", {"": metrics}).items():
        typer.echo(f"{f'rank {number}' if number else 'held out':12}{_found(found, metrics)}")
    typer.echo(f"next        {shlex.join(['afm', 'chat', str(out)])}")


def _found(found: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Divergence and loss on held-out texts, and what they were."""
    if "held_out_kl" not in found:
        return "no texts were held out"
    before = metrics.get("base_held_out_kl", metrics.get("start_held_out_kl"))
    return (
        f"KL {found['held_out_kl']:.4f}, before {before:.4f}: {found['held_out_won_back']:.0%} won "
        f"back; {found['held_out_nats']:.4f} nats per token, 16-bit "
        f"{metrics['teacher_held_out_nats']:.4f}"
    )
