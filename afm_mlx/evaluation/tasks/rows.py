"""Rows of a task's data: from files of this machine, or from a set of the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from afm_mlx.corpus.sources.hub import (
    PREFIX,
    HubSet,
    fetch_hub_file,
    list_hub_files,
    parse_hub,
)
from afm_mlx.corpus.sources.item_files import SUFFIXES, ItemRow, ending, read_rows
from afm_mlx.errors import DataError

_SHOWN = 40  # characters of a value that is no text; ours


def task_rows(task: str, data: str | Path, *, hub_files: str = "*") -> Iterator[ItemRow]:
    """Rows of a task, in an order that never changes.

    Args:
        task: its name, for messages.
        data: a file, a folder, or `hub:ORG/NAME` and `hub:ORG/NAME@REVISION`.
        hub_files: pattern of those files of the hub's set that hold the items; of these, those of
            unknown kinds are left out.

    Raises:
        DataError: the data is not there, or a row is broken.
    """
    if not str(data).startswith(PREFIX):
        yield from read_rows(Path(data).expanduser())
        return
    wanted = set_of_task(task, str(data))
    paths = [
        path
        for path in list_hub_files(wanted)
        if fnmatch(path, hub_files) and ending(Path(path)) in SUFFIXES
    ]
    if not paths:
        raise DataError(
            f"{data} has no file like {hub_files} that can be read",
            hint="download the set, and give its folder",
        )
    for path in paths:
        yield from read_rows(fetch_hub_file(wanted, path))


def set_of_task(task: str, data: str) -> HubSet:
    """The hub's set of a task's data. Raises DataError as `parse_hub`."""
    return parse_hub(data, f"the data of task {task}")


def text_field(row: ItemRow, names: Iterable[str]) -> str:
    """The first of these fields that a row has, which is a text.

    Raises:
        DataError: it has none, or something else than text.
    """
    wanted = list(names)
    name = next((name for name in wanted if name in row.row), wanted[0])
    value = row.field(name)
    if isinstance(value, str) and value.strip():
        return value
    what = "is empty" if isinstance(value, str) else f"is no text but {value!r:.{_SHOWN}}"
    raise row.broken(f"'{name}' {what}")
