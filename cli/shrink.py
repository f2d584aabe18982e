"""afm prune, afm distill: make a model narrower, and teach a model what another one knows."""

from __future__ import annotations

import shlex
from pathlib import Path
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
from .terminal import open_progress

TextsFlag = Annotated[
    Path, typer.Option("--data", metavar="PATH", help="Texts to train on: a file or a folder.")
]
KindFlag = Annotated[
    str | None,
    typer.Option(
        "--kind",
        help="text, markdown, jsonl, parquet, html or code.",
        show_default="by file ending",
    ),
]


def prune(
    model: ModelArgument,
    ffn: Annotated[
        int, typer.Option(min=1, metavar="N", help="Feed-forward units to keep in each layer.")
    ],
    data: TextsFlag,
    out: OutFlag,
    hosts: HostsFlag = None,
    method: Annotated[
        Literal["masks", "activation"],
        typer.Option(help="Learn which to keep, or take the most active ones without training."),
    ] = "masks",
    kind: KindFlag = None,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Make a model's feed-forward layers narrower, and keep the units that matter."""
    from afm_mlx import own_model
    from afm_mlx.settings.compression import PruneMethod

    own_model.check_out(out)
    recipe = own_model.prune_recipe(
        find_model(model, runs),
        data,
        width=ffn,
        method=PruneMethod(method),
        kind=source_kind(kind),
        assignments=set_,
    )
    metrics = run_own_model(recipe, "prune", out, log_json, json_)
    if json_:
        return
    typer.echo(f"model       {out}")
    typer.echo(f"parameters  {metrics['parameters']:,}")
    _show_held_out(metrics, "teacher")
    words = ["afm", "distill", str(out), "--teacher", model, "--data", str(data), "--out", "DIR"]
    typer.echo(f"next        {shlex.join(words)}")


def distill(
    student: ModelArgument,
    teacher: Annotated[
        str, typer.Option(metavar="MODEL", help="Who teaches: a model with the same tokenizer.")
    ],
    data: TextsFlag,
    out: OutFlag,
    hosts: HostsFlag = None,
    kind: KindFlag = None,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Train a model on what a larger one predicts."""
    from afm_mlx import own_model

    own_model.check_out(out)
    recipe = own_model.distill_recipe(
        find_model(student, runs),
        find_model(teacher, runs),
        data,
        kind=source_kind(kind),
        assignments=set_,
    )
    metrics = run_own_model(recipe, "core", out, log_json, json_)
    if json_:
        return
    typer.echo(f"model       {out}")
    _show_held_out(metrics, "base")


def _show_held_out(metrics: dict[str, Any], before: str) -> None:
    """Held-out loss, where texts were held out, and what it was of the model `before`."""
    if "held_out_nats" in metrics:
        typer.echo(
            f"held out    {metrics['held_out_nats']:.4f} nats per token, "
            f"before {metrics[f'{before}_held_out_nats']:.4f}"
        )


def source_kind(kind: str | None) -> Any:
    """The kind of texts that `--kind` names."""
    from afm_mlx.settings.sections import SourceKind

    kinds = [each for each in SourceKind if each is not SourceKind.WARC]  # which is cleaned first
    if kind is not None and kind not in kinds:
        raise typer.BadParameter(f"{kind} is not one of {', '.join(kinds)}", param_hint="--kind")
    return SourceKind(kind) if kind else None


def run_own_model(
    recipe: Any, stage: str, out: Path, log_json: Path | None, json_: bool
) -> dict[str, Any]:
    """Run the recipe; its metrics, which are printed with --json."""
    import json
    from contextlib import closing

    from afm_mlx import own_model

    try:
        with closing(open_progress(log_json)) as progress:
            manifest = own_model.run(recipe, stage, out, progress)
    except KeyboardInterrupt as error:  # Typer would drop what it says: where training saved
        raise typer.Abort(str(error) or "interrupted; the same command goes on") from None
    if json_:
        typer.echo(json.dumps(manifest))
    return dict(manifest["metrics"])
