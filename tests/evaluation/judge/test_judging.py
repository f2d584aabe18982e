"""What is judged, and how."""

import json
from dataclasses import replace

import pytest

from afm_mlx.errors import DataError, RecipeError
from afm_mlx.evaluation.answers import read_answers
from afm_mlx.evaluation.judge.comparing import Comparing
from afm_mlx.evaluation.judge.grading import Grading
from afm_mlx.evaluation.judge.judging import Judging, answers_name, drawing_of, read_judging
from afm_mlx.evaluation.prompts import own_prompts
from afm_mlx.evaluation.subject import Drawing


def test_our_own_prompts_of_two_categories_are_judged():
    found = Judging().prompts(None)
    assert {prompt.category for prompt in found} == {"summarization", "writing"}
    wanted = [each for each in own_prompts() if each.category in ("summarization", "writing")]
    assert found == wanted


def test_a_file_may_have_one_category_alone_and_others_are_left_out(tmp_path):
    rows = [
        {"id": "w", "category": "writing", "prompt": "Write."},
        {"id": "m", "category": "math", "prompt": "2 + 2?"},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [prompt.id for prompt in Judging().prompts(path)] == ["w"]
    path.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(DataError, match="no prompt of summarization or writing: it has math"):
        Judging().prompts(path)


def test_settings_are_read_and_looked_at():
    found = read_judging({"guided": False, "temperature": "server", "judge_temperature": 1})
    assert (found.guided, drawing_of(found.temperature)) == (False, None)
    assert drawing_of(found.judge_temperature) == Drawing(1.0)
    with pytest.raises(RecipeError, match="task judge has no setting 'judge_token'") as caught:
        read_judging({"judge_token": 3})
    assert caught.value.hint == "did you mean 'judge_tokens'?"
    with pytest.raises(DataError, match="temperature is -1"):
        read_judging({"judge_temperature": -1})


def test_a_prompt_that_is_refused_is_an_empty_answer_and_is_asked_again(
    stub, prompts, quiet, tmp_path
):
    path = tmp_path / "answers.jsonl"
    refuses = stub(writes=lambda question: None if question.key == "p3" else "yes")
    found = Judging().write(refuses, prompts, path, quiet)
    assert [each.answer for each in found.answers.values()] == ["yes"] * 3 + [""] + ["yes"] * 4
    assert "p3" not in read_answers(path).answers
    assert "stub: 1 not asked, and so empty: not asked" in (tmp_path / "log").read_text()
    later = stub(writes=lambda question: "now")
    assert Judging().write(later, prompts, path, quiet).answers["p3"].answer == "now"
    assert later.asked == ["p3"]


def test_a_model_that_can_be_asked_nothing_has_empty_answers(stub, prompts, quiet, tmp_path):
    refuses = stub(writes=lambda question: None)
    found = Judging().write(refuses, prompts, tmp_path / "none.jsonl", quiet)
    assert [each.answer for each in found.answers.values()] == [""] * len(prompts)


def test_without_an_opponent_answers_are_graded(prompts, answers):
    judging = Judging(guided=False, reference=False, judge_tokens=7)
    mine, theirs = answers("mine", lambda n: "a"), answers("theirs", lambda n: "b")
    for task, kind in (
        (judging.task(prompts, mine, None), Grading),
        (judging.task(prompts, mine, theirs), Comparing),
    ):
        assert isinstance(task, kind)
        assert (task.guided, task.reference, task.max_tokens) == (False, False, 7)
    with pytest.raises(DataError, match="both models are called 'mine'"):
        judging.task(prompts, mine, mine)


def test_files_of_answers_are_one_for_each_way_of_drawing_them(prompts):
    name = answers_name(prompts, {"temperature": 0.0})
    assert name == answers_name(list(prompts), {"temperature": 0.0})
    assert name != answers_name(prompts, {"temperature": 0.5})
    changed = [replace(prompts[0], prompt="Write about one."), *prompts[1:]]
    assert name != answers_name(changed, {"temperature": 0.0})
