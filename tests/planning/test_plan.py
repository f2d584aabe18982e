"""Plans: each figure by hand, published figures, and what is said when a stage does not fit."""

import json
import subprocess
import sys

import pytest

from afm_mlx.planning.cost import (
    LABELLED_ROWS,
    LOGIT_ARRAYS,
    QUERY_BLOCK_TOKENS,
    READING_BUDGET_ARRAYS,
    count_by_part,
    flops_per_token,
    reading_flops_per_token,
    tensors,
)
from afm_mlx.planning.hardware import find_hardware
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.planning.text import format_plan
from afm_mlx.planning.units import duration, gigabytes
from afm_mlx.recipe import load_named_recipe, recipe_files
from tests.planning.tiny_plans import ALONE, CPU, MAC, device, memory

UNTIED = ["shape.tied=false", "shape.qk_norm=false"]


@pytest.mark.parametrize("assignments", [[], UNTIED])
@pytest.mark.parametrize("name", ["afm-tiny", "afm-on-device"])
def test_tensors_are_those_of_the_decoder(name, assignments):
    from afm_mlx.decoder.decoder import count_parameters

    shape = load_named_recipe(name, assignments).shape
    listed = {}
    for row in tensors(shape):
        for layer in range(row.count):
            listed[row.name.replace("*", str(layer))] = row.parameters // row.count
    assert listed == count_parameters(shape)


def test_constants_of_other_files_are_theirs():
    from afm_mlx.compression import labels, teacher
    from afm_mlx.decoder.attention import BLOCK_TOKENS
    from afm_mlx.training.cross_entropy import ARRAYS_PER_CHUNK

    assert (QUERY_BLOCK_TOKENS, LOGIT_ARRAYS) == (BLOCK_TOKENS, ARRAYS_PER_CHUNK)
    assert (READING_BUDGET_ARRAYS, LABELLED_ROWS) == (teacher._LOGIT_ARRAYS, labels._ROWS_AT_ONCE)


def test_operations_of_one_token_by_hand():
    shape = load_named_recipe("afm-tiny").shape
    matrices = 6 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 336)
    flops = flops_per_token(shape, 256, recompute=False)
    assert flops == {
        "matrices": 6 * matrices,
        "attention": 12 * 6 * 4 * 32 * 256,
        "output layer": 6 * 4_096 * 128,
    }
    again = flops_per_token(shape, 256, recompute=True)["recomputed"]
    assert again == pytest.approx((flops["matrices"] + flops["attention"]) / 3)


def test_device_core_stage_takes_the_operations_that_the_facts_sheet_derives():
    core = device("core", "training.activation_checkpointing=false")
    # The sheet says about 1.0e23, for 6 operations per number outside the embedding and token.
    assert core.flops["matrices"] == pytest.approx(0.98e23, rel=0.01)
    student = sum(core.flops.values()) - core.flops["teacher"]
    assert student == pytest.approx(1.28e23, rel=0.01)
    # And 8e22 for the teacher, for 2 of them; its attention and its logits come on top.
    teacher = load_named_recipe("afm-teacher").shape
    reading = reading_flops_per_token(teacher, 4_096) * core.tokens
    assert core.flops["teacher"] == reading
    matrices = flops_per_token(teacher, 4_096, recompute=False)["matrices"] / 3 * core.tokens
    assert matrices == pytest.approx(0.79e23, rel=0.01)
    assert reading == pytest.approx(0.90e23, rel=0.01)
    assert core.steps == 751_019


def test_device_mask_learning_and_labels_are_as_the_facts_sheet_derives():
    assert device("prune").steps == 22_412
    labels = device("labels", "distill.labels=before")
    assert labels.label_bytes == pytest.approx(12.6e12, rel=1e-4)
    assert labels.label_bytes == 2 * labels.tokens


def test_memory_of_weights_and_averages_is_exact():
    total = 2_737_739_264
    parts = memory(device("core"))
    assert parts["weights"] == 4 * total
    assert parts["optimizer"] == 8 * total
    assert parts["gradients"] == 8 * total  # one row at a time: the sum, and the newest
    assert parts["compute copy"] == 2 * total


