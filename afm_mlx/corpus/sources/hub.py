"""Data sets of the Hugging Face hub: pinned to a commit, fetched file by file as they are read.

huggingface_hub keeps the files in its cache, goes on with a download that was interrupted, and
reads from the cache where there is no network (HF_HUB_OFFLINE=1 insists on it).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afm_mlx.artifact import write_text
from afm_mlx.errors import DataError
from afm_mlx.settings.sections import Source

PREFIX = "hub:"
PINS = "pinned.json"
"""Name of the file with the commits that a stage reads."""

_PATH = re.compile(r"hub:(?P<set>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSet:
    """A data set, at a revision."""

    name: str
    """ORG/NAME."""
    revision: str
    """A commit, a branch or a tag."""
    given_as: str
    """What a user calls the place where the set is named, such as `data.web.path`; for errors."""


def parse_hub(path: str, given_as: str, *, files: str = "") -> HubSet:
    """Read `hub:ORG/NAME` or `hub:ORG/NAME@REVISION`.

    Args:
        path: what is read.
        given_as: as of `HubSet`.
        files: the setting that chooses among the set's files; "" where there is none.

    Raises:
        DataError: it is written otherwise.
    """
    if not (found := _PATH.fullmatch(path)):
        raise DataError(
            f"{given_as}: '{path}' is not hub:ORG/NAME",
            hint="for one revision write hub:ORG/NAME@REVISION"
            + (f"; files go to {files}" if files else ""),
        )
    return HubSet(found["set"], found["revision"] or "main", given_as)


def set_of_source(name: str, source: Source) -> HubSet:
    """The set of the source that is called so. Raises DataError as `parse_hub`."""
    return parse_hub(source.path, f"data.{name}.path", files=f"data.{name}.files")


def pin_source(name: str, source: Source) -> Source:
    """The source at the commit that its revision stands for now; other sources as they are.

    Raises:
        DataError: the hub has no such set or revision, or there is neither network nor cache.
    """
    if not source.path.startswith(PREFIX):
        return source
    wanted = set_of_source(name, source)
    if _COMMIT.fullmatch(wanted.revision):
        return source
    commit = _snapshot(wanted).name
    return source.model_copy(update={"path": f"{PREFIX}{wanted.name}@{commit}"})


def pinned_sources(sources: Mapping[str, Source], pins: Path) -> dict[str, Source]:
    """All sources, those of the hub at the commits that `pins` holds, else at today's.

    Args:
        sources: by name.
        pins: a file that `keep_pins` wrote, so that what goes on later reads the same; may be
            missing.

    Raises:
        DataError: as `pin_source`.
    """
    paths: dict[str, str] = json.loads(pins.read_text()) if pins.exists() else {}
    return {
        name: source.model_copy(update={"path": paths[name]})
        if name in paths
        else pin_source(name, source)
        for name, source in sources.items()
    }


def keep_pins(sources: Mapping[str, Source], pins: Path) -> None:
    """Write the paths of pinned sources of the hub to a file, if there are any."""
    if paths := hub_paths(sources):
        write_text(pins, json.dumps(paths, indent=1) + "\n")


def hub_paths(sources: Mapping[str, Source]) -> dict[str, str]:
    """Paths of those sources that are on the hub."""
    on_hub = {name: one.path for name, one in sources.items() if one.path.startswith(PREFIX)}
    return dict(sorted(on_hub.items()))


def list_hub_files(wanted: HubSet) -> list[str]:
    """Paths of a set's files, in the order in which a folder with them is read.

    Raises:
        DataError: as `pin_source`.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    folder = _snapshot(wanted)
    try:
        tree = get_cached_repo_tree(wanted.name, repo_type="dataset", revision=folder.name)
        paths = [file.path for file in tree]
    except CachedRepoTreeNotFoundError:  # a cache that was filled without a listing
        files = (path for path in folder.rglob("*") if path.is_file())
        paths = [path.relative_to(folder).as_posix() for path in files]
    visible = (path for path in paths if not path.startswith(".") and "/." not in path)
    return sorted(visible, key=_order_in_folder)


def fetch_hub_file(wanted: HubSet, path: str) -> Path:
    """A file of the set on this machine: from the cache, else fetched now.

    Raises:
        DataError: it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    with _explained(wanted):
        found = hf_hub_download(
            wanted.name,
            path,
            repo_type="dataset",
            revision=wanted.revision,
            tqdm_class=_bar(hidden=not sys.stderr.isatty()),
        )
    return Path(found)


def _order_in_folder(path: str) -> list[tuple[bool, str]]:
    """As `list_files`: the files of a folder, then its folders."""
    *folders, file = path.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def _snapshot(wanted: HubSet) -> Path:
    """The set's folder in the cache, called as its commit; with its listing, and hardly a file."""
    from huggingface_hub import snapshot_download

    with _explained(wanted):
        found = snapshot_download(
            wanted.name,
            repo_type="dataset",
            revision=wanted.revision,
            allow_patterns=[".gitattributes"],  # every set has it, and it is small
            tqdm_class=_bar(hidden=True),
        )
    return Path(found)


def _bar(*, hidden: bool) -> type[Any]:
    """huggingface_hub's progress bar, which asks for no terminal."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **(settings | ({"disable": True} if hidden else {})))

    return Bar


@contextmanager
def _explained(wanted: HubSet) -> Iterator[None]:
    """Make errors of huggingface_hub ours."""
    from huggingface_hub import errors

    at = f"{wanted.given_as}: hub set {wanted.name}"
    try:
        yield
    except errors.GatedRepoError:
        raise DataError(
            f"{at} is gated: its owners decide who may read it",
            hint="ask for access on its page, then type hf auth login",
        ) from None
    except errors.RepositoryNotFoundError:
        raise DataError(
            f"{at} is not on the hub, or is private",
            hint=f"check {wanted.given_as}; for a private set, type hf auth login",
        ) from None
    except errors.RevisionNotFoundError:
        raise DataError(
            f"{at} has no revision '{wanted.revision}'", hint=f"check {wanted.given_as}"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, errors.OfflineModeIsEnabled):
            raise DataError(
                f"{at} is not all in the cache of huggingface_hub, and the hub is switched off",
                hint="unset HF_HUB_OFFLINE, or give a folder with the set's files",
            ) from None
        first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        first = re.sub(r"^\[Errno -?\d+\] ", "", first)
        raise DataError(
            f"{at} cannot be read from the hub: {first}",
            hint=f"check the network, or give a folder with the set's files as {wanted.given_as}",
        ) from None
