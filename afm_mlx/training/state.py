"""Snapshots of a training run: everything that a resumed run needs to end with the same bits.

A snapshot is weights, optimizer state and the number of finished steps. Rows and random keys are
functions of (seed, step), so nothing else has a position.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from afm_mlx.artifact import write_text
from afm_mlx.decoder.weights import write_file
from afm_mlx.errors import AfmError, RunError


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


def save_snapshot(folder: Path, state: State, *, keep: int = 2) -> Path:
    """Write a snapshot: after a crash the old ones or the new one are whole. Keeps the newest.

    Raises:
        RunError, OSError: it could not be written, as on a full disk; the old ones stay.
    """
    path = folder / f"step-{state.step:08d}"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    arrays = dict(tree_flatten({"params": state.params, "rule": state.rule}))
    try:
        write_file(part / "state.safetensors", arrays)
        facts = {"step": state.step, "seconds": state.seconds}
        write_text(part / "state.json", json.dumps(facts))
    except (AfmError, OSError):
        shutil.rmtree(part, ignore_errors=True)  # on a full disk it is only in the way
        raise
    part.rename(path)
    for old in sorted(folder.glob("step-*[0-9]"))[:-keep]:
        shutil.rmtree(old)
    return path


def load_snapshot(folder: Path) -> State | None:
    """The newest snapshot in `folder`, or `None`.

    Raises:
        RunError: it is damaged.
    """
    newest = max(folder.glob("step-*[0-9]"), default=None)
    if newest is None:
        return None
    try:
        facts = json.loads((newest / "state.json").read_text())
        arrays: Any = mx.load(str(newest / "state.safetensors"))
        tree = tree_unflatten(list(arrays.items()))
        state = State(facts["step"], tree["params"], tree["rule"], facts["seconds"])
        mx.eval(state.params, state.rule)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"snapshot {newest} is damaged: {error}", hint=f"delete {newest}; the one before serves"
        ) from error
    return state


def step_key(seed: int, step: int) -> mx.array:
    """Random key of one step: the same however often the run was interrupted."""
    return mx.random.key(seed << 32 | step)
