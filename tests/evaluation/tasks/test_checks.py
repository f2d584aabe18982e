"""Prompts whose answers a program checks."""

import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.tasks.checks import Checks

ROWS = [
    {
        "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
        "check": {"kind": "number", "answer": "4"},
        "id": "basics/sum.3/0-0",
    },
    {
        "messages": [{"role": "user", "content": "Say cat and dog."}],
        "check": {"kind": "contains", "texts": ["cat", "dog"]},
        "id": "basics/say.1/0-1",
    },
]


@pytest.fixture
def task(tmp_path):
    file = tmp_path / "exam.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Checks(file, max_tokens=8)


def test_scores_of_stand_ins(task, stub, always_a, never_replies, quiet, tmp_path):
    answers = {"basics/sum.3/0-0": "It is 4.", "basics/say.1/0-1": "cat, dog"}
    half = {**answers, "basics/say.1/0-1": "cat"}
    whos = {
        "right": stub(writes=lambda question: answers[question.key]),
        "half": stub(writes=lambda question: half[question.key]),
        "a": always_a,
        "nothing": never_replies,
    }
    found = {name: run_task(task, who, tmp_path / name, quiet).scores for name, who in whos.items()}
    shares = {name: (each["accuracy"].value, each["parts"].value) for name, each in found.items()}
    assert shares == {"right": (1, 1), "half": (0.5, 0.75), "a": (0, 0), "nothing": (0, 0)}


def test_no_model_reads_the_right_answer_and_groups_are_the_families(task):
    first, second = task.items()
    assert [message["role"] for message in first.prompt] == ["user"]
    assert first.facts["right"] == "4"
    assert (first.group, second.group) == ("sum", "say")


def test_the_right_function_counts_apart_from_its_arguments(stub, quiet, tmp_path):
    call = {"name": "send", "arguments": {"to": "Ann"}}
    row = {
        "messages": [{"role": "user", "content": "Send it to Ann."}],
        "check": {"kind": "tool_calls", "calls": [call]},
    }
    file = tmp_path / "calls.jsonl"
    file.write_text(json.dumps(row) + "\n")
    wrong = '<tool_call>{"name": "send", "arguments": {"to": "Bob"}}</tool_call>'
    scores = run_task(Checks(file), stub(writes=lambda _: wrong), tmp_path / "run", quiet).scores
    assert (scores["accuracy"].value, scores["named"].value) == (0.0, 1.0)


def test_a_conversation_without_a_check_is_named(tmp_path):
    file = tmp_path / "exam.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}) + "\n")
    with pytest.raises(DataError, match=r"exam\.jsonl.*1.*no check"):
        Checks(file).items()
