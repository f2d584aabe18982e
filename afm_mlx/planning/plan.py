"""What a recipe costs on a machine: parameters, operations, memory, time, disk. Runs nothing.

Each number says how it came about, so that a wrong one can be argued with. No weights exist, and
MLX is needed only to measure the machine when that is `this` one. GB is 10**9 bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from afm_mlx.planning.cost import (
    WEIGHT_BYTES,
    cache_bytes_per_token,
    count_by_part,
    state_bytes,
)
from afm_mlx.planning.hardware import Hardware
from afm_mlx.planning.post_training import PostTrainingPlan, plan_post_training
from afm_mlx.planning.pretraining import Planner, StagePlan
from afm_mlx.planning.quantizing import plan_quantize
from afm_mlx.planning.recovery import plan_recovery
from afm_mlx.recipe import Recipe, load_named_recipe, recipe_files
from afm_mlx.settings.compression import LabelTime
from afm_mlx.settings.sections import Shape


@dataclass(frozen=True)
class TeacherPlan:
    """Who teaches, and what is known of it."""

    model: str
    """As in the recipe; empty: it is trained here."""
    parameters: int | None
    """None: its shape is not known before it is there, and it is not planned."""


@dataclass(frozen=True)
class Plan:
    """A recipe on one machine."""

    recipe: str
    hardware: Hardware
    parameters: dict[str, int]
    """By part; `total` is their sum."""
    teacher: TeacherPlan | None
    """None: the recipe has none."""
    stages: tuple[StagePlan, ...]
    """Stages up to pre-training."""
    post_training: tuple[PostTrainingPlan, ...]
    """Stages after it."""
    checkpoint_bytes: int
    """A stage's finished model."""
    snapshot_bytes: int
    """What an interrupted run resumes from; two are kept."""
    wide_snapshot_bytes: int
    """The same of stages `teacher` and `prune`, which train the teacher; 0 without them."""
    cache_bytes_per_token: int
    """Keys and values of one token, float16."""
    max_tokens: int
    """Longest context of the finished model."""
    not_planned: tuple[str, ...]
    """Stages of the recipe whose cost is not known here."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        values = asdict(self)
        for values_of, stage in zip(values["stages"], self.stages, strict=True):
            values_of |= {"peak_bytes": stage.peak_bytes, "fits": stage.fits}
        for values_of, after in zip(values["post_training"], self.post_training, strict=True):
            values_of |= after.derived()
        return values


def plan_recipe(recipe: Recipe, hardware: Hardware) -> Plan:
    """The plan of all stages of a recipe that train, prune, label texts, or write answers.

    Raises:
        ModelError: the teacher is a folder that holds no model of ours.
    """
    parameters = count_by_part(recipe.shape)
    total = parameters["total"]
    planner = Planner(recipe, hardware, teacher_shape(recipe))
    last = (recipe.pretraining_stages() or ["prune"])[-1]
    return Plan(
        recipe=recipe.name,
        hardware=hardware,
        parameters=parameters,
        teacher=_teacher(recipe, planner.teacher),
        stages=tuple(planner.plan(stage) for stage in planned_stages(recipe)),
        post_training=(
            *plan_post_training(recipe, hardware),
            *([plan_quantize(recipe, hardware)] if recipe.quantize else []),
            *plan_recovery(recipe, hardware),
        ),
        checkpoint_bytes=WEIGHT_BYTES * total,
        snapshot_bytes=WEIGHT_BYTES * total + state_bytes(recipe.shape, recipe.optimizer.name),
        wide_snapshot_bytes=planner.wide_snapshot_bytes(),
        cache_bytes_per_token=cache_bytes_per_token(recipe.shape),
        max_tokens=recipe.shape_of(last).max_tokens,
        not_planned=(
            *(name for name in recipe.finishing_stages() if name not in ("quantize", "recover")),
            *(("eval",) if recipe.eval else ()),
        ),
    )


def planned_stages(recipe: Recipe) -> list[str]:
    """Stages that cost, in order: all of the pipeline's but links, texts and tokenizer."""
    labelled = recipe.distill is not None and recipe.distill.labels is LabelTime.BEFORE
    return [
        *(["teacher"] if recipe.trains_teacher() else []),
        *(["prune"] if recipe.prune else []),
        *(["labels"] if labelled and recipe.distilled_stages() else []),
        *recipe.pretraining_stages(),
    ]


def teacher_shape(recipe: Recipe) -> Shape | None:
    """Shape of the teacher; None where there is none, or where it is known only to a hub or file.

    Raises:
        ModelError: it is a folder that holds no model of ours.
    """
    if recipe.teacher is None:
        return None
    word = recipe.teacher.model
    if not word:
        return recipe.shape_of("teacher")
    folder = Path(word).expanduser()
    if (folder / "config.json").is_file():
        from afm_mlx.decoder.config import read_shape  # needs no MLX

        return read_shape(folder)
    if word in recipe_files():
        return load_named_recipe(word).shape
    if (wide := recipe.teacher.intermediate_size) is not None:
        return recipe.shape.model_copy(update={"intermediate_size": wide})
    return None


def _teacher(recipe: Recipe, shape: Shape | None) -> TeacherPlan | None:
    if recipe.teacher is None:
        return None
    known = None if shape is None else count_by_part(shape)["total"]
    return TeacherPlan(recipe.teacher.model, known)
