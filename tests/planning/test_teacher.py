"""Plans of a teacher, of pruning it, and of distilling from it."""

import json

import pytest

from afm_mlx.planning.cost import count_by_part
from afm_mlx.planning.hardware import find_hardware
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.planning.text import format_plan
from afm_mlx.planning.units import gigabytes
from afm_mlx.recipe import load_named_recipe
from tests.planning.tiny_plans import ALONE, CPU, MAC, device, memory, stage_of

TEACHER = """
[teacher]
intermediate_size = 1_024
[prune]
tokens = 40_960
row_tokens = 64
rows_per_step = 16
lr = 2e-3
scoring_tokens = 8_192
[distill]
target = "logits"
candidates = 16
"""


@pytest.fixture
def taught(tmp_path):
    """Plans of the tiny recipe with a teacher that is trained, pruned and distilled from."""
    path = tmp_path / "taught.toml"
    path.write_text(ALONE + TEACHER)

    def plan(*assignments, hardware=CPU):
        return plan_recipe(load_named_recipe(str(path), assignments), hardware)

    return plan


def test_all_stages_with_a_teacher_are_planned_in_order(taught):
    names = ["teacher", "prune", "core", "continued", "context"]
    assert [stage.stage for stage in taught().stages] == names
    before = ["teacher", "prune", "labels", *names[2:]]
    assert [stage.stage for stage in taught("distill.labels=before").stages] == before


def test_a_teacher_trained_here_is_planned_as_the_wider_core(taught, tiny):
    wide = tiny("shape.intermediate_size=1_024")
    core = plan_recipe(wide, CPU).stages[0]
    plan = taught("teacher.tokens=40_960")
    teacher = stage_of(plan, "teacher")
    assert teacher.memory == core.memory
    assert (teacher.tokens, plan.teacher.parameters) == (40_960, count_by_part(wide.shape)["total"])


def test_mask_learning_keeps_scores_and_a_masked_copy(taught):
    prune = stage_of(taught("training.micro_rows=2"), "prune")
    units = 6 * 1_024
    assert memory(prune)["scores"] == 20 * units  # micro-rows: two gradients
    assert memory(prune)["masked copy"] == 4 * units * 128
    assert prune.flops["first scores"] > 0


def test_when_first_scores_need_more_memory_theirs_is_shown(taught):
    prune = stage_of(taught(hardware=MAC), "prune")  # bfloat16 is for masks, not for scores
    assert memory(prune)["gains"] == 8 * 6 * 1_024 * 16 * 64
    (note,) = prune.notes
    assert note.startswith("memory is that of taking first scores; learning masks needs 0.")


def test_pruning_by_activation_trains_nothing(taught):
    prune = stage_of(taught("prune.method=activation"), "prune")
    assert (prune.steps, prune.tokens) == (0, 8_192)
    assert memory(prune)["units"] == 4 * 6 * 1_024 * 16 * 64
    assert "reads           8,192 tokens" in format_plan(taught("prune.method=activation"))


def test_a_live_teacher_adds_weights_and_operations_to_the_distilled_stage_only(taught):
    live, before = taught(), taught("distill.labels=before")
    teacher = live.teacher.parameters
    core, without = stage_of(live, "core"), stage_of(before, "core")
    assert core.peak_bytes - without.peak_bytes >= memory(core)["teacher"] == 4 * teacher
    assert core.flops["teacher"] == stage_of(before, "labels").flops["teacher"]
    assert "teacher" not in without.flops
    assert stage_of(live, "continued").memory == stage_of(before, "continued").memory


def test_labels_of_several_candidates_keep_probabilities(taught):
    several = stage_of(taught("distill.labels=before"), "labels")
    assert several.label_bytes == (2 + 2) * 16 * 327_680
    one = stage_of(taught("distill.labels=before", "distill.target=top"), "labels")
    assert one.label_bytes == 2 * 327_680


def test_teacher_and_student_that_fit_together_are_said_to():
    core = device("core", hardware=find_hardware("m4-max-128"))
    assert core.fits
    assert core.notes == ("teacher and student fit together: 12.90 GB and 64.23 GB",)
    before = device("core", "distill.labels=before", hardware=find_hardware("m4-max-128"))
    assert before.notes == ("a live teacher would fit: 77.13 GB together with the student",)


def test_labels_before_are_advised_when_only_the_student_fits():
    hardware = find_hardware("m2-max-96")  # 69.6 GB for a run
    core = device("core", hardware=hardware)
    assert core.notes == ("teacher and student do not fit together: 12.90 GB and 64.23 GB",)
    assert core.advice == "--set distill.labels=before needs 64.23 GB"
    again = device("core", "distill.labels=before", hardware=hardware)
    assert again.fits
    assert gigabytes(again.peak_bytes) == "64.23"
    assert device("labels", "distill.labels=before", hardware=hardware).fits


def test_labels_before_are_not_advised_when_the_teacher_alone_is_too_large():
    taught = ["teacher.model=afm-teacher", 'distill.stages=["core"]', "training.micro_rows=1"]
    recipe = load_named_recipe("afm-mac", taught)
    core = stage_of(plan_recipe(recipe, find_hardware("m1-8")), "core")
    assert not core.fits
    assert core.advice == "no setting is enough: the teacher takes 12.90 GB"


def test_mask_learning_that_cannot_fit_names_the_other_method():
    prune = device("prune", hardware=find_hardware("m4-max-128"))
    settings, _, needed = prune.advice.partition(" needs ")
    assert settings == "--set prune.method=activation"
    again = device("prune", "prune.method=activation", hardware=find_hardware("m4-max-128"))
    assert again.fits
    assert f"{gigabytes(again.peak_bytes)} GB" == needed


def test_a_teacher_that_is_not_there_yet_is_not_planned(tiny):
    assignments = ["teacher.model=org/large", 'distill.stages=["core"]']
    plan = plan_recipe(tiny(*assignments), CPU)
    core = stage_of(plan, "core")
    assert core.notes == ("'org/large' is not planned: its shape is not known here",)
    assert "teacher" not in memory(core)
    assert "teacher     org/large, not planned: its shape is not known here" in format_plan(plan)
    before = plan_recipe(tiny(*assignments, "distill.labels=before"), CPU)
    assert format_plan(before).isascii()
    assert stage_of(before, "labels").seconds == 0


def test_a_teacher_in_a_folder_has_the_shape_of_its_config(tmp_path, tiny):
    from afm_mlx.decoder.config import config_of_shape

    shape = load_named_recipe("afm-mac").shape
    config = config_of_shape(shape, dtype="float32", token_ids={}, facts={})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assignments = [f"teacher.model={tmp_path}", 'distill.stages=["core"]']
    plan = plan_recipe(tiny(*assignments), CPU)
    assert plan.teacher.parameters == count_by_part(shape)["total"]
