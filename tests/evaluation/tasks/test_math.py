import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Refusal
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.tasks.math import EXAMPLES, MATH
from afm_mlx.evaluation.tasks.math_answers import last_boxed, same_answer, stated_answer

ROWS = [
    {"problem": "What is $1/4 + 1/4$?", "level": "Level 1", "type": "Algebra",
     "solution": r"It is $\frac24 = \boxed{\frac{1}{2}}$."},
    {"problem": "Where is $x^2 < 4$?", "level": "Level 2", "type": "Precalculus",
     "solution": r"It is $\boxed{(-2,2)}$."},
    {"problem": "What is $2 + 2$?", "level": "Level 1", "type": "Algebra",
     "solution": r"It is \boxed{4}."},
]  # fmt: skip


def test_a_prompt_is_four_solved_problems_and_one_that_is_not(data):
    (item,) = MATH(data(ROWS[0])).items()
    assert item.prompt.startswith(
        f"Problem:\n{EXAMPLES[0][0]}\n\nSolution: {EXAMPLES[0][1]}\n\nProblem:\n"
    )
    assert item.prompt.endswith("\n\nProblem:\nWhat is $1/4 + 1/4$?\n\nSolution:")
    assert item.prompt.count("Problem:") == 5
    assert item.stop == ("Problem:",)


def test_a_chat_has_two_turns_for_each_example(data):
    (item,) = MATH(data(ROWS[0]), shots=1, chat=True).items()
    assert [turn["role"] for turn in item.prompt] == ["user", "assistant", "user"]
    assert item.prompt[1]["content"] == EXAMPLES[0][1]
    assert item.stop == ()


def test_every_example_states_what_it_boxes():
    for _, solution in EXAMPLES:
        assert same_answer(stated_answer(solution), last_boxed(solution))


def test_types_are_groups_and_number_their_problems(data):
    items = MATH(data(*ROWS)).items()
    assert [(item.key, item.group) for item in items] == [
        ("Algebra/1", "Algebra"),
        ("Precalculus/1", "Precalculus"),
        ("Algebra/2", "Algebra"),
    ]


def test_a_folder_with_a_file_for_each_problem_is_read(tmp_path):
    for kind, number, row in [("algebra", 1, ROWS[0]), ("precalculus", 7, ROWS[1])]:
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{number}.json").write_text(json.dumps(row))
    items = MATH(tmp_path).items()
    assert [item.facts["right"] for item in items] == [r"\frac{1}{2}", "(-2,2)"]


def test_an_answer_beside_the_solution_is_taken(data):
    row = {"problem": "What?", "subject": "Algebra", "answer": "7", "solution": "No box."}
    (item,) = MATH(data(row)).items()
    assert (item.facts["right"], item.group) == ("7", "Algebra")


@pytest.mark.parametrize(
    ("text", "accuracy", "strict"),
    [
        ("Final Answer: The final answer is $0.5$. I hope it is correct.", 1.0, 1.0),
        (r"So it is \boxed{\dfrac12}.", 1.0, 0.0),
        (r"\boxed{\frac12} The final answer is 3.", 0.0, 0.0),
        ("So it is 1/2.", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_answers_are_marked_in_any_form_and_in_that_of_the_examples(text, accuracy, strict, data):
    task = MATH(data(ROWS[0]))
    (item,) = task.items()
    marks = task.mark(item, Answer(text))
    assert (marks["accuracy"].value, marks["strict"].value) == (accuracy, strict)


def test_algebra_is_asked_where_wanted(data):
    pytest.importorskip("antlr4", reason="needs the extra math")
    row = {**ROWS[0], "solution": r"\boxed{x+1}"}
    for algebra in (False, True):
        task = MATH(data(row), algebra=algebra)
        (item,) = task.items()
        assert task.mark(item, Answer(r"\boxed{1+x}"))["accuracy"].value == float(algebra)
        assert task.mark(item, Answer(r"\boxed{1-x}"))["accuracy"].value == 0.0


def test_scores_of_stand_ins_are_what_they_must_be(
    always_a, always_right, never_replies, quiet, tmp_path, data
):
    task = MATH(data(*ROWS))
    right = always_right(
        lambda question: f"The final answer is ${question.facts['right']}$. I hope it is correct."
    )
    found = {
        name: run_task(task, who, tmp_path / name, quiet)
        for name, who in [("a", always_a), ("right", right), ("none", never_replies)]
    }
    assert {name: [score.value for score in result.scores.values()]
            for name, result in found.items()} == {
        "a": [0.0, 0.0], "right": [1.0, 1.0], "none": [0.0, 0.0],
    }  # fmt: skip
    assert found["right"].groups["Algebra"]["accuracy"].n == 2
    assert list(found["right"].scores) == list(MATH.figures)


def test_a_refusal_is_marked_like_no_answer(data):
    task = MATH(data(ROWS[0]))
    (item,) = task.items()
    assert task.mark(item, Refusal("too long")) == task.mark(item, Answer(""))
    assert task.kept(item, Answer(r"\boxed{3}"))["given"] == "3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": None}, "line 2: 'problem' is no text but None"),
        ({"type": ""}, "line 2: 'type' is empty"),
        ({"solution": "It is 4."}, r"line 2: 'solution' has no \\boxed answer"),
        ({"answer": 4}, "line 2: 'answer' is no text but 4"),
    ],
)
def test_a_mistake_in_the_data_is_named_with_its_line(change, message, data):
    with pytest.raises(DataError, match=message):
        MATH(data(ROWS[0], {**ROWS[1], **change})).items()


@pytest.mark.parametrize("name", ["problem", "solution", "type"])
def test_a_missing_column_is_named(name, data):
    row = {field: value for field, value in ROWS[0].items() if field != name}
    with pytest.raises(DataError, match=f"line 1: no '{name}'"):
        MATH(data(row)).items()


def test_more_examples_than_there_are_are_refused(data):
    with pytest.raises(DataError, match="5 shots, but there are 4 examples"):
        MATH(data(ROWS[0]), shots=5).items()


def test_a_missing_package_is_told_before_a_model_is_asked(data, monkeypatch):
    from afm_mlx.evaluation.tasks import math_algebra

    monkeypatch.setattr(math_algebra, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="algebra needs the package sympy"):
        MATH(data(ROWS[0]), algebra=True).items()
