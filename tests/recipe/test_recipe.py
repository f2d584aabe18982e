"""What a recipe says, and which stages and shapes follow from it."""

import ast
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import afm_mlx
from afm_mlx.recipe import (
    Recipe,
    all_names,
    load_recipe,
)
from afm_mlx.settings.clean import STEPS as CLEANING_STEPS
from afm_mlx.settings.recipe import PRETRAINING_STAGES

from .conftest import PRUNE, SMALL, refusal


def test_a_recipe_is_named_after_its_file(recipe_file):
    assert load_recipe(recipe_file()).name == "small"


def test_assignments_are_applied_left_to_right(recipe_file):
    recipe = load_recipe(recipe_file(), ["core.lr=0.5", "core.lr=0.25", "shape.qk_norm=false"])
    assert recipe.core.lr == 0.25
    assert recipe.shape.qk_norm is False


def test_a_bare_word_is_text(recipe_file):
    path = recipe_file()
    assert load_recipe(path, ["optimizer.name=muon"]).optimizer.name == "muon"
    assert load_recipe(path, ["data.web.path=a=b"]).data["web"].path == "a=b"


def test_an_assignment_can_add_a_source(recipe_file):
    added = ["data.code.kind=code", "data.code.path=src", "core.mixture.code=0.5"]
    assert load_recipe(recipe_file(), added).core.mixture == {"web": 1.0, "code": 0.5}


def test_whole_numbers_may_be_written_with_an_exponent(recipe_file):
    assert load_recipe(recipe_file(("tokens = 4_096", "tokens = 1e9"))).core.tokens == 10**9


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "small.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load_recipe(path).core.lr == 0.01


def test_a_recipe_is_frozen(recipe_file):
    recipe = load_recipe(recipe_file())
    with pytest.raises(ValidationError, match="frozen"):
        recipe.core.lr = 1.0


def test_steps_cover_the_tokens(recipe_file):
    core = load_recipe(recipe_file(), ["core.tokens=129"]).core
    assert (core.tokens_per_step, core.steps) == (128, 2)


def test_a_stage_leaves_its_rope_base_and_context(recipe_file):
    context = "\n[context]" + SMALL.split("[core]")[1] + "rope_base = 99.0\n"
    recipe = load_recipe(recipe_file(text=SMALL + context), ["context.row_tokens=64"])
    assert (recipe.shape_of("core").rope_base, recipe.shape_of("core").max_tokens) == (10_000, 32)
    assert (recipe.shape_of("context").rope_base, recipe.shape_of("context").max_tokens) == (99, 64)


SFT = """
[sft]
lr = 1e-3
row_tokens = 32
rows_per_step = 2
epochs = 1
[sft.data.chats]
path = "chats.jsonl"
"""
PREFER = (
    "[prefer]\nlr = 1e-3\npairs_per_step = 2\nmax_tokens = 32\n"
    '[prefer.data.pairs]\npath = "pairs.jsonl"\n'
)


def test_post_training_starts_from_the_newest_model_before_it(recipe_file):
    later = "\n[context]" + SMALL.split("[core]")[1]
    for text, last in ((SMALL, "core"), (SMALL + later, "context")):
        assert load_recipe(recipe_file(text=text + SFT)).start_of("sft") == last
        assert load_recipe(recipe_file(text=text + PREFER)).start_of("prefer") == last
    recipe = load_recipe(recipe_file(text=SMALL + SFT + PREFER))
    assert recipe.start_of("prefer") == "sft"
    assert recipe.post_training_stages() == ["sft", "prefer"]


@pytest.mark.parametrize("stage", ["prefer", "reward"])
def test_pairs_fit_the_context(recipe_file, stage):
    text = SMALL + PREFER.replace("prefer", stage)
    message, _ = refusal(recipe_file(text=text), [f"{stage}.max_tokens=65"])
    assert f"{stage}.max_tokens (65) is above shape.max_tokens (64)" in message


