"""Stages on a model of one's own: what `afm prune`, `afm distill` and `afm sft` do.

A recipe is made of the model, a file of data and a few settings, and the pipeline runs it in a
folder beside the result. So it resumes as every recipe does, and there is no second way to train.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afm_mlx import pipeline
from afm_mlx.artifact import write_text
from afm_mlx.corpus.clean import kind_of
from afm_mlx.decoder.checkpoint import read_shape
from afm_mlx.errors import ModelError
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe, load_section
from afm_mlx.settings import own_model as defaults
from afm_mlx.settings.compression import PruneMethod
from afm_mlx.settings.sections import SourceKind

NAME = "own"
"""Name of the recipe, and of the folder in the work folder."""


def prune_recipe(
    model: Path,
    texts: Path,
    *,
    width: int,
    method: PruneMethod = PruneMethod.MASKS,
    kind: SourceKind | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Recipe that narrows the feed-forward layers of the model in folder `model` to `width` units.

    Raises:
        ModelError: the folder holds no model of ours, or one that is not wider.
        RecipeError, DataError: an assignment is wrong, or there are no texts.
    """
    shape = read_shape(model)
    if not 0 < width < shape.intermediate_size:
        raise ModelError(
            f"{width:,} units are to be kept, and {model} has {shape.intermediate_size:,}",
            hint=f"--ffn with a number from 1 to {shape.intermediate_size - 1:,}",
        )
    row_tokens = min(defaults.ROW_TOKENS, shape.max_tokens)
    return _recipe(
        {
            "shape": shape.model_dump(mode="json") | {"intermediate_size": width},
            "data": _data(texts, kind),
            "teacher": {"model": str(model), "intermediate_size": shape.intermediate_size},
            "prune": defaults.PRUNE | {"row_tokens": row_tokens, "method": method.value},
        },
        assignments,
    )


def distill_recipe(
    student: Path,
    teacher: Path,
    texts: Path,
    *,
    kind: SourceKind | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Recipe that trains the model in folder `student` on what the one in `teacher` predicts.

    Raises:
        ModelError: a folder holds no model of ours.
        RecipeError, DataError: an assignment is wrong, or there are no texts.
    """
    shape, taught_by = read_shape(student), read_shape(teacher)
    row_tokens = min(defaults.ROW_TOKENS, shape.max_tokens, taught_by.max_tokens)
    return _recipe(
        {
            "base": str(student),
            "shape": shape.model_dump(mode="json"),
            "data": _data(texts, kind),
            "teacher": {"model": str(teacher)},
            "core": defaults.CORE | {"row_tokens": row_tokens},
            "distill": dict(defaults.DISTILL),
        },
        assignments,
    )


def sft_recipe(
    model: Path, conversations: Path, *, skip_bad: bool = False, assignments: Sequence[str] = ()
) -> Recipe:
    """Recipe that fine-tunes the model in folder `model` on a file of conversations.

    Raises:
        ModelError: the folder holds no model of ours.
        RecipeError: an assignment is wrong.
    """
    shape = read_shape(model)
    data = {defaults.CHATS: {"path": str(conversations.expanduser().resolve())}}
    row_tokens = min(defaults.CHAT_ROW_TOKENS, shape.max_tokens)
    return _recipe(
        {
            "base": str(model),
            "shape": shape.model_dump(mode="json"),
            "sft": defaults.SFT | {"row_tokens": row_tokens, "skip_bad": skip_bad, "data": data},
        },
        assignments,
    )


def check_out(out: Path) -> None:
    """Raise ModelError where the result's folder is taken."""
    if out.exists():
        raise ModelError(f"'{out}' exists already", hint="name another --out, or delete it")


def run(recipe: Recipe, stage: str, out: Path, progress: Progress) -> dict[str, Any]:
    """Run a recipe up to `stage`, and leave that stage's model in the folder `out`.

    Work is done in `out`.work, from where an interrupted run goes on; it is deleted at the end.

    Returns:
        The stage's manifest, which also stands in `out`.

    Raises:
        ModelError: `out` exists. Else as `pipeline.run`.
    """
    check_out(out)
    work = out.with_name(f"{out.name}.work")
    *_, manifest = pipeline.run(recipe, work, progress, last=stage)
    folder = work / recipe.name / stage
    write_text(folder / "model" / "manifest.json", (folder / "manifest.json").read_text())
    (folder / "model").rename(out)
    shutil.rmtree(work)
    return manifest


def _data(texts: Path, kind: SourceKind | None) -> dict[str, Any]:
    chosen = kind or kind_of(texts)
    source = {"kind": chosen.value, "path": str(texts.expanduser().resolve())}
    return {defaults.TEXTS: source | {"held_out_fraction": defaults.HELD_OUT_FRACTION}}


def _recipe(sections: Mapping[str, Any], assignments: Sequence[str]) -> Recipe:
    given = {"name": NAME} | {key: dict(value) for key, value in defaults.SHARED.items()}
    return load_section(Recipe, given | dict(sections), assignments)
