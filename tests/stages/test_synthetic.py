"""Conversations that a recipe makes itself."""

import json

import pytest

from afm_mlx import pipeline
from afm_mlx.errors import RecipeError
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_recipe

from .conftest import ON_BASE

RECIPE = (
    ON_BASE
    + """
[synthetic.tasks]
kind = "basics"
count = 150
settings.tasks = ["end"]
[synthetic.prompts]
kind = "basics"
count = 100
settings.tasks = ["end"]
[synthetic.others]
kind = "basics"
count = 30
split = "held_out"
settings.tasks = ["end"]
[sft]
lr = 1e-3
row_tokens = 64
rows_per_step = 4
epochs = 1
data.tasks.path = "synthetic:tasks"
data.others.path = "synthetic:others"
[rl]
lr = 1e-4
rounds = 1
max_tokens = 8
prompts_per_step = 2
responses_per_prompt = 2
updates_per_batch = 1
reference_pull = 0.0
step_pull = 0.0
data.prompts.path = "synthetic:prompts"
"""
)


@pytest.fixture
def recipe_file(base, tmp_path):
    path = tmp_path / "made.toml"
    path.write_text(RECIPE.format(base=base, context=64))
    return path


def asked(file):
    return [json.loads(line)["messages"][0]["content"] for line in file.read_text().splitlines()]


def test_sources_of_one_kind_share_no_prompt_and_later_stages_read_them(recipe_file, tmp_path):
    manifests = pipeline.run(load_recipe(recipe_file), tmp_path / "runs", Progress())
    by_stage = {manifest["stage"]: manifest for manifest in manifests}
    assert list(by_stage) == ["base", "synthetic", "sft", "rl"]
    folder = tmp_path / "runs" / "made" / "synthetic"
    tasks, prompts, others = (asked(folder / f"{n}.jsonl") for n in ("tasks", "prompts", "others"))
    assert (len(tasks), len(prompts), len(others)) == (150, 100, 30)
    assert len({*tasks, *prompts, *others}) == 280
    assert by_stage["sft"]["metrics"]["conversations"] == 180
    assert by_stage["sft"]["parents"].keys() == {"base", "synthetic"}
    assert by_stage["synthetic"]["metrics"]["conversations"]["prompts"] == 100


def test_another_count_makes_what_reads_it_again(recipe_file, tmp_path):
    pipeline.run(load_recipe(recipe_file), tmp_path / "runs", Progress(), last="sft")
    changed = load_recipe(recipe_file, ["synthetic.tasks.count=151"])
    steps = pipeline.plan_steps(changed, tmp_path / "runs")
    assert [step.stage.name for step in steps if step.todo] == ["synthetic", "sft", "rl"]


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("sft.data.tasks.path=synthetic:task", "no [synthetic.task]; did you mean 'tasks'?"),
        ("synthetic.tasks.kind=basic", "no kind is called 'basic'; there are basics, math"),
        ("synthetic.tasks.settings.deepest=2", "settings.deepest of basics"),
        ("rl.data={}", "rl needs a [rl.data.NAME], or an [itec]"),
    ],
)
def test_mistakes_are_named(recipe_file, assignment, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_file, [assignment])
    assert said in f"{caught.value} {caught.value.hint}"


def test_itec_needs_what_says_how_its_members_are_trained(recipe_file):
    itec = (
        'itec={rounds=1, prompts_per_round=2, max_tokens=8, device_answers=2, '
        'data={a={path="synthetic:prompts"}}}'
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"itec needs a \[prefer\]"):
        load_recipe(recipe_file, [itec])
    with pytest.raises(RecipeError, match=r"itec needs a \[reward\]"):
        load_recipe(recipe_file, [itec, 'itec.members=["reject", "rl"]'])
