"""Clean: take the documents of every source through the steps of [clean]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from afm_mlx.artifact import Inputs
from afm_mlx.corpus.clean import clean_sources
from afm_mlx.errors import RecipeError
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Leave the clean records of each source in `out`/NAME. What is finished is kept.

    Raises:
        DataError: a source or a step cannot be read, or nothing is left of a source.
    """
    if recipe.clean is None:
        raise RecipeError(f"recipe '{recipe.name}' has no [clean]")
    metrics = clean_sources(recipe.data, recipe.clean, out, told=progress.status)
    for name, counts in metrics["sources"].items():
        progress.say(f"  {name}: {_summary(counts)}")
    return metrics


def _summary(counts: dict[str, Any]) -> str:
    """One source in one line."""
    most = sorted(counts["dropped"].items(), key=lambda item: -item[1])
    dropped = ", ".join(f"{count:,} {rule}" for rule, count in most)
    skipped = ", ".join(f"{count:,} {why}" for why, count in counts["skipped"].items())
    return (
        f"{counts['out']:,} of {counts['in']:,} documents left, "
        f"{counts['bytes_out'] / 1e6:,.1f} of {counts['bytes_in'] / 1e6:,.1f} MB"
        + (f"; dropped: {dropped}" if dropped else "")
        + (f"; skipped: {skipped}" if skipped else "")
    )
