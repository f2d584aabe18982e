"""`--hosts`: the same command on several machines, or several times on this one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from .terminal import show_error

OPTION = "--hosts"


def hand_over(context: typer.Context, hosts: str | None) -> None:
    """Where `--hosts` is given, run this command once for each rank, and end as they do."""
    if hosts is None or context.resilient_parsing:
        return
    from afm_mlx.launch.hosts import read_hosts
    from afm_mlx.launch.processes import run

    words = context.find_root().obj
    ending = run(read_hosts(hosts), without_hosts(sys.argv[1:] if words is None else words))
    if ending.message:
        show_error(ending.message, ending.hint)
    raise typer.Exit(ending.code)


def without_hosts(words: Sequence[str]) -> list[str]:
    """A command line without `--hosts` and its value."""
    kept: list[str] = []
    after = False
    for word in words:
        if not after and word != OPTION and not word.startswith(f"{OPTION}="):
            kept.append(word)
        after = word == OPTION and not after
    return kept