def test_all_rows_at_once_need_one_gradient_and_float32_no_copy(tiny):
    parts = memory(plan_recipe(tiny(), CPU).stages[0])
    assert parts["gradients"] == parts["weights"] == 4 * 1_595_392
    assert "compute copy" not in parts


def test_muon_keeps_one_average_of_the_matrices(tiny):
    recipe = tiny("optimizer.name=muon")
    counts = count_by_part(recipe.shape)
    matrices = counts["attention"] + counts["feed-forward"]
    plan = plan_recipe(recipe, CPU)
    assert memory(plan.stages[0])["optimizer"] == 4 * matrices + 8 * (counts["total"] - matrices)
    assert plan.snapshot_bytes == 4 * counts["total"] + memory(plan.stages[0])["optimizer"]


def test_recomputing_needs_less_memory_and_more_operations(tiny):
    kept = plan_recipe(tiny(), CPU).stages[2]
    again = tiny("training.activation_checkpointing=true")
    recomputed = plan_recipe(again, CPU).stages[2]
    assert memory(recomputed)["activations"] < memory(kept)["activations"] / 2
    assert sum(recomputed.flops.values()) > sum(kept.flops.values())


def test_logits_stay_within_their_budget(tiny):
    recipe = tiny("training.loss_bytes=1_000_000")
    assert memory(plan_recipe(recipe, CPU).stages[0])["loss"] == 1_000_000 + 4 * 4_096 * 128


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_planned_memory_is_near_the_peak_that_mlx_counts(stage, tiny):
    """One forward and backward pass of the tiny model; its update takes less."""
    import mlx.core as mx
    import mlx.nn as nn

    from afm_mlx.decoder.decoder import Decoder, initialize
    from afm_mlx.training.objectives import next_token_loss

    if mx.default_device().type == mx.DeviceType.gpu:
        pytest.skip("the figures are those of the CPU back end")
    recipe = tiny("training.loss_bytes=30_000_000")
    name = recipe.pretraining_stages()[stage]
    section, model = recipe.pretraining(name), Decoder(recipe.shape_of(name))
    initialize(model, 0)
    rows = mx.zeros((section.rows_per_step, section.row_tokens), dtype=mx.int32)
    mx.eval(model.parameters(), rows)

    def loss(model):
        return next_token_loss(
            model,
            rows,
            rows,
            mx.ones(rows.shape),
            mask="causal",
            z_loss=0.0,
            chunk_bytes=recipe.training.loss_bytes,
        )[0]

    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(nn.value_and_grad(model, loss)(model))
    counted = mx.get_peak_memory() - before
    parts = memory(plan_recipe(recipe, CPU).stages[stage])
    planned = sum(parts[part] for part in ("gradients", "activations", "loss"))
    assert planned == pytest.approx(counted, rel=0.25)


def test_time_is_operations_over_the_assumed_rate(tiny):
    stage = plan_recipe(tiny(), CPU).stages[0]
    assert stage.seconds == pytest.approx(sum(stage.flops.values()) / (1e11 * 0.5))


def test_shards_take_two_bytes_per_id_of_a_small_vocabulary():
    small = device("context")
    server = plan_recipe(load_named_recipe("afm-server"), MAC).stages[2]
    assert small.shard_bytes == 2 * small.tokens
    assert server.shard_bytes == 4 * server.tokens


def test_a_fitting_plan_has_no_advice():
    plan = plan_recipe(load_named_recipe("afm-mac"), find_hardware("m1-16"))
    assert all(stage.fits and not stage.advice for stage in plan.stages)


