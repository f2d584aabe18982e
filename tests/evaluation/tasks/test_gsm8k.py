import json
from fractions import Fraction

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Refusal
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.tasks.gsm8k import EXAMPLES, GSM8K, stated_number
from afm_mlx.synthetic.checks import as_number, final_number

ROWS = [
    {"question": "How many are 2 and 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
    {"question": "What do 1,000 at $1.50 cost?", "answer": "It is much.\n#### 1,500"},
]


def values(task, text):
    marks = [task.mark(item, Answer(text)) for item in task.items()]
    return [(each["accuracy"].value, each["strict"].value) for each in marks]


def test_the_number_of_every_real_solution_is_found(real_data):
    file = real_data / "gsm8k" / "test.jsonl"
    if not file.exists():
        pytest.skip("no GSM8K in the folder of real data")
    task = GSM8K(file)
    items = task.items()
    solutions = [json.loads(line)["answer"] for line in file.read_text().splitlines()]
    assert len(items) == len(solutions) == 1_319
    for item, solution in zip(items, solutions, strict=True):
        steps, _, number = solution.rpartition("#### ")
        for text in (solution, f"{steps}The answer is {number}.", f"{steps}So: ${number}."):
            assert task.mark(item, Answer(text))["accuracy"].value == 1.0, item.key
        for text in (solution, f"{steps}The answer is {number}."):
            assert task.mark(item, Answer(text))["strict"].value == 1.0, item.key


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 18.", 18),
        ("The answer is 1,250.", 1250),
        ("The answer is -3.5, I think", Fraction(-7, 2)),
        ("#### 7", 7),
        ("The answer is 5. The answer is 6.", 5),
        ("The answer is $18.", None),
        ("the answer is 18", None),
        ("It is 18.", None),
        ("The answer is 1:00 AM.", 1),
        ("The answer is ...", None),
        ("", None),
    ],
)
def test_a_stated_number_is_found_in_the_form_of_the_examples_alone(text, number):
    assert stated_number(text) == number


def test_the_last_number_counts_whatever_its_form(data):
    task = GSM8K(data(ROWS[1]), shots=0)
    for text in ("$1,500", "1500.00 dollars", "It is 3 x 500 = **1,500**!", "#### 1500\n7 is more"):
        assert values(task, text)[0][0] == 1.0, text
    for text in ("1,500 of 2,000", "fifteen hundred", "150", ""):
        assert values(task, text)[0][0] == 0.0, text


def test_a_prompt_is_eight_solved_questions_and_one_that_is_not(data):
    (item,) = GSM8K(data(ROWS[0])).items()
    assert item.prompt.startswith(f"Q: {EXAMPLES[0].question}\nA: {EXAMPLES[0].solution}\n\nQ: ")
    assert item.prompt.endswith("The answer is 8.\n\nQ: How many are 2 and 3?\nA:")
    assert item.prompt.count("Q: ") == 9
    assert item.stop == ("Q:",)


def test_a_chat_has_two_turns_for_each_example(data):
    (item,) = GSM8K(data(ROWS[0]), shots=2, chat=True).items()
    assert [turn["role"] for turn in item.prompt] == ["user", "assistant"] * 2 + ["user"]
    assert item.prompt[1]["content"] == EXAMPLES[0].solution
    assert item.prompt[-1]["content"] == "Q: How many are 2 and 3?\nA:"
    assert item.stop == ()


def test_examples_can_come_from_data(data):
    train = data(*ROWS, name="train.jsonl")
    (item,) = GSM8K(data(ROWS[1]), shots=1, shots_from=train).items()
    assert item.prompt == (
        "Question: How many are 2 and 3?\nAnswer: 2 + 3 = <<2+3=5>>5\n#### 5\n\n"
        "Question: What do 1,000 at $1.50 cost?\nAnswer:"
    )
    assert item.stop == ("Question:",)


def test_no_examples_are_a_prompt_too(data):
    (item,) = GSM8K(data(ROWS[0]), shots=0).items()
    assert item.prompt == "Q: How many are 2 and 3?\nA:"


def test_every_example_ends_with_the_number_of_its_steps():
    for example in EXAMPLES:
        assert stated_number(example.solution) == final_number(example.solution)
    assert [int(stated_number(example.solution)) for example in EXAMPLES] == [
        6, 5, 39, 8, 9, 29, 33, 8,
    ]  # fmt: skip


def test_scores_of_stand_ins_are_what_they_must_be(
    always_a, always_right, never_replies, quiet, tmp_path, data
):
    task = GSM8K(data(*ROWS))
    right = always_right(lambda question: f"The answer is {question.facts['right']}.")
    found = {
        name: run_task(task, who, tmp_path / name, quiet)
        for name, who in [("a", always_a), ("right", right), ("none", never_replies)]
    }
    assert {name: [score.value for score in result.scores.values()]
            for name, result in found.items()} == {
        "a": [0.0, 0.0], "right": [1.0, 1.0], "none": [0.0, 0.0],
    }  # fmt: skip
    assert found["right"].scores.keys() == GSM8K.figures.keys()


def test_a_refusal_is_marked_like_no_answer(data):
    task = GSM8K(data(ROWS[0]))
    (item,) = task.items()
    assert task.mark(item, Refusal("too long")) == task.mark(item, Answer(""))
    assert task.kept(item, Answer("")) == {"question": ROWS[0]["question"], "right": "5"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "How?"}, "line 2: no 'answer'"),
        ({"answer": "#### 5"}, "line 2: no 'question'"),
        ({"question": " ", "answer": "#### 5"}, "line 2: 'question' is empty"),
        ({"question": 5, "answer": "#### 5"}, "line 2: 'question' is no text but 5"),
        ({"question": "How?", "answer": "5"}, "line 2: 'answer' does not end with '#### '"),
        ({"question": "How?", "answer": "#### five"}, "line 2: 'answer' does not end with"),
    ],
)
def test_a_mistake_in_the_data_is_named_with_its_line(row, message, data):
    with pytest.raises(DataError, match=message):
        GSM8K(data(ROWS[0], row)).items()


def test_more_examples_than_there_are_are_refused(data):
    file = data(*ROWS)
    with pytest.raises(DataError, match="9 shots, but there are 8 examples"):
        GSM8K(file, shots=9).items()
    with pytest.raises(DataError, match=r"3 shots, but .*rows\.jsonl has 2 items"):
        GSM8K(file, shots=3, shots_from=file).items()


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        GSM8K(tmp_path / "none.jsonl").items()


def test_numbers_are_compared_as_numbers():
    assert as_number("1,500.0") == final_number("$1500")
