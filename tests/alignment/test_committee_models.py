"""A committee's models at work: what they are measured by."""

import mlx.core as mx
import pytest

from afm_mlx.alignment.committee_models import START, Models
from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.reward import RewardModel, initialize_heads, save_reward_model
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.progress import Silence
from afm_mlx.text.conversations import Conversation


@pytest.fixture
def prompts():
    asked = [Conversation(({"role": "user", "content": "?"},)) for _ in range(6)]
    return [Prompt((number + 1, 2, 3), each) for number, each in enumerate(asked)]


@pytest.fixture
def reward(chat_model, tmp_path):
    """The likelier the start finds an answer, the better."""
    model = RewardModel(
        open_checkpoint(chat_model), qualities=(), classes=3, inner=4, likelihood_weight=1.0
    )
    initialize_heads(model, 0)
    save_reward_model(tmp_path / "reward", model, chat_model, facts={"stage": "reward"})
    return tmp_path / "reward"


@pytest.fixture
def other(chat_model, tokenizer, tmp_path):
    """A model of the same shape with other weights."""
    model = Decoder(open_checkpoint(chat_model).shape)
    initialize(model, 7)
    save_checkpoint(tmp_path / "other", model, tokenizer.folder, facts={"stage": "prefer"})
    return tmp_path / "other"


def test_a_start_that_left_the_committee_is_still_what_members_are_compared_with(
    chat_model, other, tokenizer, prompts, reward, tmp_path
):
    def models(name):
        return Models(
            chat_model,
            tokenizer,
            lambda *_: 0.0,
            mx.float32,
            max_tokens=6,
            seed=0,
            chunk_bytes=2**20,
            held_out=tmp_path / name,
            progress=Silence(),
        )

    both = {START: chat_model, "2-dpo": other}
    there, worth_there = models("there").measure(both, prompts, reward)
    gone, worth_gone = models("gone").measure({"2-dpo": other}, prompts, reward)
    assert worth_there["2-dpo"] == [0.0] * 6  # the start's answers are likelier to itself
    assert worth_gone == {"2-dpo": worth_there["2-dpo"]}
    (facts,) = gone["members"].values()
    assert facts == pytest.approx(there["members"]["2-dpo"], abs=1e-5)
    assert gone["picked_by_reward"] == facts["worth"] < there["picked_by_reward"]
