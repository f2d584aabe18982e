"""Models that are finished already: stages `base` and `teacher` link to them, and copy nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from afm_mlx.artifact import Inputs
from afm_mlx.decoder.checkpoint import read_shape
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.zoo import resolve_model


def run(
    recipe: Recipe, inputs: Inputs, out: Path, progress: Progress, *, word: str
) -> dict[str, Any]:
    """Make `out`/model a link to the model that `word` stands for.

    Raises:
        ModelError: there is none, or it is not one that our decoder can be.
    """
    runs = out.parent.parent
    found = resolve_model(word, runs=runs, say=progress.say)
    shape = read_shape(found.path)
    progress.say(f"  {found.said or found.path}")
    link(out / "model", found.path)
    return {"model": word, "num_layers": shape.num_layers, "width": shape.intermediate_size}


def tokenizer(
    recipe: Recipe, inputs: Inputs, out: Path, progress: Progress, *, of: str
) -> dict[str, Any]:
    """Make `out`/tokenizer a link to the model of stage `of`, which has tokenizer files."""
    link(out / "tokenizer", inputs[of] / "model")
    return {"from": of}


def link(place: Path, folder: Path) -> None:
    """A link at `place`; one that an interrupted run has left is replaced."""
    place.unlink(missing_ok=True)
    place.symlink_to(folder.resolve(), target_is_directory=True)
