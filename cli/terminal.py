"""What goes to stderr: lines about the work, and errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from afm_mlx.progress import Progress


def tell(line: str) -> None:
    """Print a line about the work, not of the result."""
    _print(line, dim=True)


def show_error(message: str, hint: str = "", *, kind: str = "error") -> None:
    """Print what is wrong, one line each, and what to do."""
    for line in message.splitlines():
        _print(f"{kind}: {line}", fg="red")
    if hint:
        _print(f"hint: {hint}", fg="cyan")


def open_progress(log_json: Path | None) -> Progress:
    """Where a long job tells how it goes; on all ranks but one, nowhere."""
    from afm_mlx.progress import Progress, Silence
    from afm_mlx.ranks import joined

    return Progress(log_json=log_json) if joined().speaks else Silence()


def _print(line: str, **style: Any) -> None:
    """One styled line; plain where stderr is no terminal, or where NO_COLOR asks for it."""
    typer.secho(line, err=True, color=False if os.environ.get("NO_COLOR") else None, **style)
