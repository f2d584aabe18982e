"""Plans of the tiny recipe, and of the one for a phone on a Mac."""

import re

from afm_mlx.planning.hardware import Hardware, find_hardware
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.recipe import load_named_recipe, recipe_files

CPU = Hardware(
    "cpu",
    "a CPU",
    8 * 10**9,
    1e11,
    "made up",
    0.5,
    1e10,
    "made up",
    0.5,
    compute_bytes=4,
    on_gpu=False,
)
MAC = find_hardware("m4-max-64")

ALONE = re.sub(
    r"(?ms)^\[(teacher|prune|distill)\]\n.*?(?=^\[)", "", recipe_files()["afm-tiny"].read_text()
)
"""The tiny recipe without a teacher."""


def stage_of(plan, name):
    return next(stage for stage in plan.stages if stage.stage == name)


def device(stage, *assignments, hardware=MAC):
    return stage_of(plan_recipe(load_named_recipe("afm-on-device", assignments), hardware), stage)


def memory(stage):
    return {part.name: part.bytes for part in stage.memory}
