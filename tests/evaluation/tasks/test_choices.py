"""Texts to choose from: original and hub rows read alike, and are worded as in the harness."""

import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Likelihood
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.tasks.choices import FORMS, Choices

ARC_ORIGINAL = {
    "id": "M1",
    "question": {
        "stem": "Which is hot?",
        "choices": [{"text": "ice", "label": "1"}, {"text": "the sun", "label": "2"}],
    },
    "answerKey": "2",
}
ARC_HUB = {
    "question": "Which is hot?",
    "choices": {"text": ["ice", "the sun"], "label": ["1", "2"]},
    "answerKey": "2",
}
HOT = "Question: Which is hot?\nAnswer:"
CAT = "Pets: A cat sits. The cat"
BOIL = "Question: Boil water\nAnswer:"
ROWS = {
    "arc_easy": (ARC_ORIGINAL, [(HOT, " ice"), (HOT, " the sun")], 1),
    "arc_challenge": (ARC_HUB, [(HOT, " ice"), (HOT, " the sun")], 1),
    "openbookqa": (
        {**ARC_HUB, "question": None, "question_stem": "The sun is"},
        [("The sun is", " ice"), ("The sun is", " the sun")],
        1,
    ),
    "hellaswag": (
        {
            "activity_label": "Pets",
            "ctx_a": "A cat [header] sits.",
            "ctx_b": "the cat",
            "endings": ["sleeps [title] Then runs.", "reads."],
            "label": "1",
        },
        [(CAT, " sleeps. Then runs."), (CAT, " reads.")],
        1,
    ),
    "winogrande": (
        {
            "sentence": "Ann thanked Eva because _ had helped.",
            "option1": "Ann",
            "option2": "Eva",
            "answer": "2",
        },
        [
            ("Ann thanked Eva because Ann", " had helped."),
            ("Ann thanked Eva because Eva", " had helped."),
        ],
        1,
    ),
    "piqa": (
        {"goal": "Boil water", "sol1": "heat it", "sol2": "cool it", "label": 0},
        [(BOIL, " heat it"), (BOIL, " cool it")],
        0,
    ),
    "sciq": (
        {
            "support": "Ice is cold.",
            "question": "What is ice?",
            "distractor1": "hot",
            "distractor2": "wet",
            "distractor3": "loud",
            "correct_answer": "cold",
        },
        [
            ("Ice is cold.\nQuestion: What is ice?\nAnswer:", f" {word}")
            for word in ("hot", "wet", "loud", "cold")
        ],
        3,
    ),
}


def written(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("name", list(FORMS))
def test_rows_are_worded_as_in_the_harness(name, tmp_path):
    row, options, right = ROWS[name]
    [item] = Choices(name, written(tmp_path / "x.jsonl", [row])).items()
    assert [(option.context, option.continuation) for option in item.options] == options
    assert item.right == right


@pytest.mark.parametrize("name", list(FORMS))
def test_stand_ins_score_what_they_must(
    name, always_a, always_right, never_replies, quiet, tmp_path
):
    row, _, right = ROWS[name]
    data = written(tmp_path / "x.jsonl", [row, row])
    for who, accuracy in [
        (always_a, float(right == 0)),
        (always_right(), 1.0),
        (never_replies, 0.0),
    ]:
        result = run_task(Choices(name, data), who, tmp_path / str(id(who)), quiet)
        assert result.scores["accuracy"].value == accuracy
    assert result.refused == {"not asked": 2}


def test_a_long_option_may_be_likelier_per_byte(tmp_path):
    task = Choices("hellaswag", written(tmp_path / "x.jsonl", [ROWS["hellaswag"][0]]))
    [item] = task.items()
    reply = [Likelihood(-10.0, 5), Likelihood(-8.0, 2)]  # of 18 bytes, of 6
    marks = task.mark(item, reply)
    assert (marks["accuracy"].value, marks["accuracy_per_byte"].value) == (1.0, 0.0)


def test_examples_stand_before_each_item(tmp_path):
    data = written(tmp_path / "x.jsonl", [ROWS["winogrande"][0]])
    [item] = Choices("winogrande", data, shots=1, shots_from=data).items()
    assert item.options[0].context == (
        "Ann thanked Eva because Eva had helped.\n\nAnn thanked Eva because Ann"
    )
    with pytest.raises(DataError, match="2 shots, and 1 examples"):
        Choices("winogrande", data, shots=2, shots_from=data).items()
    with pytest.raises(DataError, match="nothing to take examples from"):
        Choices("winogrande", data, shots=1).items()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("arc_easy", {"answerKey": "E"}, "'answerKey' is 'E', and the labels are 1, 2"),
        ("arc_easy", {"question": "Which?", "choices": 3}, "'choices' has no texts"),
        ("hellaswag", {"label": "7"}, "'label' is '7', and must be 0 to 1"),
        ("hellaswag", {"endings": "a"}, "'endings' is no list"),
        ("winogrande", {"sentence": "No blank."}, "'sentence' has no _"),
        ("winogrande", {"answer": ""}, "'answer' is '', and must be 1 or 2"),
        ("piqa", {"label": -1}, "'label' is '-1'"),
    ],
)
def test_a_broken_row_is_named(name, change, said, tmp_path):
    row = ROWS[name][0]
    data = written(tmp_path / "x.jsonl", [row, {**row, **change}])
    with pytest.raises(DataError, match=f"line 2: {said}"):
        Choices(name, data).items()


@pytest.mark.parametrize(
    ("name", "field"), [("arc_easy", "answerKey"), ("piqa", "sol2"), ("sciq", "question")]
)
def test_a_missing_field_is_named(name, field, tmp_path):
    row = {key: value for key, value in ROWS[name][0].items() if key != field}
    with pytest.raises(DataError, match=f"line 1: no '{field}'"):
        Choices(name, written(tmp_path / "x.jsonl", [row])).items()
