"""Plans of a small recipe, and the tiny one."""

import pytest

from afm_mlx.planning.plan import plan_recipe
from afm_mlx.recipe import load_named_recipe
from tests.planning.small_plans import CPU, SHAPE
from tests.planning.tiny_plans import ALONE


@pytest.fixture
def plan(tmp_path):
    """Plans a stage of a small model with the given sections; files are in `tmp_path`."""

    def planned(sections, *assignments, hardware=CPU):
        path = tmp_path / "small.toml"
        path.write_text((SHAPE + sections).replace("FOLDER", str(tmp_path)))
        return plan_recipe(load_named_recipe(str(path), assignments), hardware)

    return planned


@pytest.fixture
def tiny(tmp_path):
    """The tiny recipe without a teacher, with assignments."""
    path = tmp_path / "afm-tiny.toml"
    path.write_text(ALONE)
    return lambda *assignments: load_named_recipe(str(path), assignments)
