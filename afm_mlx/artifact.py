"""A stage's output folder: whole or absent, and never changed after it is published.

    runs/<recipe>/
        core/             published: manifest.json says what ran
        core.part/        in the making; an interrupted run goes on from here
        set-aside/        results that other settings replaced; delete them when you like

A folder is published by one rename. Its fingerprint is a hash of the stage's settings, its code
version and its parents' fingerprints: as long as that is unchanged, so is the result.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afm_mlx.errors import RunError

Inputs = Mapping[str, Path]
"""Published folder of each parent stage, by the stage's name."""

MANIFEST = "manifest.json"
SNAPSHOTS = "snapshots"
LOG = "metrics.jsonl"
CARD = ".card.json"
_CLAIM = "fingerprint"


def fingerprint(
    stage: str, *, version: int, settings: Mapping[str, Any], parents: Mapping[str, str]
) -> str:
    """Hash of all that decides a stage's result, as 64 hexadecimal digits.

    Args:
        stage: name of the stage.
        version: version of the stage's code; raised when the same settings give another result.
        settings: the resolved settings that the stage reads, ready for JSON.
        parents: fingerprint of each stage that it reads from.
    """
    facts = {"stage": stage, "version": version, "settings": settings, "parents": parents}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What ran in a published folder; `None` when nothing is published there.

    Raises:
        RunError: the manifest is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return manifest if isinstance(manifest["fingerprint"], str) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{folder / MANIFEST} is damaged", hint=f"delete {folder}, and run again"
        ) from None


def work_folder(folder: Path) -> Path:
    """Where `folder` is made before it is published."""
    return folder.with_name(f"{folder.name}.part")


def in_the_making(folder: Path, wanted: str) -> bool:
    """Whether an interrupted run has left the same result half made."""
    claim = work_folder(folder) / _CLAIM
    return claim.exists() and claim.read_bytes() == wanted.encode()


def open_work(folder: Path, wanted: str) -> Path:
    """The folder in the making: as it was left for the same fingerprint, else empty."""
    work = work_folder(folder)
    if in_the_making(folder, wanted):
        return work
    if work.exists():
        _set_aside(work, folder.name)
    work.mkdir(parents=True)
    write_text(work / _CLAIM, wanted)
    return work


def drop_if_empty(work: Path) -> None:
    """Delete a folder in the making in which nothing has been made yet."""
    if work.is_dir() and _is_empty(work):
        shutil.rmtree(work)


def publish(work: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Rename `work`, with its manifest, to `folder`; an older result there is set aside."""
    write_text(work / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    if folder.exists():
        _set_aside(folder, folder.name)
    work.rename(folder)
    _sync(folder.parent)
    # Only now: a run that was killed a moment earlier still needs them.
    shutil.rmtree(folder / SNAPSHOTS, ignore_errors=True)


def contents(folder: Path, pattern: str = "*") -> str:
    """Hash of the files in a folder and below whose names match, as 64 hexadecimal digits.

    Links are followed. When and how fast a result was made is left out.
    """
    whole = hashlib.sha256()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(fnmatch.filter(files, pattern)):
            if name in (MANIFEST, LOG) or name.endswith(CARD):
                continue
            path = Path(place, name)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{digest} {path.relative_to(folder).as_posix()}\n".encode())
    return whole.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a small file: after a crash the old text or the new one is there, whole."""
    part = path.with_name(f"{path.name}.part")
    with writing(part), part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let an `OSError` name the file that was written: a full disk comes without a name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """A path to make a folder at, which becomes `out` at the end: whole or not at all.

    `out` must not exist. It is made beside, in a folder of a new name, which an error deletes.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f"{out.name}-", suffix=".part", dir=out.parent))
    try:
        yield beside / out.name
        (beside / out.name).rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder, so that two processes never write to it at once.

    Raises:
        RunError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is running in {folder}",
                hint="wait for it, or name another folder",
            ) from None
        yield


def _set_aside(folder: Path, name: str) -> None:
    """Move a folder out of the way, under a name that is free."""
    if _is_empty(folder):
        shutil.rmtree(folder)
        return
    shelf = folder.parent / "set-aside"
    shelf.mkdir(exist_ok=True)
    number = 1
    while (place := shelf / f"{name}-{number}").exists():
        number += 1
    folder.rename(place)


def _is_empty(work: Path) -> bool:
    """Whether a folder in the making holds nothing but its claim, or a half written one."""
    return all(path.name in (_CLAIM, f"{_CLAIM}.part") for path in work.iterdir())


def _sync(folder: Path) -> None:
    """Make a rename survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
