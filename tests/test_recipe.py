"""Recipes: what is read, what is refused, and in which words."""

import ast
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import afm_mlx
from afm_mlx.errors import RecipeError
from afm_mlx.recipe import (
    Recipe,
    all_names,
    load_named_recipe,
    load_recipe,
)
from afm_mlx.settings.clean import STEPS as CLEANING_STEPS
from afm_mlx.settings.mistakes import expected, line_of
from afm_mlx.settings.recipe import PRETRAINING_STAGES
from afm_mlx.settings.sections import Optimizer, Shape, Source, Training

SMALL = """\
about = "a small recipe"

[shape]
num_layers = 2
hidden_size = 32
num_heads = 4
num_kv_heads = 2
head_dim = 8
intermediate_size = 64
vocab_size = 256
rope_base = 10_000
norm_eps = 1e-5
max_tokens = 64

[data.web]
kind = "text"
path = "data/web"

[core]
tokens = 4_096
row_tokens = 32
rows_per_step = 4
lr = 0.01
warmup_steps = 2
final_lr_fraction = 0.1
weight_decay = 0.0
mixture = { web = 1.0 }
"""
PRUNE = "{tokens=256, row_tokens=32, rows_per_step=4, lr=0.1}"


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    """Write a recipe, `small.toml` in the working folder, with texts replaced."""
    monkeypatch.chdir(tmp_path)

    def write(*replacements, text=SMALL):
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = Path("small.toml")
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path, assignments=()):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, assignments)
    return str(caught.value), caught.value.hint


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


def test_unknown_setting_names_file_line_and_nearest(recipe_file):
    message, hint = refusal(recipe_file(("warmup_steps", "warmup_step")))
    assert message == "small.toml, line 24: no setting is called 'core.warmup_step'"
    assert hint == "did you mean 'core.warmup_steps'?"


def test_unknown_setting_of_an_assignment_names_the_assignment(recipe_file):
    message, hint = refusal(recipe_file(), ["core.lrr=1"])
    assert message == "--set: no setting is called 'core.lrr'"
    assert hint == "did you mean 'core.lr'?"


def test_unknown_setting_in_a_named_table_keeps_the_name(recipe_file):
    message, hint = refusal(recipe_file(('path = "data/web"', 'pth = "data/web"')))
    assert message == "small.toml, line 17: no setting is called 'data.web.pth'"
    assert hint == "did you mean 'data.web.path'?"


def test_unknown_setting_points_to_the_section_that_has_it(recipe_file):
    _, hint = refusal(recipe_file(), ["optimizer.micro_rows=1"])
    assert hint == "did you mean 'training.micro_rows'?"


def test_unknown_setting_like_no_other_lists_its_section(recipe_file):
    _, hint = refusal(recipe_file(), ["tokenizer.zzz=1"])
    assert hint.startswith("the settings here are reserved_pieces, character_coverage, ")


def test_unknown_section_hides_the_missing_one_that_it_means(recipe_file):
    message, hint = refusal(recipe_file(("[shape]", "[shpae]")))
    assert message == "small.toml, line 3: no setting is called 'shpae'"
    assert hint == "did you mean 'shape'?"


def test_missing_setting_names_its_section_and_meaning(recipe_file):
    message, hint = refusal(recipe_file(("lr = 0.01\n", "")))
    assert message == "small.toml, line 19: 'core.lr' is missing"
    assert hint == "add 'core.lr': Peak learning rate"


def test_two_problems_are_shown_and_the_rest_counted(recipe_file):
    path = recipe_file(("num_layers = 2", "num_layers = 0"), ("lr = 0.01\n", ""))
    lines = refusal(path, ["core.tokens=-1"])[0].splitlines()
    assert len(lines) == 2
    assert lines[0] == "small.toml, line 4: shape.num_layers is 0: expected a whole number above 0"
    assert lines[1].endswith("(and 1 more)")


def test_unknown_settings_are_shown_before_what_may_follow_from_them(recipe_file):
    path = recipe_file(("num_layers = 2", "num_layers = 0"), ("about", "abt"))
    message, hint = refusal(path, ["core.tokens=-1"])
    assert message == "small.toml, line 1: no setting is called 'abt' (and 2 more)"
    assert hint == "did you mean 'about'?"


def test_contradiction_made_on_the_command_line_blames_it(recipe_file):
    message, _ = refusal(recipe_file(), ["core.mixture.webb=1"])
    assert message.startswith("--set: core.mixture names 'webb'")


def test_an_empty_recipe_is_refused_in_one_line(recipe_file):
    lines = refusal(recipe_file(text=""))[0].splitlines()
    assert lines == [
        "small.toml: 'shape' is missing",
    ]


