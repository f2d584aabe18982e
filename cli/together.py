"""`--hosts`: the same command on several machines, or several times on this one."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from afm_mlx.errors import AfmError

from .terminal import show_error, tell

OPTION = "--hosts"


class Ended(Exception):
    """A command ran on all ranks; all has been said."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


def hand_over(context: typer.Context, hosts: str | None) -> None:
    """Where `--hosts` is given, run this command once for each rank, and end as they do."""
    _hand_over(context, hosts, keyboard=False)


def hand_over_keyboard(context: typer.Context, hosts: str | None) -> None:
    """`hand_over` of a command that is talked with: rank 0 reads this process's stdin."""
    _hand_over(context, hosts, keyboard=True)


def _hand_over(context: typer.Context, hosts: str | None, *, keyboard: bool) -> None:
    words = context.find_root().obj
    if hosts is None or words is None:  # None: the command line is only looked at
        return
    from afm_mlx.launch.hosts import read_hosts
    from afm_mlx.launch.processes import run

    ending = run(read_hosts(hosts), without_hosts(words), keyboard=keyboard)
    if ending.message and ending.code == 130:
        tell(ending.message)
    elif ending.message:
        show_error(ending.message, ending.hint)
    raise Ended(ending.code)


def without_hosts(words: Sequence[str]) -> list[str]:
    """A command line without `--hosts` and its value."""
    kept: list[str] = []
    after = False
    for word in words:
        if not after and word != OPTION and not word.startswith(f"{OPTION}="):
            kept.append(word)
        after = word == OPTION and not after
    return kept


def follow_launcher() -> bool:
    """Whether this process is a rank; if so, it does from now on what its launcher asks."""
    from afm_mlx.launch import rank

    if is_rank := rank.is_rank():
        rank.follow()
    return is_rank


def end_for_another_rank(error: Exception) -> int:
    """The exit code for an error that another rank has caused; 0 where it is our own.

    Returns late where it may be another's: the launcher, who knows, ends this process before.
    """
    from afm_mlx.launch import rank

    if isinstance(error, typer.Abort | typer.Exit):  # RuntimeErrors, for Typer
        return 0
    lost = rank.is_from_another_rank(error)
    if lost and rank.was_asked_to_stop():
        tell(f"interrupted; {rank.AGAIN}")
        return 130
    if lost or isinstance(error, RuntimeError):
        rank.hold_back()
    if not lost or isinstance(error, AfmError):  # which has better words
        return 0
    show_error("another rank was lost", rank.AGAIN)
    return 2
