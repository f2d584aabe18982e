"""The files of a source: of a folder on this machine, or of a data set on the hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from afm_mlx.corpus.files import SUFFIXES, list_files
from afm_mlx.corpus.sources.hub import (
    PREFIX,
    fetch_hub_file,
    list_hub_files,
    pin_source,
    set_of_source,
)
from afm_mlx.corpus.sources.source_code import list_code
from afm_mlx.errors import DataError
from afm_mlx.settings.sections import Source, SourceKind


def locate(name: str, source: Source, skipped: Counter[str]) -> Iterator[tuple[str, Path]]:
    """Id and place of each file of a source, in order; those of the hub are fetched one by one.

    A set of the hub and a folder with the same files give the same ids in the same order. Checks
    at once what can be checked.

    Args:
        name: the source's name.
        source: its settings.
        skipped: gets folders that cannot be read.

    Raises:
        DataError: the path does not exist or holds no such files, or the hub does not give them.
    """
    if source.path.startswith(PREFIX):
        files = _on_the_hub(name, source)
    else:
        files = _in_folder(name, source, skipped)
    first = next(files, None)
    if first is None:
        endings = (
            "files of source code"
            if source.kind is SourceKind.CODE
            else f"files of kind {source.kind} ({', '.join(SUFFIXES[source.kind])})"
        )
        called = f" called {source.files}" if source.files else ""
        wrong = "path, kind and files" if source.files else "path and kind"
        raise DataError(
            f"data.{name}: {source.path} holds no {endings}{called}",
            hint=f"check data.{name}.{wrong}",
        )
    return _chain(first, files)


def local_root(source: Source) -> Path:
    """The path of a source that is a file or folder."""
    return Path(source.path).expanduser()


def _chain(first: tuple[str, Path], rest: Iterator[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    yield first
    yield from rest


def _in_folder(name: str, source: Source, skipped: Counter[str]) -> Iterator[tuple[str, Path]]:
    root = local_root(source)
    if not source.path or not root.exists():
        raise DataError(
            f"data.{name}: '{source.path}' does not exist", hint=f"check data.{name}.path"
        )
    found = (
        list_code(root, skipped)
        if source.kind is SourceKind.CODE
        else list_files(root, SUFFIXES[source.kind], skipped)
    )
    for file in found:
        below = (file.relative_to(root) if file != root else Path(file.name)).as_posix()
        if not source.files or fnmatchcase(below, source.files):
            # A name need not be UTF-8; an id must be, it goes into logs.
            yield below.encode("utf-8", "replace").decode(), file


def _on_the_hub(name: str, source: Source) -> Iterator[tuple[str, Path]]:
    wanted = set_of_source(name, pin_source(name, source))
    for path in list_hub_files(wanted):
        if path.lower().endswith(SUFFIXES[source.kind]) and (
            not source.files or fnmatchcase(path, source.files)
        ):
            yield path, fetch_hub_file(wanted, path)