# Wrong values.


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("core.lr=fast", "core.lr is 'fast': expected a number above 0"),
        ("core.lr=0", "core.lr is 0: expected a number above 0"),
        ("core.lr=", "core.lr is '': expected a number above 0"),
        ("core.lr=true", "core.lr is true: expected a number above 0"),
        ("core.lr=nan", "core.lr is nan: expected a number above 0"),
        ("core.lr=inf", "core.lr is inf: expected a number above 0"),
        ("core.lr='0.1'", "core.lr is '0.1': expected a number above 0"),
        ("core.tokens=1.5", "core.tokens is 1.5: expected a whole number above 0"),
        ("core.tokens=[1]", "core.tokens is a list: expected a whole number above 0"),
        ("core.warmup_steps=-1", "core.warmup_steps is -1: expected a whole number of 0 or more"),
        ("core.final_lr_fraction=2", "core.final_lr_fraction is 2: expected a number from 0 to 1"),
        (
            "optimizer.update_decay=1.0",
            "optimizer.update_decay is 1.0: expected a number from 0 to below 1",
        ),
        (
            "training.seed=-1",
            "training.seed is -1: expected a whole number from 0 to below 2,147,483,648",
        ),
        (
            "training.micro_rows=none",
            "training.micro_rows is 'none': expected a whole number above 0",
        ),
        (
            "watch.memory_fraction=0",
            "watch.memory_fraction is 0: expected a number above 0 and at most 1",
        ),
        ("shape.tied=1", "shape.tied is 1: expected true or false"),
        ("shape.tied=yes", "shape.tied is 'yes': expected true or false"),
        ("data.web.path=7", "data.web.path is 7: expected text"),
        ("core=7", "core is 7: expected a table of settings"),
        ("core.mixture=7", "core.mixture is 7: expected a table"),
        ("core.mixture.web=-1", "core.mixture.web is -1: expected a number above 0"),
        ("watch.sample_prompts=7", "watch.sample_prompts is 7: expected a list"),
        ("watch.sample_prompts=[7]", "watch.sample_prompts.0 is 7: expected text"),
        (
            "data.web.kind=jsonlines",
            "data.web.kind is 'jsonlines': expected one of text, markdown, jsonl, parquet, html, "
            "warc, code",
        ),
        (
            "name=My Model",
            "name is 'My Model': expected lower-case letters, digits, dots, dashes or underscores",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(recipe_file, assignment, message):
    assert refusal(recipe_file(), [assignment])[0] == f"--set: {message}"


def test_a_wrong_value_in_the_file_names_its_line(recipe_file):
    message, hint = refusal(recipe_file(("lr = 0.01", 'lr = "fast"')))
    assert message == "small.toml, line 23: core.lr is 'fast': expected a number above 0"
    assert hint == "'core.lr' is: Peak learning rate"


def test_a_wrong_word_names_the_nearest_allowed_one(recipe_file):
    assert refusal(recipe_file(), ["optimizer.name=adam"])[1] == "did you mean 'adamw'?"


def test_a_long_wrong_value_is_cut(recipe_file):
    message, _ = refusal(recipe_file(), [f"core.lr={'x' * 500}"])
    assert len(message) < 120


# Settings that contradict each other.


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["shape.num_heads=3"],
            "--set: shape: num_heads (3) must be a multiple of num_kv_heads (2)",
        ),
        (["shape.head_dim=7"], "--set: shape: head_dim (7) must be even, RoPE rotates pairs"),
        (
            ["core.row_tokens=128"],
            "--set: core.row_tokens (128) is above shape.max_tokens (64)",
        ),
        (
            ["training.micro_rows=3"],
            "--set: core.rows_per_step (4) must be a multiple of training.micro_rows (3)",
        ),
        (
            ["core.mixture={wbe=1}"],
            "--set: core.mixture names 'wbe', and there is no [data.wbe]; did you mean 'web'?",
        ),
        (["core.mixture={}"], "--set: core: mixture names no data source"),
        (
            ['distill.stages=["core"]'],
            "--set: distill needs a [teacher]",
        ),
        (
            ["teacher.model=big", "teacher.intermediate_size=8"],
            "--set: teacher.intermediate_size (8) is below shape.intermediate_size (64)",
        ),
        (
            ["teacher={}"],
            "--set: teacher: needs intermediate_size, or model with a finished teacher",
        ),
        ([f"prune={PRUNE}"], "--set: prune needs a [teacher]"),
        (
            [f"prune={PRUNE}", "teacher.model=big"],
            "--set: prune needs teacher.intermediate_size",
        ),
        (
            [f"prune={PRUNE}", "teacher.intermediate_size=128", "base=big"],
            "--set: [core] starts from the pruned teacher, or from base ('big')",
        ),
        (
            [f"prune={PRUNE}", "teacher.intermediate_size=128", "prune.row_tokens=128"],
            "--set: prune.row_tokens (128) is above shape.max_tokens (64)",
        ),
        (
            [
                *[f"prune={PRUNE}", "teacher.intermediate_size=128"],
                *["prune.rows_per_step=5", "training.micro_rows=4"],
            ],
            "--set: prune.rows_per_step (5) must be a multiple of training.micro_rows (4)",
        ),
        (
            [f"prune={PRUNE}", "teacher.intermediate_size=128", "prune.mixture.wbe=1"],
            "--set: prune.mixture names 'wbe', and there is no [data.wbe]; did you mean 'web'?",
        ),
        (
            [f"prune={PRUNE}", "teacher.intermediate_size=128", "prune.last_temperature=2"],
            "--set: prune: last_temperature (2) is above first_temperature (1)",
        ),
        (
            ["teacher.model=big", "distill.target=logits", "distill.candidates=300"],
            "--set: distill.candidates (300) is above shape.vocab_size (256)",
        ),
        (
            ["data={'../up'={kind='text', path='x'}}"],
            "--set: data holds '../up': a name has letters, digits, dashes, underscores",
        ),
    ],
)
def test_contradictions_name_both_settings(recipe_file, assignments, message):
    assert refusal(recipe_file(), assignments)[0] == message


