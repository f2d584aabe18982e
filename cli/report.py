"""afm report: what a run did, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import RUNS, RunsFlag


def report(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE_OR_RUN", help="Recipe name, or a run's folder.", show_default=False
        ),
    ],
    other: Annotated[
        str | None, typer.Argument(help="A second one, to compare.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write.", show_default="report.html in the run's folder"
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write Markdown, not HTML.")] = False,
    runs: RunsFlag = RUNS,
) -> None:
    """Write a page on a run, or on two beside each other, from their folders alone."""
    from afm_mlx.evaluation.report.write import find_run, write

    folder = find_run(run, runs)
    second = find_run(other, runs) if other is not None else None
    for line in write(folder, second, out=out, markdown=markdown):
        typer.echo(line)
