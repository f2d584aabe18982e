"""Tasks by name."""

import inspect

import pytest

from afm_mlx.errors import DataError, RecipeError
from afm_mlx.evaluation.registry import KINDS, open_task
from afm_mlx.evaluation.tasks.choices import FORMS


@pytest.mark.parametrize("name", KINDS)
def test_every_task_can_be_made_and_says_what_it_is(name):
    kind = KINDS[name]
    assert callable(kind.maker())
    assert kind.about
    assert kind.data
    known = inspect.signature(kind.maker()).parameters
    assert set(kind.fixed) <= set(known)
    if kind.data.startswith("hub:"):
        assert kind.data == (FORMS[name].hub if name in FORMS else known["data"].default)


def test_a_model_decides_what_is_not_given(engine):
    asked = open_task("gsm8k", engine=engine)
    assert asked.chat
    assert not open_task("gsm8k", settings={"chat": False}, engine=engine).chat
    assert open_task("bfcl", engine=engine).format == engine.tool_format
    assert open_task("needle", engine=engine).count_tokens("The cat") == len(
        engine.tokenizer.encode("The cat")
    )


def test_behind_an_endpoint_examples_come_as_a_chat():
    assert open_task("gsm8k", behind_endpoint=True).chat
    assert not open_task("gsm8k", settings={"chat": False}, behind_endpoint=True).chat
    needle = open_task("needle", behind_endpoint=True)
    assert needle.settings == open_task("needle").settings


def test_the_judge_is_no_task_of_a_recipe():
    with pytest.raises(RecipeError, match="task judge needs a model that judges") as refused:
        open_task("judge")
    assert refused.value.hint == "afm eval MODEL --task judge --judge MODEL"


def test_settings_are_read_as_what_they_are(tmp_path):
    task = open_task("checks", tmp_path / "a.jsonl", {"max_tokens": "12"})
    assert task.max_tokens == 12


@pytest.mark.parametrize(
    ("name", "settings", "said", "hint"),
    [
        ("check", {}, "no task is called 'check'", "did you mean 'checks'?"),
        ("checks", {"max_token": 3}, "checks has no setting 'max_token'", "'max_tokens'?"),
        ("checks", {"max_tokens": "many"}, "max_tokens is 'many': input should be a", ""),
    ],
)
def test_what_is_unknown_is_refused(name, settings, said, hint):
    with pytest.raises(RecipeError) as refused:
        open_task(name, "a.jsonl", settings)
    assert said in str(refused.value)
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("checks", (), "task checks is not made of documents"),
        ("checks", "hub:org/exam", "task checks reads a file of this machine, not hub:org/exam"),
        ("needle", "a.jsonl", "task needle takes no data"),
    ],
)
def test_data_that_a_task_cannot_be_made_of_are_refused(name, data, said):
    with pytest.raises(DataError, match=f"^{said}$"):
        open_task(name, data)


def test_a_task_without_a_usual_place_needs_data():
    with pytest.raises(DataError, match="task checks needs data"):
        open_task("checks")
