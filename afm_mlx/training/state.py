"""Snapshots of a training run: everything that a resumed run needs to end with the same bits.

A snapshot is weights, optimizer state and the number of finished steps. Rows and random keys are
functions of (seed, step), so nothing else has a position.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from afm_mlx.artifact import write_text
from afm_mlx.decoder.weights import write_file
from afm_mlx.errors import AfmError, RunError
from afm_mlx.training.sharding import WHOLE, Layout

FILE_BYTES = 2**30
"""Most bytes in one file of a snapshot, but for a larger array. Ours."""


@dataclass
class State:
    """A training run after `step` finished steps."""

    step: int
    """Finished steps."""
    params: Any
    """Tree of trained weights, float32."""
    rule: Any
    """Tree of the update rule's state."""
    seconds: float = 0.0
    """Time spent so far, in seconds."""


def save_snapshot(folder: Path, state: State, layout: Layout = WHOLE, *, keep: int = 2) -> Path:
    """Write a snapshot: after a crash the old ones or the new one are whole. Keeps the newest.

    All ranks of `layout` take part, and those that lead `folder` write. Arrays that are cut are
    gathered for it, about `FILE_BYTES` at a time, so that any number of ranks can go on.

    Raises:
        RunError, OSError: it could not be written, as on a full disk; the old ones stay.
    """
    path = folder / f"step-{state.step:08d}"
    if layout.ranks.any(path.exists()):
        return path
    part = path.with_suffix(".part")
    writes = layout.ranks.leads(folder)
    if writes:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    try:
        files = 0
        for arrays in _in_files(state, layout):
            files += 1
            if writes:
                write_file(part / _file(files), arrays)
        if writes:
            facts = {"step": state.step, "seconds": state.seconds, "files": files}
            write_text(part / "state.json", json.dumps(facts))
    except (AfmError, OSError):
        shutil.rmtree(part, ignore_errors=True)  # on a full disk it is only in the way
        raise
    if writes:
        part.rename(path)
        for old in sorted(folder.glob("step-*[0-9]"))[:-keep]:
            shutil.rmtree(old)
    layout.ranks.wait()  # or one that stops now could end the others before the file is whole
    return path


def load_snapshot(folder: Path, layout: Layout = WHOLE) -> State | None:
    """The newest snapshot in `folder` that every rank has, or `None`; of arrays, the rank's parts.

    Raises:
        RunError: it is damaged.
    """
    found = {path.name: path for path in folder.glob("step-*[0-9]")}
    everywhere = [set(json.loads(text)) for text in layout.ranks.all_texts(json.dumps([*found]))]
    name = max(set.intersection(*everywhere), default=None)
    if name is None:
        return None
    newest = found[name]
    try:
        facts = json.loads((newest / "state.json").read_text())
        flat: dict[str, mx.array] = {}
        for number in range(1, facts.get("files", 1) + 1):
            arrays: Any = mx.load(str(newest / _file(number)))
            for path in list(arrays):  # one whole array at a time is in memory
                flat[path] = layout.part_of(path, arrays.pop(path))
                mx.eval(flat[path])
        tree = tree_unflatten(list(flat.items()))
        state = State(facts["step"], tree["params"], tree["rule"], facts["seconds"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"snapshot {newest} is damaged: {error}", hint=f"delete {newest}; the one before serves"
        ) from error
    return state


def _in_files(state: State, layout: Layout) -> Iterator[dict[str, mx.array]]:
    """The whole arrays of a state, as many at a time as go into one file."""
    flat: Any = tree_flatten({"params": state.params, "rule": state.rule})
    arrays: dict[str, mx.array] = {}
    for path, part in flat:
        array = layout.whole_of(path, part)
        mx.eval(array)
        if arrays and sum(each.nbytes for each in arrays.values()) + array.nbytes > FILE_BYTES:
            yield arrays
            arrays = {}
        arrays[path] = array
    yield arrays


def _file(number: int) -> str:
    return "state.safetensors" if number == 1 else f"state-{number:05d}.safetensors"


def step_key(seed: int, step: int) -> mx.array:
    """Random key of one step: the same however often the run was interrupted."""
    return mx.random.key(seed << 32 | step)
