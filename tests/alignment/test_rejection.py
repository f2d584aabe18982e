"""Which of several answers is kept, and how it is written."""

import json

from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.rejection import as_conversation, best_answer
from afm_mlx.alignment.sampling import Sampled
from afm_mlx.text.conversations import Conversation, read_conversations


def said(*texts, finished=True):
    return [Sampled((1, 2), text, finished) for text in texts]


def test_the_best_answer_that_passes_is_kept():
    answers = said("a", "b", "c")
    assert best_answer(answers, [3.0, 1.0, 2.0], [0.0, 1.0, 1.0], least_score=1.0) == 2


def test_nothing_is_kept_when_none_passes():
    assert best_answer(said("a", "b"), [1.0, 2.0], [0.5, 0.9], least_score=1.0) is None
    assert best_answer(said("a", "b"), [1.0, 2.0], [0.5, 0.9], least_score=0.8) == 1


def test_without_a_check_the_reward_decides_and_the_first_of_equal_ones_is_kept():
    assert best_answer(said("a", "b", "c"), [0.0, 2.0, 2.0], [0.0] * 3, least_score=None) == 1


def test_cut_and_empty_answers_are_never_kept():
    answers = [*said("a", finished=False), *said(" "), *said("c")]
    assert best_answer(answers, [3.0, 2.0, 1.0], [1.0] * 3, least_score=1.0) == 2


def test_what_is_kept_is_read_back_as_a_conversation(tmp_path):
    asked = Conversation(
        ({"role": "user", "content": "2+2?"},), id="x", check={"kind": "number", "answer": "4"}
    )
    line = as_conversation(Prompt((1,), asked), said("It is 4.")[0])
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = read_conversations(tmp_path / "a.jsonl")
    assert found.messages == (*asked.messages, {"role": "assistant", "content": "It is 4."})
    assert (found.id, found.check) == (asked.id, asked.check)
