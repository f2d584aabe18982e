import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from afm_mlx.alignment.logps import Answer, answer_logps, pack_answers
from afm_mlx.alignment.measures import RewardMeasure
from afm_mlx.alignment.pairs import Pair
from afm_mlx.alignment.reward import (
    HEADS_FILE,
    RewardModel,
    initialize_heads,
    open_reward_model,
    save_reward_model,
)
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.errors import DataError, ModelError
from afm_mlx.text.conversations import Conversation

QUALITIES = ("truthfulness", "verbosity")


def reward_model(decoder, seed=0):
    model = RewardModel(decoder, qualities=QUALITIES, classes=3, inner=4)
    initialize_heads(model, seed)
    return model


def trained_looking(model):
    """The same with a reward head that is not zero."""
    model.reward.weight = mx.random.normal(model.reward.weight.shape, key=mx.random.key(9))
    return model


def conversation(text, answer="A house."):
    messages = ({"role": "user", "content": text}, {"role": "assistant", "content": answer})
    return Conversation(messages)


@pytest.fixture
def saved(chat_model, tmp_path):
    model = trained_looking(reward_model(open_checkpoint(chat_model)))
    save_reward_model(tmp_path / "reward", model, chat_model, facts={"stage": "reward"})
    return tmp_path / "reward"


def test_rewards_begin_at_zero_and_heads_depend_on_the_seed(decoder):
    model = reward_model(decoder)
    packed = pack_answers([Answer([1, 2, 3], 1), Answer([4, 5], 1)])
    scores = model(packed)
    assert scores.rewards.tolist() == [0, 0]
    assert scores.grades.shape == (2, 2, 3)
    assert mx.array_equal(scores.grades, reward_model(decoder)(packed).grades)
    assert not mx.array_equal(scores.grades, reward_model(decoder, seed=1)(packed).grades)


def test_the_reward_is_read_after_the_last_token(decoder):
    model = trained_looking(reward_model(decoder))
    answers = [Answer([1, 2, 3, 7, 9], 2), Answer([4, 5], 1), Answer(list(range(40)), 1)]
    for answer, reward in zip(answers, model(pack_answers(answers)).rewards, strict=True):
        state = decoder.hidden(mx.array([answer.ids]), mask="causal")[0, -1]
        alone = mx.sum(state * model.reward.weight[0]).item()
        assert reward.item() == pytest.approx(alone, abs=1e-5)


def test_a_grade_is_a_small_network_by_hand(decoder):
    model = reward_model(decoder)
    state = np.array(decoder.hidden(mx.array([[1, 2, 3]]), mask="causal")[0, -1])
    head = model.grades[1]
    inner = np.array(head.grade_hidden.weight) @ state
    logits = np.array(head.grade_output.weight) @ (inner / (1 + np.exp(-inner)))
    found = model(pack_answers([Answer([1, 2, 3], 1)])).grades[0, 1]
    assert found.tolist() == pytest.approx(logits.tolist(), abs=1e-5)


def test_the_likelihood_of_an_answer_is_in_its_reward(decoder):
    answers = [Answer([1, 2, 3, 7, 9], 2), Answer([4, 5], 1), Answer([4, 6, 6], 1)]
    packed = pack_answers(answers)
    model = trained_looking(
        RewardModel(decoder, qualities=QUALITIES, classes=3, inner=4, likelihood_weight=2.0)
    )
    nats = answer_logps(decoder, packed, chunk_bytes=2**20).answers.tolist()
    without = trained_looking(reward_model(decoder))(packed).rewards.tolist()
    wanted = [
        reward + 2.0 * logp / (len(answer.ids) - answer.start)
        for reward, logp, answer in zip(without, nats, answers, strict=True)
    ]
    assert model(packed).rewards.tolist() == pytest.approx(wanted, abs=1e-5)


def test_the_output_layer_is_trained_where_its_likelihood_is_in_the_reward(decoder):
    model = RewardModel(decoder, qualities=QUALITIES, classes=3, inner=4, likelihood_weight=1.0)
    names = dict(tree_flatten(model.trainable_parameters()))
    assert decoder.shape.tied or "decoder.lm_head.weight" in names


