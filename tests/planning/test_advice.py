"""What a plan advises where a stage does not fit, and that it then fits."""

from dataclasses import replace

import pytest

from afm_mlx.planning.hardware import find_hardware
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.planning.pretraining import micro_row_choices
from afm_mlx.planning.units import gigabytes
from afm_mlx.recipe import load_named_recipe
from tests.planning.small_plans import CPU, REJECT, TOTAL, lines, stage


@pytest.mark.parametrize("name", ["sft", "prefer", "itec", "rl"])
def test_following_the_advice_makes_it_fit(name):
    hardware = find_hardware("m4-max-128")
    more = ["training.micro_rows=32", "training.activation_checkpointing=false"]
    found = stage(plan_recipe(load_named_recipe("afm-on-device", more), hardware), name)
    assert not found.fits
    settings, _, needed = found.advice.partition(" needs ")
    changes = settings.replace("--set ", "").split()
    again = stage(plan_recipe(load_named_recipe("afm-on-device", more + changes), hardware), name)
    assert again.fits
    assert f"{gigabytes(again.peak_bytes)} GB" == needed


def test_rejection_sampling_that_does_not_fit_is_advised_shorter_answers(plan, tmp_path):
    lines(tmp_path / "prompts.jsonl", 30, 20)
    longer = "reject.max_tokens=400"
    room = replace(CPU, usable_bytes=15_000_000)
    reject = stage(plan(REJECT, longer, hardware=room), "reject")
    assert not reject.fits
    assert reject.advice.startswith("--set reject.max_tokens=200 needs ")
    assert stage(plan(REJECT, "reject.max_tokens=200", hardware=room), "reject").fits
    # 64 answers to prompts of 20 tokens, and caches that grow by 256: 512 bytes a token.
    less = replace(CPU, usable_bytes=10_000_000)
    least = 512 * (64 * (20 + 256) + 23 * 256) + 4 * TOTAL
    assert stage(plan(REJECT, longer, hardware=less), "reject").advice == (
        f"no setting is enough: fewer rows and shorter ones need {gigabytes(least)} GB"
    )


def test_when_models_alone_are_too_much_it_says_so():
    planned = plan_recipe(load_named_recipe("afm-on-device"), find_hardware("m4-max-64"))
    # 22 bytes a number in training, and 2 of the reference.
    assert stage(planned, "rl").advice == (
        "no setting is enough: weights, optimizer, gradients, compute copy and reference take "
        f"{gigabytes(24 * 2_737_739_264)} GB"
    )


def test_advice_for_pretraining_keeps_to_rows_that_later_stages_take():
    # 12 rows of pre-training, 9 of [sft], 15 of an adapter, 72 of [rl]: 3 divide all.
    more = ["sft.rows_per_step=9", "core.rows_per_step=12", "training.micro_rows=3"]
    more += ["adapters.summaries.rows_per_step=15", "recover.rows_per_step=18"]
    shorter = [f"{name}.rows_per_step=12" for name in ("continued", "context", "prune")]
    recipe = load_named_recipe("afm-on-device", [*more, *shorter, "rl.prompts_per_step=9"])
    assert micro_row_choices(recipe) == [3, 1]