@pytest.mark.parametrize(
    "assignments",
    [
        ["training.micro_rows=32", "training.activation_checkpointing=false"],
        ["training.micro_rows=32"],
        ["continued.row_tokens=4096", "continued.rows_per_step=32", "shape.num_layers=24"],
    ],
)
def test_following_the_advice_makes_it_fit(assignments):
    hardware = find_hardware("m1-8")
    stages = plan_recipe(load_named_recipe("afm-mac", assignments), hardware).stages
    assert not all(stage.fits for stage in stages)
    for number, stage in enumerate(stages):
        if stage.fits:
            continue
        settings, _, needed = stage.advice.partition(" needs ")
        changes = settings.replace("--set ", "").split()
        again = plan_recipe(load_named_recipe("afm-mac", assignments + changes), hardware)
        assert again.stages[number].fits
        assert f"{gigabytes(again.stages[number].peak_bytes)} GB" == needed


def test_when_rows_are_too_long_shorter_ones_are_advised():
    context = device("context", hardware=find_hardware("m4-max-128"))
    assert "--set context.row_tokens=8192 needs" in context.advice


def test_when_weights_alone_are_too_much_it_says_so():
    stage = device("core")
    assert stage.advice == ("no setting is enough: weights, averages and gradients take 60.23 GB")


def test_the_text_says_what_is_assumed(tiny):
    text = format_plan(plan_recipe(load_named_recipe("afm-on-device"), MAC))
    assert "afm-on-device, 2,737,739,264 parameters" in text
    assert "18.4 TFLOP/s (published peak) x 0.35 (assumed, not measured)" in text
    assert "106,496 bytes of float16 x 32,768 tokens" in text
    assert "at which a run stops: does not fit" in text
    assert "bandwidth   546 GB/s (published peak) x 0.7 (assumed, not measured)" in text
    assert "not planned: adapter-summaries" in text
    estimated = format_plan(plan_recipe(tiny(), find_hardware("m5-pro-24")))
    assert "11.4 TFLOP/s (estimate, scaled by GPU cores)" in estimated


@pytest.mark.parametrize("name", list(recipe_files()))
def test_every_recipe_has_a_plan_in_text_and_json(name):
    plan = plan_recipe(load_named_recipe(name), MAC)
    assert format_plan(plan).isascii()
    assert max(map(len, format_plan(plan).splitlines())) <= 120
    values = json.loads(json.dumps(plan.as_json()))
    assert values["parameters"]["total"] == sum(row.parameters for row in tensors_of(name))
    assert [stage["fits"] for stage in values["stages"]] == [stage.fits for stage in plan.stages]


def tensors_of(name):
    return tensors(load_named_recipe(name).shape)


def test_a_plan_of_another_machine_needs_no_mlx():
    code = (
        "import sys; from afm_mlx.planning.hardware import find_hardware;"
        "from afm_mlx.planning.plan import plan_recipe;"
        "from afm_mlx.planning.text import format_plan;"
        "from afm_mlx.recipe import load_named_recipe;"
        "format_plan(plan_recipe(load_named_recipe('afm-on-device'), find_hardware('m4-max-128')));"
        "sys.exit('mlx.core' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_durations_and_sizes_are_read_easily():
    assert duration(5) == "5 seconds"
    assert duration(90) == "1.5 minutes"
    assert duration(3 * 86_400) == "3.0 days"
    assert duration(800 * 365.25 * 86_400) == "800 years"
    assert gigabytes(6.38e6) == "0.0064"
    assert gigabytes(1.234e9) == "1.23"
    assert gigabytes(12_600e9) == "12,600"


def test_plan_command_prints_text_or_json(tmp_path):
    import typer
    from afm_cli.plan import plan
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(plan)
    (tmp_path / "alone.toml").write_text(ALONE)
    on_a_mac = [
        str(tmp_path / "alone.toml"),
        "--hardware",
        "m1-8",
        "--set",
        "training.micro_rows=2",
    ]
    text = CliRunner().invoke(app, on_a_mac).stdout
    assert "estimate: 2 x 256 tokens, 6 + 1 blocks" in text
    values = json.loads(CliRunner().invoke(app, [*on_a_mac, "--json"]).stdout)
    assert [stage["micro_rows"] for stage in values["stages"]] == [2, 2, 2]
