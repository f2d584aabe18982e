"""afm doctor: what this machine is and has."""

from __future__ import annotations

from pathlib import Path

import typer

from .options import JsonFlag, RunsFlag


def doctor(runs: RunsFlag = Path("runs"), json_: JsonFlag = False) -> None:
    """Show machine, device, memory, speed, packages, and which recipes fit."""
    import json

    from afm_mlx.planning.doctor import examine, format_report

    report = examine(runs)
    typer.echo(json.dumps(report.as_json(), indent=2) if json_ else format_report(report))
    if report.mlx_error:
        raise typer.Exit(1)
