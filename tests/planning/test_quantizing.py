"""The plan of quantization: each figure by hand, and what it says where memory is short."""

from dataclasses import replace

import pytest

from afm_mlx.planning.answers import forward_flops
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.planning.quantizing import FEEDBACK_SECONDS, FIT_SECONDS, plan_quantize
from afm_mlx.planning.text import format_plan
from afm_mlx.recipe import load_recipe
from tests.planning.small_plans import CPU, MATRICES, RATE, SHAPE, TOTAL

QUANTIZE = """
[quantize]
target_bits_per_weight = 3.5
calibration_rows = 10
calibration_row_tokens = 64
gradient_rows = 4
"""


def recipe_of(tmp_path, text=SHAPE + QUANTIZE, *assignments):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return load_recipe(file, assignments)


def test_work_is_eight_passes_moments_three_passes_with_logits_and_fits(tmp_path):
    recipe = recipe_of(tmp_path)
    plan = plan_quantize(recipe, CPU)
    work = {each.name: each for each in plan.work}
    shape = recipe.shape
    moments = 2 * 2 * (3 * 64**2 + 128**2)  # of both layers and a token, x x^T at four places
    inputs = 8 * 10 * forward_flops(shape, 64, 64, 0) + 3 * 640 * moments
    assert work["inputs"].flops == pytest.approx(inputs)
    assert work["inputs"].seconds == pytest.approx(inputs / RATE)
    assert work["gradients"].flops == pytest.approx(3 * 14 * forward_flops(shape, 64, 64, 64))
    assert work["tables"].seconds == pytest.approx(MATRICES * (2 * FIT_SECONDS + FEEDBACK_SECONDS))
    assert work["answers"].tokens == 12 * 64  # it writes its own texts, two rows to measure on
    measured = recipe_of(tmp_path, SHAPE + QUANTIZE, "quantize.damage=measured")
    assert plan_quantize(measured, CPU).seconds > plan.seconds


def test_with_texts_nothing_is_written(tmp_path):
    texts = '[data.a]\nkind = "text"\npath = "a"\n'
    plan = plan_quantize(recipe_of(tmp_path, SHAPE + QUANTIZE + texts), CPU)
    assert "answers" not in {each.name for each in plan.work}


def test_memory_is_the_weights_and_the_larger_of_gradients_and_a_block(tmp_path):
    few = recipe_of(tmp_path, SHAPE + QUANTIZE, "quantize.calibration_rows=1")
    parts = {part.name: part.bytes for part in plan_quantize(few, CPU).memory}
    assert parts["weights"] == 4 * TOTAL
    outputs = 2 * (64 + 2 * 32 + 64 + 2 * 128 + 64)
    assert parts["gradients"] == 2 * 4 * 64 * outputs
    assert parts["logits"] == 3 * 4 * 64 * 512
    many = recipe_of(tmp_path, SHAPE + QUANTIZE, "quantize.calibration_rows=10_000")
    parts = {part.name: part.bytes for part in plan_quantize(many, CPU).memory}
    assert parts["states"] == 4 * 4 * 640_000 * 64


def test_where_it_does_not_fit_fewer_rows_are_advised_and_fit(tmp_path):
    many = recipe_of(tmp_path, SHAPE + QUANTIZE, "quantize.calibration_rows=10_000")
    need = plan_quantize(many, CPU).peak_bytes
    small = replace(CPU, usable_bytes=int(0.6 * need / many.watch.memory_fraction))
    plan = plan_quantize(many, small)
    assert not plan.fits
    assert plan.advice.startswith("--set quantize.calibration_rows=5000 needs ")
    fewer = recipe_of(tmp_path, SHAPE + QUANTIZE, "quantize.calibration_rows=5000")
    assert plan_quantize(fewer, small).fits


def test_the_plan_of_a_recipe_has_it_in_text(tmp_path):
    plan = plan_recipe(recipe_of(tmp_path), CPU)
    assert [stage.stage for stage in plan.post_training] == ["quantize"]
    assert plan.not_planned == ()
    assert "\nquantize\n" in format_plan(plan)
