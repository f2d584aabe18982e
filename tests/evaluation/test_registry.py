"""Tasks by name."""

import pytest

from afm_mlx.errors import DataError, RecipeError
from afm_mlx.evaluation.registry import KINDS, open_task


@pytest.mark.parametrize("name", KINDS)
def test_every_task_can_be_made_and_says_what_it_is(name):
    kind = KINDS[name]
    assert callable(kind.maker())
    assert kind.about
    assert bool(kind.data) != bool(kind.needs)


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


def test_a_task_without_a_usual_place_needs_data():
    with pytest.raises(DataError, match="task checks needs data"):
        open_task("checks")