def test_contradictions_in_the_file_name_a_line(recipe_file):
    message, _ = refusal(recipe_file(("row_tokens = 32", "row_tokens = 128")))
    assert message == "small.toml, line 21: core.row_tokens (128) is above shape.max_tokens (64)"


# Pruning and distillation.


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


def test_a_missing_file_is_refused(recipe_file):
    recipe_file()
    assert refusal(Path("nothing.toml"))[0] == (
        "cannot read recipe nothing.toml: no such file or directory"
    )


def test_a_folder_is_refused(tmp_path):
    assert "is a directory" in refusal(tmp_path)[0]


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "small.toml"
    path.write_bytes(b"about = '\xff'")
    assert refusal(path)[0] == f"cannot read recipe {path}: not UTF-8 (byte 9)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 0.01", "lr = ", "small.toml, line 23, column 6: not TOML: invalid value"),
        (
            "lr = 0.01",
            "lr = 0.01 0.02",
            "small.toml, line 23, column 11: not TOML: expected newline or end of document after "
            "a statement",
        ),
        (
            "{ web = 1.0 }",
            "[1",
            "small.toml, line 27, at the end of the file: not TOML: unclosed array",
        ),
        ("lr = 0.01", "lr = 0.01\nlr = 0.02", "small.toml, line 24: 'lr' is given twice"),
        ("[core]", "[shape]", "small.toml, line 19: section [shape] is given twice"),
    ],
)
def test_broken_toml_names_line_and_what(recipe_file, old, new, message):
    assert refusal(recipe_file((old, new)))[0] == message


@pytest.mark.parametrize("assignment", ["core.lr", "=3", "core..lr=3", ".=3", "core.=3", ""])
def test_an_assignment_without_name_and_value_is_refused(recipe_file, assignment):
    message, hint = refusal(recipe_file(), [assignment])
    assert message == f"--set: '{assignment}' is not NAME=VALUE"
    assert hint == "try --set core.lr=0.02"


def test_an_assignment_through_a_number_is_refused(recipe_file):
    message, _ = refusal(recipe_file(), ["core.lr.peak=1"])
    assert message == "--set: 'core.lr.peak' goes through 'lr', which holds no settings"


def test_an_assignment_sets_one_setting_only(recipe_file):
    message, _ = refusal(recipe_file(), ["core.lr=1\nname='other'"])
    assert message.startswith("--set: core.lr is '1\nname='other'': expected a number")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="no recipe is called 'afm-tinny'") as caught:
        load_named_recipe("afm-tinny")
    assert caught.value.hint == "did you mean 'afm-tiny'?"


def test_a_path_is_a_recipe_name_too(recipe_file):
    assert load_named_recipe(str(recipe_file()), ["core.lr=1"]).core.lr == 1


# Lines.


def test_lines_are_found_in_sections_dotted_keys_and_quoted_keys():
    text = 'a = 1\n[b]\nc.d = 2\n["e.f".g]\n# h = 3\nh = 4\n[b.k]\n'
    assert line_of(text, ["a"]) == 1
    assert line_of(text, ["b", "c", "d"]) == 3
    assert line_of(text, ["e.f", "g", "h"]) == 6
    assert line_of(text, ["b", "absent"]) == 2
    assert line_of(text, ["absent"]) == 0


def test_bounds_are_said_in_words():
    assert expected(Shape.model_fields["num_layers"]) == "a whole number above 0"
    assert expected(Training.model_fields["z_loss"]) == "a number of 0 or more"
    assert expected(Optimizer.model_fields["name"]) == "one of afm, adamw, muon"
    assert expected(Source.model_fields["max_bytes"]) == "a whole number above 0"


# The settings themselves.


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
