"""Rejection sampling as a stage: what is kept passes its check, and parts are not done twice."""

import json

import pytest

from afm_mlx import own_model
from afm_mlx.errors import DataError
from afm_mlx.progress import Progress
from afm_mlx.text.conversations import read_conversations


@pytest.fixture
def prompts(tmp_path):
    """Questions that a random model answers to the checker's satisfaction now and then."""
    file = tmp_path / "prompts.jsonl"
    checks = [{"kind": "contains", "texts": ["a"]}, {"kind": "exact", "answer": "never said"}]
    lines = [
        {"messages": [{"role": "user", "content": f"Where is {n}?"}], "check": checks[n % 2]}
        for n in range(8)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


SETTINGS = [
    "reject.max_tokens=24",
    "reject.answers_per_prompt=32",
    "reject.prompts_at_once=3",
    "reject.temperature=1.0",
]


def keep(base, prompts, out):
    recipe = own_model.reject_recipe(base, prompts, assignments=SETTINGS)
    return own_model.run(recipe, "reject", out, Progress())["metrics"]


def test_what_is_kept_passes_its_check_and_can_be_trained_on(chatty, prompts, tmp_path):
    metrics = keep(chatty, prompts, tmp_path / "out")
    kept = list(read_conversations(tmp_path / "out" / "conversations.jsonl"))
    assert metrics["kept"] == len(kept) > 0
    assert (metrics["prompts"], metrics["answers"]) == (8, 8 * 32)
    for conversation in kept:
        assert conversation.messages[-1]["role"] == "assistant"
        assert conversation.check == {"kind": "contains", "texts": ["a"]}
        assert "a" in conversation.messages[-1]["content"]


def test_prompts_of_which_nothing_says_what_is_right_are_refused(chatty, tmp_path):
    file = tmp_path / "bare.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    with pytest.raises(DataError, match=r"no prompt has a 'check', and reject\.model_weight is 0"):
        keep(chatty, file, tmp_path / "out")


def test_the_same_call_keeps_the_same_and_an_interrupted_one_goes_on(chatty, prompts, tmp_path):
    keep(chatty, prompts, tmp_path / "one")
    stopped = tmp_path / "two"

    class Stopping(Progress):
        def status(self, line, *, last=False):
            raise KeyboardInterrupt  # after the first part

    recipe = own_model.reject_recipe(chatty, prompts, assignments=SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        own_model.run(recipe, "reject", stopped, Stopping())
    (part,) = (tmp_path / "two.work").glob("own/reject.part/parts/*.json")
    part.write_text(json.dumps({"lines": [], "right": 0.0, "finished": 0}))  # is not made again
    keep(chatty, prompts, stopped)
    one, two = (
        (tmp_path / name / "conversations.jsonl").read_text().splitlines()
        for name in ("one", "two")
    )
    assert two == [line for line in one if line in two] != one