def test_a_finished_base_is_post_trained_without_texts_or_core(recipe_file):
    shape = SMALL.split("[data.web]")[0]
    recipe = load_recipe(recipe_file(text='base = "smollm2"\n' + shape + SFT))
    assert (recipe.data, recipe.core) == ({}, None)
    assert recipe.start_of("sft") == "base"
    for text in (shape + SFT, 'base = "smollm2"\n' + shape):
        assert refusal(recipe_file(text=text))[0].endswith("the recipe has no [core]")
    message, _ = refusal(recipe_file(text=shape + "[core]" + SMALL.split("[core]")[1]))
    assert "there is no [data.web]" in message or "no [data.NAME]" in message


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sft.row_tokens=128", "sft.row_tokens (128) is above shape.max_tokens (64)"),
        ("training.micro_rows=4", None),
        (
            "sft.rows_per_step=6",
            "sft.rows_per_step (6) must be a multiple of training.micro_rows (4)",
        ),
    ],
)
def test_rows_of_conversations_fit_the_model_and_the_micro_batches(
    recipe_file, assignment, message
):
    path = recipe_file(text=SMALL + SFT)
    assignments = ["training.micro_rows=4", assignment]
    if message is None:
        assert load_recipe(path, assignments).training.micro_rows == 4
    else:
        assert refusal(path, assignments)[0].endswith(message)


# Unknown and missing settings.


def test_a_recipe_without_core_is_refused_unless_a_finished_teacher_is_pruned(recipe_file):
    path = recipe_file(text=SMALL.split("[core]")[0])
    assert refusal(path)[0] == "small.toml: the recipe has no [core]"
    pruned = [f"prune={PRUNE}", "teacher.intermediate_size=128", "teacher.model=big"]
    recipe = load_recipe(path, pruned)
    assert recipe.pretraining_stages() == []
    assert recipe.prune_mixture() == {"web": 1.0}
    assert refusal(path, pruned[:2])[0] == "small.toml: the recipe has no [core]"
    assert refusal(path, [*pruned, "distill.target=top"])[0] == "--set: distill needs a [core]"


def test_a_teacher_trained_here_is_the_wide_shape_and_has_its_own_tokens(recipe_file):
    recipe = load_recipe(recipe_file(), ["teacher={intermediate_size=128, tokens=8_192}"])
    teacher, core = recipe.shape_of("teacher"), recipe.shape_of("core")
    assert (teacher.intermediate_size, core.intermediate_size) == (128, 64)
    assert teacher.model_copy(update={"intermediate_size": 64}) == core
    assert (recipe.pretraining("teacher").tokens, recipe.core.tokens) == (8_192, 4_096)
    assert recipe.trains_teacher()


def test_pruning_reads_cores_mixture_unless_it_has_its_own(recipe_file):
    assigned = [f"prune={PRUNE}", "teacher.intermediate_size=128", "data.b.kind=text"]
    assigned += ["data.b.path=b"]
    assert load_recipe(recipe_file(), assigned).prune_mixture() == {"web": 1.0}
    assigned += ["prune.mixture={b=2.0}"]
    assert load_recipe(recipe_file(), assigned).prune_mixture() == {"b": 2.0}


def test_a_finished_base_keeps_its_context(recipe_file):
    recipe = load_recipe(recipe_file(), ["base=big"])
    assert (recipe.shape_of("core").max_tokens, recipe.core.row_tokens) == (64, 32)


# Files and assignments that cannot be read.


def all_sections(model: type[BaseModel] = Recipe) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= all_sections(part)
    return found


def test_every_setting_is_documented():
    for section in all_sections():
        assert section.__doc__, section
        for name, field in section.model_fields.items():
            assert field.description, (section, name)
            assert field.description.strip().endswith("."), (section, name)


def test_every_setting_is_read_somewhere():
    library = Path(afm_mlx.__file__).parent
    # These files define, check and price settings; they do not act on them.
    no_use = ("sections.py", "recipe.py", "plan.py", "cost.py")
    files = [path for path in library.rglob("*.py") if not path.name.endswith(no_use)]
    files += (library.parent / "cli").glob("*.py")
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    read = {
        node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }
    settings = [name.split(".")[-1] for name in all_names(Recipe)]
    # The stages are read by name, with getattr, and so are the steps of [clean].
    by_name = {*PRETRAINING_STAGES, *CLEANING_STEPS}
    assert set(settings) - read <= by_name
