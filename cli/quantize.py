"""afm quantize: a model in tables, at the bits per weight that are asked for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from .models_io import find_model
from .options import RUNS, JsonFlag, LogJsonFlag, ModelArgument, OutFlag, RunsFlag, SetFlag
from .shrink import KindFlag, run_own_model, source_kind


def quantize(
    model: ModelArgument,
    out: OutFlag,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Texts to calibrate on: a file or a folder. Without: what the model writes.",
            show_default=False,
        ),
    ] = None,
    kind: KindFlag = None,
    bits_per_weight: Annotated[
        float, typer.Option(metavar="N", help="Average bits per weight, 2 to 4.")
    ] = 4.0,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Store a model's weights in small tables: 4 bits each, fewer where it hurts least."""
    from afm_mlx import own_model

    own_model.check_out(out)
    recipe = own_model.quantize_recipe(
        find_model(model, runs),
        texts=data,
        kind=source_kind(kind),
        bits_per_weight=bits_per_weight,
        assignments=set_,
    )
    metrics = run_own_model(recipe, "quantize", out, log_json, json_)
    if json_:
        return
    stored, widths = metrics["stored_bits"], metrics["share_by_bits"]
    shares = ", ".join(f"{share:.0%} at {bits}" for bits, share in widths.items())
    num_bytes = sum(file.stat().st_size for file in out.glob("model*.safetensors"))
    typer.echo(f"model       {out}")
    typer.echo(
        f"bits        {stored['linears']:.3f} per weight with tables ({shares}), "
        f"embedding {stored['embedding']:.2f}"
    )
    typer.echo(f"size        {num_bytes / 1e6:,.1f} MB, {stored['all']:.3f} bits per weight in all")
    if "held_out_kl" in metrics:
        typer.echo(
            f"held out    {metrics['held_out_nats']:.4f} nats per token, "
            f"before {metrics['base_held_out_nats']:.4f}; KL {metrics['held_out_kl']:.4f}"
        )
    texts = "TEXTS" if data is None else str(data)
    words = ["afm", "recover", str(out), "--teacher", model, "--data", texts, "--out", "DIR"]
    typer.echo(f"next        {shlex.join(words)}")
