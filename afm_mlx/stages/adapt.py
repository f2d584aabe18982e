"""To be replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from afm_mlx.artifact import Inputs
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe


def run(
    recipe: Recipe, inputs: Inputs, out: Path, progress: Progress, *, name: str
) -> dict[str, Any]:
    """To be replaced."""
    raise NotImplementedError
