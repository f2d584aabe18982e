"""What recovery costs."""

import pytest

from afm_mlx.planning.hardware import find_hardware
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.planning.recovery import lora_parameters, plan_recovery
from afm_mlx.recipe import load_named_recipe
from afm_mlx.settings.palette import RecoverStart

MAC = find_hardware("m4-max")


@pytest.fixture(scope="module")
def device():
    return load_named_recipe("afm-on-device")


@pytest.mark.parametrize(("rank", "count"), [(8, 11_208_704), (16, 22_417_408), (32, 44_834_816)])
def test_adapters_of_the_device_model_have_the_published_sizes(device, rank, count):
    assert lora_parameters(device.shape, rank) == count


def test_each_rank_is_trained_and_the_teacher_reads_once(device):
    section = device.recover.model_copy(update={"reference_weight": 1.0, "ranks": (8, 16)})
    training = device.training.model_copy(update={"activation_checkpointing": False})
    recipe = device.model_copy(update={"recover": section, "training": training})
    (plan,) = plan_recovery(recipe, MAC)
    assert [work.name for work in plan.work] == ["labels", "rank 8", "rank 16"]
    assert plan.steps == 2 * section.steps
    assert len({work.tokens for work in plan.work}) == 1
    # Forward, and gradients of inputs alone; of attention's scores those of both factors.
    assert 2 < plan.work[1].flops / plan.work[0].flops < 2.3


def test_an_adapter_that_starts_with_the_residual_reads_before_it_is_trained(device):
    section = device.recover.model_copy(update={"ranks": (8, 16), "start": RecoverStart.RESIDUAL})
    drawn, residual = (
        plan_recovery(device.model_copy(update={"recover": each}), MAC)[0]
        for each in (device.recover.model_copy(update={"ranks": (8, 16)}), section)
    )
    names = [work.name for work in residual.work if work not in drawn.work]
    assert names == ["rank 8 start", "rank 16 start"]
    start = next(work for work in residual.work if work.name == "rank 16 start")
    assert start.tokens == section.calibration_rows * section.row_tokens
    assert sum(each.bytes for each in residual.memory) >= sum(each.bytes for each in drawn.memory)


def test_a_recipe_without_recovery_has_no_plan_of_it(device):
    alone = device.model_copy(update={"recover": None, "adapters": {}})
    assert plan_recovery(alone, MAC) == ()
    assert "recover" in [stage.stage for stage in plan_recipe(device, MAC).post_training]
