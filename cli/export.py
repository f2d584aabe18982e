"""`afm export`: a model for another program, verified against the model it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .models_io import find_model
from .options import RUNS, JsonFlag, ModelArgument, OutFlag, RunsFlag
from .terminal import tell

if TYPE_CHECKING:
    from afm_mlx.export.publish import Exported


def _list_targets(wanted: bool) -> None:
    if not wanted:
        return
    from afm_mlx.export.targets import MODULES, find_target

    for name in MODULES:
        target = find_target(name)
        settings = ", ".join(
            f"{key}={field.get_default()}" for key, field in target.section.model_fields.items()
        )
        typer.echo(f"{name:14}{target.about} ({settings})")
    raise typer.Exit


def export(
    model: ModelArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="TARGET", help="What for; `afm export --list` names the targets."
        ),
    ],
    out: OutFlag,
    adapter: Annotated[
        list[str],
        typer.Option(
            metavar="ADAPTER",
            help="Folder or name of an adapter to export with the model; none for the model "
            "itself. Can be repeated where the target keeps adapters apart.",
            show_default="the one that the model is used with",
        ),
    ] = [],
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a setting of the target. Can be repeated."
        ),
    ] = [],
    list_: Annotated[
        bool,
        typer.Option(
            "--list",
            callback=_list_targets,
            is_eager=True,
            help="Name the targets and their settings, and stop.",
        ),
    ] = False,
    json_: JsonFlag = False,
    runs: RunsFlag = RUNS,
) -> None:
    """Write a model for another program, and verify that it says the same there."""
    from afm_mlx.decoder.adapters import NONE, base_name, default_adapter
    from afm_mlx.decoder.checkpoint import read_shape
    from afm_mlx.export.publish import export_model
    from afm_mlx.export.targets import Source, find_target, read_settings
    from afm_mlx.recipe import read_assignments
    from afm_mlx.zoo import resolve_adapter

    target = find_target(to)
    settings = read_settings(target, read_assignments(set_))
    folder = find_model(model, runs)
    adapters = [resolve_adapter(each, folder) for each in adapter if each != NONE]
    if not adapter and (default := default_adapter(folder)) is not None:
        adapters = [default]
    for each in adapters:
        tell(f"adapter: {each}")
    source = Source(folder, _name(model, base_name(folder)), read_shape(folder), tuple(adapters))
    exported = export_model(source, target, out, settings, say=tell)
    if json_:
        typer.echo(json.dumps(exported.to_json(), indent=2))
    else:
        _show(exported)


def _name(word: str, folder_name: str) -> str:
    """What a file of the model is called: a short word as it was typed, else its folder's name."""
    if Path(word).is_dir():
        return folder_name.replace("/", "-")
    return word.removesuffix(".gguf").rpartition("/")[2]


def _show(exported: Exported) -> None:
    from afm_mlx.export.verify import table

    typer.echo(f"folder      {exported.folder}")
    for name, each in exported.comparisons.items():
        stands_in = ", standing in for the target's own runtime" if each.is_stand_in else ""
        typer.echo(f"adapter     {name}")
        typer.echo(f"verified    with {each.runtime}{stands_in}")
        typer.echo()
        typer.echo(table(each))
        typer.echo()
    if (cost := exported.rounding) is not None:
        found = cost.all
        typer.echo(
            f"rounding    cosine {found.cosine:.6f} to the model at worst, the same likeliest "
            f"token at {found.same / found.steps:.1%} of {found.steps:,} steps"
        )
    for size in exported.sizes:
        planned = "" if size.planned_bytes is None else f"planned {size.planned_bytes:>15,}"
        typer.echo(f"{size.component:12}{size.bytes:>15,} bytes  {planned}".rstrip())
    typer.echo(f"{'all':12}{sum(size.bytes for size in exported.sizes):>15,} bytes")
