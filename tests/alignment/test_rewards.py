"""What an answer is worth: checks, a reward model, penalties, and their sum by hand."""

from dataclasses import replace

import pytest

from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.rewards import Rewards, try_checks
from afm_mlx.alignment.sampling import Sampled
from afm_mlx.errors import DataError
from afm_mlx.synthetic.checks import score
from afm_mlx.text.conversations import Conversation

ASKED = ({"role": "user", "content": "How much is 20 + 22?"},)


class ByLength:
    """A reward model that likes long answers, and notes what it reads."""

    def __init__(self):
        self.read = []

    def score_answers(self, answers):
        self.read += [(list(answer.ids), answer.start) for answer in answers]
        return [float(len(answer.ids) - answer.start) for answer in answers]


def prompt(check):
    return Prompt((7, 8, 9), Conversation(ASKED, check=check))


def rewards(scorer=None, **changes):
    settings = {
        "check_weight": 1.0,
        "model_weight": 0.0,
        "length_penalty": 0.0,
        "truncation_penalty": 0.0,
        "max_tokens": 10,
    }
    return Rewards(score, scorer, **(settings | changes))


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"kind": "number", "answer": "42"}, "It is 42.", "It is 41."),
        ({"kind": "exact", "answer": "42"}, "42", "43"),
        ({"kind": "contains", "texts": ["forty"]}, "forty-two", "42"),
    ],
)
def test_a_check_rewards_what_is_right(check, right, wrong):
    answers = [Sampled((1, 2), right, True), Sampled((1, 2), wrong, True)]
    assert rewards()(prompt(check), answers) == [1, 0]


def test_a_written_tool_call_is_checked():
    call = {"name": "add", "arguments": {"a": 20, "b": 22}}
    text = '<tool_call>{"name": "add", "arguments": {"a": 20, "b": 22}}</tool_call>'
    check = {"kind": "tool_calls", "calls": [call]}
    assert rewards()(prompt(check), [Sampled((1,), text, True), Sampled((1,), "42", True)]) == [
        1,
        0,
    ]


def test_reward_is_the_weighted_sum_less_penalties():
    scorer = ByLength()
    found = rewards(
        scorer, check_weight=2.0, model_weight=0.5, length_penalty=0.3, truncation_penalty=0.25
    )(
        prompt({"kind": "number", "answer": "42"}),
        [Sampled((1, 2, 3, 4), "42", True), Sampled((5,) * 10, "42 and so on 7", False)],
    )
    assert found == pytest.approx([2 - 0.3 * 4 / 10 + 0.5 * 4, 0 - 0.3 - 0.25 + 0.5 * 10])
    assert scorer.read == [([7, 8, 9, 1, 2, 3, 4], 3), ([7, 8, 9] + [5] * 10, 3)]


def test_answers_that_were_checked_are_not_checked_again():
    asked = []

    def check(wanted, text):
        asked.append(text)
        return score(wanted, text)

    judge = replace(rewards(length_penalty=0.5), check=check)
    answers = [Sampled((1, 2), "42", True), Sampled((1, 2), "43", True)]
    question = prompt({"kind": "exact", "answer": "42"})
    checked = judge.checked(question, answers)
    assert judge.of_checked(question, answers, checked) == rewards(length_penalty=0.5)(
        question, answers
    )
    assert asked == ["42", "43"]


def test_a_prompt_without_a_check_gets_nothing_from_it():
    assert rewards()(prompt(None), [Sampled((1,), "42", True)]) == [0]


def test_a_check_that_cannot_be_read_is_named_by_line_before_anything_is_sampled():
    good = {"kind": "number", "answer": "42"}
    bad = {"kind": "constraints", "list": [{"kind": "no_commas"}]}
    prompts = [
        Prompt((1,), Conversation(ASKED, check=check, where=f"prompts.jsonl, line {line}"))
        for line, check in enumerate([good, None, bad], start=1)
    ]
    with pytest.raises(DataError, match=r"prompts.jsonl, line 3: no constraint is called 'None'"):
        try_checks(score, prompts)