def test_a_saved_reward_model_keeps_its_likelihood(chat_model, tmp_path):
    model = RewardModel(
        open_checkpoint(chat_model), qualities=QUALITIES, classes=3, inner=4, likelihood_weight=2.0
    )
    initialize_heads(model, 0)
    save_reward_model(tmp_path / "reward", model, chat_model, facts={"stage": "reward"})
    scorer = open_reward_model(tmp_path / "reward", dtype=mx.float32)
    answers = [Answer([1, 2, 3, 7, 9], 2), Answer([4, 5], 1)]
    wanted = model(pack_answers(answers)).rewards.tolist()
    assert scorer.score_answers(answers) == pytest.approx(wanted, abs=1e-5)
    assert max(wanted) < 0  # log-probabilities alone: the head is still zero


def test_an_output_layer_of_its_own_is_not_trained(decoder):
    names = dict(tree_flatten(reward_model(decoder).trainable_parameters()))
    assert not any("lm_head" in name for name in names)
    assert "decoder.model.embed_tokens.weight" in names
    assert "reward.weight" in names


def test_a_saved_reward_model_gives_the_same_rewards(saved, chat_model):
    talks = [conversation("What is on the hill?"), conversation("On?", "The cat sat on the mat.")]
    scorer = open_reward_model(saved, dtype=mx.float32)
    again = open_reward_model(saved, dtype=mx.float32)
    rewards = scorer.score(talks)
    assert rewards == again.score(talks)
    assert len(set(rewards)) == 2
    grades = scorer.grades(talks)
    assert [set(each) for each in grades] == [set(QUALITIES)] * 2
    assert all(sum(each["verbosity"]) == pytest.approx(1) for each in grades)
    # The decoder beside the heads is an ordinary checkpoint.
    body = open_checkpoint(saved)
    assert body.shape == open_checkpoint(chat_model).shape


def test_batches_of_many_conversations_keep_their_order(saved):
    talks = [conversation(f"{number} cats?") for number in range(21)]
    scorer = open_reward_model(saved, dtype=mx.float32)
    alone = [scorer.score([talk])[0] for talk in talks]
    assert scorer.score(talks) == pytest.approx(alone, abs=1e-5)
    assert scorer.score([]) == []


def test_a_conversation_beyond_the_context_is_refused(saved):
    with pytest.raises(DataError, match="tokens, and the reward model reads 128"):
        open_reward_model(saved).score([conversation("cat " * 200)])


def test_a_language_model_is_no_reward_model(chat_model):
    with pytest.raises(ModelError, match="is no reward model"):
        open_reward_model(chat_model)


def test_damaged_heads_are_named(saved):
    whole = (saved / HEADS_FILE).read_bytes()
    (saved / HEADS_FILE).write_bytes(whole[:50])
    with pytest.raises(ModelError, match=r"heads of .* are damaged"):
        open_reward_model(saved)
    mx.save_safetensors(str(saved / HEADS_FILE), {"reward.weight": mx.zeros((1, 16))})
    with pytest.raises(ModelError, match="lacks grades"):
        open_reward_model(saved)


def test_measures_count_pairs_and_the_grades_that_were_given(decoder):
    model = reward_model(decoder)
    pairs = [
        Pair(Answer([1, 2], 1), Answer([1, 3], 1), 0.85, (2, -1), (0, -1)),
        Pair(Answer([1, 4], 1), Answer([1, 5], 1), 0.85, (-1, -1), (1, -1)),
    ]
    draws = RewardMeasure(pairs, most_answers=2)(model)
    assert draws["held_out_accuracy"] == 0.5
    assert draws["held_out_margin"] == 0
    assert set(draws["held_out_grade_accuracy"]) == {"truthfulness"}
    assert draws["held_out_grade_accuracy"]["truthfulness"] in (0, 1 / 3, 2 / 3, 1)
    model = trained_looking(model)
    rewards = [
        [model(pack_answers([answer])).rewards.item() for answer in (pair.chosen, pair.rejected)]
        for pair in pairs
    ]
    found = RewardMeasure(pairs, most_answers=4)(model)
    assert found["held_out_accuracy"] == np.mean([good > bad for good, bad in rewards])
    margin = np.mean([good - bad for good, bad in rewards])
    assert found["held_out_margin"] == pytest.approx(margin, abs=1e-5)
