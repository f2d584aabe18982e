"""The zoo: every recipe loads, has its published numbers, and resolves to its golden text.

A changed default shows as a difference of a golden file. To accept it:
`AFM_UPDATE_GOLDEN=1 pytest tests/test_zoo_files.py`, and look at the diff.
"""

import itertools
import json
import math
import os
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from afm_mlx.planning.cost import cache_bytes_per_token, count_by_part
from afm_mlx.recipe import load_named_recipe, load_recipe, recipe_files
from afm_mlx.settings.sections import Shape

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["afm-mac", "afm-on-device", "afm-server", "afm-teacher", "afm-tiny"]


def rope_base(base: float, trained_tokens: int, wanted_tokens: int) -> float:
    """Critical dimension, arXiv:2310.05209."""
    return base ** (math.log(wanted_tokens / math.tau) / math.log(trained_tokens / math.tau))


def test_the_zoo_has_these_recipes():
    assert list(recipe_files()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_resolved_recipe_is_golden(name):
    text = json.dumps(load_named_recipe(name).model_dump(mode="json"), indent=2) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("AFM_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("afm-on-device", 2_737_739_264),
        ("afm-teacher", 6_448_911_872),
        ("afm-server", 25_292_462_080),
        ("afm-mac", 122_704_128),
        ("afm-tiny", 1_595_392),
    ],
)
def test_parameters_are_those_in_the_head_of_the_file(name, parameters):
    assert count_by_part(load_named_recipe(name).shape)["total"] == parameters
    head = recipe_files()[name].read_text(encoding="utf-8").split("[shape]")[0]
    assert f"{parameters:,}" in head


def test_device_model_has_the_published_parts():
    shape = load_named_recipe("afm-on-device").shape
    counts = count_by_part(shape)
    assert counts["embedding"] == 150_994_944
    assert counts["attention"] + counts["feed-forward"] == 2_586_574_848
    assert counts["norms"] == 169_472
    assert cache_bytes_per_token(shape) == 106_496


@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "intermediate", "parameters"),
    [
        (48, 6_144, 48, 16_128, 19_126_634_496),
        (64, 6_144, 48, 16_128, 25_292_462_080),
        (80, 8_192, 64, 21_504, 55_198_380_032),
    ],
)
def test_server_presets_have_the_sizes_in_the_table(
    layers, hidden, heads, intermediate, parameters
):
    assignments = [
        f"shape.num_layers={layers}",
        f"shape.hidden_size={hidden}",
        f"shape.num_heads={heads}",
        f"shape.intermediate_size={intermediate}",
    ]
    shape = load_named_recipe("afm-server", assignments).shape
    assert count_by_part(shape)["total"] == parameters
    assert f"{parameters:,}" in recipe_files()["afm-server"].read_text(encoding="utf-8")


def test_larger_mac_model_of_the_comment_has_the_size_it_says():
    text = recipe_files()["afm-mac"].read_text(encoding="utf-8")
    shape = load_named_recipe("afm-mac", re.findall(r"--set (shape\S+)", text)).shape
    assert count_by_part(shape)["total"] == 232_819_712
    assert "232,819,712" in text


def test_teacher_differs_from_the_student_in_width_and_context_only():
    student = load_named_recipe("afm-on-device")
    teacher = load_named_recipe("afm-teacher")
    widened = {
        "intermediate_size": student.teacher.intermediate_size,
        "max_tokens": teacher.shape.max_tokens,
    }
    assert teacher.shape == Shape.model_validate(student.shape.model_dump() | widened)
    assert teacher.core == student.core
    assert teacher.optimizer == student.optimizer


@pytest.mark.parametrize("name", ["afm-on-device", "afm-server", "afm-mac", "afm-tiny"])
def test_context_stage_follows_the_published_rope_rule(name):
    recipe = load_named_recipe(name)
    trained, wanted = recipe.continued.row_tokens, recipe.context.row_tokens
    grown = recipe.shape_of("context").rope_base
    assert round(grown) == round(rope_base(recipe.shape.rope_base, trained, wanted))


def test_device_recipe_trains_on_the_published_tokens():
    recipe = load_named_recipe("afm-on-device")
    tokens = [recipe.pretraining(stage).tokens for stage in recipe.pretraining_stages()]
    assert tokens == [63 * 10**11, 10**12, 10**11]
    assert recipe.prune.tokens == 188 * 10**9
    assert recipe.recover.tokens == 10**10


def test_device_recipe_ends_with_recovery_and_adapters():
    stages = load_named_recipe("afm-on-device").finishing_stages()
    assert stages == ["quantize", "recover", "adapter-summaries"]


@pytest.mark.parametrize("name", ["afm-on-device", "afm-teacher", "afm-server"])
def test_every_number_of_the_large_recipes_has_a_source(name):
    source = r"#.*\b(R24|AX|B24|LG|TK|LS|OB|PE|ours|as \[core\])"
    lines = recipe_files()[name].read_text(encoding="utf-8").splitlines()
    for above, line in itertools.pairwise(lines):
        if re.match(r"\w+ = .*\d", line) and not line.startswith("about"):
            commented = line if "#" in line else above
            assert re.search(source, commented), f"{name}: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_a_mixture_add_up_to_one(name):
    recipe = load_named_recipe(name)
    for stage in recipe.pretraining_stages():
        assert sum(recipe.pretraining(stage).mixture.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
def test_every_source_is_used(name):
    recipe = load_named_recipe(name)
    stages = [recipe.pretraining(stage) for stage in recipe.pretraining_stages()]
    assert {source for stage in stages for source in stage.mixture} == set(recipe.data)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_has_a_line_about_itself_and_no_tabs(name):
    text = recipe_files()[name].read_text(encoding="utf-8")
    assert 20 < len(tomllib.loads(text)["about"]) < 90
    assert text.isascii()
    assert "\t" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert load_recipe(recipe_files()[name]).name == name


def afm_models(*arguments: str) -> str:
    from afm_cli.zoo import app

    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_models_lists_every_recipe_smallest_first():
    rows = json.loads(afm_models("--json"))
    assert {row["name"] for row in rows} == set(NAMES)
    assert [row["parameters"] for row in rows] == sorted(row["parameters"] for row in rows)
    lines = afm_models().splitlines()
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]


def test_models_show_prints_exact_tensors_and_changed_settings():
    text = afm_models("show", "afm-on-device")
    assert "26 x [8,064 x 3,072]" in text
    assert text.count("2,737,739,264") == 1
    wider = json.loads(afm_models("show", "afm-tiny", "--set", "shape.tied=false", "--json"))
    assert wider["parameters"] == 1_595_392 + 4_096 * 128
    assert wider["parameters"] == sum(row["parameters"] for row in wider["tensors"])
    assert wider["recipe"]["shape"]["tied"] is False
