"""Mistakes in a recipe are named with file, line, value, and what was expected."""

from pathlib import Path

import pytest

from afm_mlx.errors import RecipeError
from afm_mlx.recipe import (
    load_named_recipe,
)
from afm_mlx.settings.mistakes import expected, line_of
from afm_mlx.settings.sections import Optimizer, Shape, Source, Training

from .conftest import PRUNE, refusal


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
