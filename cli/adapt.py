"""afm adapt, afm adapters: small changes to a frozen model, one for each feature."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

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
from .terminal import tell

ADAPTERS = Path("adapters")
"""Where adapters are made and looked for, unless told."""

HASH_DIGITS = 8
"""Digits of a hash that are shown."""

app = typer.Typer(no_args_is_help=True, help="Look at adapters, or melt one into its model.")


def adapt(
    model: ModelArgument,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call the adapter.")],
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Conversations: JSONL, one a line.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder to create.", show_default="adapters/NAME"
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank",
            min=1,
            metavar="N",
            help="Rank of the factors.",
            show_default="the recovery adapter's, else 16",
        ),
    ] = None,
    hosts: HostsFlag = None,
    skip_bad: SkipBadFlag = False,
    set_: SetFlag = [],
    runs: RunsFlag = RUNS,
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Train an adapter on conversations: a small change to a model, which stays as it is."""
    from afm_mlx import own_model

    out = out or ADAPTERS / name
    own_model.check_out(out)
    recipe = own_model.adapt_recipe(
        find_model(model, runs), data, name=name, rank=rank, skip_bad=skip_bad, assignments=set_
    )
    metrics = run_own_model(recipe, f"adapter-{name}", out, log_json, json_)
    if json_:
        return
    typer.echo(f"adapter     {out}, rank {metrics['rank']}, {_bytes(out) / 1e6:,.1f} MB")
    if "held_out_nats" in metrics:
        typer.echo(
            f"held out    {metrics['held_out_nats']:.4f} nats per assistant token, "
            f"before {metrics['start_held_out_nats']:.4f}"
        )
    typer.echo(f"next        {shlex.join(['afm', 'chat', model, '--adapter', str(out)])}")


@app.command("list")
def list_(
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Folder of adapters, or a model.")
    ] = str(ADAPTERS),
    json_: JsonFlag = False,
    runs: RunsFlag = RUNS,
) -> None:
    """List adapters: name, rank, size, base, when and from what they were made."""
    from afm_mlx.decoder.adapters import find_adapters
    from afm_mlx.errors import ModelError
    from afm_mlx.zoo import beside_model

    place = Path(folder).expanduser()
    if not place.is_dir() and folder != str(ADAPTERS):
        place = find_model(folder, runs)
    rows, damaged = [], []
    for path in [*find_adapters(place), *beside_model(place)]:
        try:
            rows.append({"folder": str(path), "bytes": _bytes(path), **_known(path)})
        except ModelError as error:
            damaged.append(str(error))
    if json_:
        typer.echo(json.dumps(rows))
    elif rows:
        _table(rows)
    else:
        tell(f"no adapters in {place}; afm adapt makes one")
    for line in damaged:
        tell(line)


@app.command()
def show(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Its folder, or its name.")],
    json_: JsonFlag = False,
) -> None:
    """Say what an adapter is, and what it needs."""
    from afm_mlx.artifact import read_manifest

    if not adapter.is_dir() and (ADAPTERS / adapter).is_dir():
        adapter = ADAPTERS / adapter
    facts = _known(adapter)
    metrics = (read_manifest(adapter) or {}).get("metrics", {})
    if json_:
        typer.echo(json.dumps(facts | {"bytes": _bytes(adapter), "metrics": metrics}))
        return
    typer.echo(f"adapter     {facts['name']}, rank {facts['rank']}, alpha {facts['alpha']:g}")
    typer.echo(f"base        {_base(facts)}")
    typer.echo(f"size        {_bytes(adapter) / 1e6:,.1f} MB")
    typer.echo(f"made        {facts['created'] or 'when is not known'}, from {_start(facts)}")
    typer.echo(f"data        {', '.join(facts['data']) or 'not known'}")
    if "held_out_nats" in metrics:
        typer.echo(
            f"held out    {metrics['held_out_nats']:.4f} nats per assistant token, "
            f"before {metrics['start_held_out_nats']:.4f}"
        )


@app.command()
def fuse(
    model: ModelArgument,
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Its folder, or its name.")],
    out: OutFlag,
    runs: RunsFlag = RUNS,
) -> None:
    """Melt an adapter into a dense model: one folder that needs no adapter."""
    from afm_mlx.decoder.adapters import fuse as fuse_adapter
    from afm_mlx.own_model import check_out
    from afm_mlx.zoo import resolve_adapter

    check_out(out)
    folder = find_model(model, runs)
    fuse_adapter(folder, resolve_adapter(adapter, folder), out)
    typer.echo(f"model       {out}")
    typer.echo(f"next        {shlex.join(['afm', 'chat', str(out)])}")


def _known(adapter: Path) -> dict[str, Any]:
    from afm_mlx.decoder.adapters import read_adapter_facts

    return asdict(read_adapter_facts(adapter))


def _base(facts: dict[str, Any]) -> str:
    """What a base is called, and how its hash begins."""
    return f"{facts['base_name']} ({facts['base'][:HASH_DIGITS] or 'not known'})".strip()


def _start(facts: dict[str, Any]) -> str:
    if facts["parent"]:
        return f"adapter {facts['parent']}"
    return "nothing" if facts["base"] else "another program"


def _bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _table(rows: list[dict[str, Any]]) -> None:
    """One adapter a line."""
    head = ("name", "rank", "MB", "base", "made", "data")
    lines = [head] + [
        (
            row["name"],
            str(row["rank"]),
            f"{row['bytes'] / 1e6:,.1f}",
            _base(row),
            row["created"][:10],
            ", ".join(Path(path).name for path in row["data"]),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if title in ("rank", "MB") else cell.ljust(width)
            for title, cell, width in zip(head, line, widths, strict=True)
        ]
        typer.echo("  ".join(cells).rstrip())
