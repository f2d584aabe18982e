"""Planned memory of post-training beside the peak that MLX counts, on the CPU."""

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.alignment.logps import Answer, PackedAnswers, answer_logps, pack_answers
from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.reward import RewardModel, initialize_heads
from afm_mlx.alignment.rollouts import Objective, round_loss, score_round
from afm_mlx.alignment.sampling import Sampled, sample_answers
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.planning.post_memory import moments
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_named_recipe
from afm_mlx.settings.sections import Optimizer, Watch
from afm_mlx.text.conversations import Conversation
from afm_mlx.training.loop import Course, train
from afm_mlx.training.objectives import dpo_loss, preference_margin, reward_ranking_loss
from afm_mlx.training.optimizer import UpdateRule
from tests.planning.tiny_plans import CPU
from tests.small_recipes import shape

pytestmark = pytest.mark.skipif(
    mx.default_device().type == mx.DeviceType.gpu, reason="the figures are those of the CPU"
)

RECIPE = (
    'base = "smollm2"\n'
    + shape(
        num_layers=3,
        hidden_size=128,
        head_dim=32,
        intermediate_size=512,
        vocab_size=2_048,
        max_tokens=512,
    )
    + """\
[reward]
lr = 1e-5
pairs_per_step = 4
max_tokens = 128
data.people.path = "pairs.jsonl"
[prefer]
lr = 1e-6
pairs_per_step = 4
max_tokens = 128
data.people.path = "pairs.jsonl"
[rl]
lr = 1e-6
rounds = 1
max_tokens = 64
prompts_per_step = 2
responses_per_prompt = 4
updates_per_batch = 2
reference_pull = 0.1
step_pull = 0.1
data.asked.path = "prompts.jsonl"
"""
)
PROMPT = 64  # tokens


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return lambda *assignments: load_named_recipe(str(path), assignments)


def decoder(recipe):
    model = Decoder(recipe.shape)
    initialize(model, 0)
    mx.eval(model.parameters())
    return model


def pairs():
    ids = [(np.arange(128) * (7 + at) % 2_000).astype(np.int32) for at in range(8)]
    return pack_answers([Answer(each, PROMPT) for each in ids])


def peak(model, loss, batches, folder):
    return train(
        model,
        loss,
        batches,
        UpdateRule(Optimizer(), hidden_size=128),
        Course(2, 1e-5, 0, 1.0, 0.0, 2),
        compute=mx.float32,
        exact=("reward", "grades"),
        work=folder,
        watch=Watch(),
        progress=Progress(),
        counted="pairs",
    ).peak_bytes


def comparing(recipe, folder):
    def loss(model, *batch):
        found = answer_logps(model, PackedAnswers(*batch), chunk_bytes=recipe.training.loss_bytes)
        chosen, rejected = mx.split(found.answers, 2)
        total, count = dpo_loss(preference_margin(chosen, rejected, -3.0, -4.0), beta=0.1)
        return total, {"tokens": count}

    return peak(decoder(recipe), loss, lambda step: [tuple(pairs())], folder)


def rewarding(recipe, folder):
    model = RewardModel(decoder(recipe), qualities=recipe.reward.grades, classes=3, inner=32)
    initialize_heads(model, 0)

    def loss(model, *batch):
        chosen, rejected = mx.split(model(PackedAnswers(*batch)).rewards, 2)
        total, count = reward_ranking_loss(chosen, rejected, mx.array([0.85] * 4))
        return total, {"tokens": count}

    return peak(model, loss, lambda step: [tuple(pairs())], folder)


def reinforcing(recipe, folder):
    policy, reference = decoder(recipe), decoder(recipe)
    objective = Objective(
        by_token=recipe.rl.ratio == "token",
        beta=0.1,
        gamma=0.1,
        limit=5.0,
        stored=recipe.rl.stored_logits,
        mask_truncated=False,
        chunk_bytes=recipe.training.loss_bytes,
        checkpoint=False,
    )
    prompts = [Prompt(tuple(range(1, PROMPT + 1)), Conversation(()))] * 2
    answers = [[Sampled(tuple(range(at, at + 64)), "", True) for at in range(4)]] * 2
    scores = [[0.0, 1.0, 0.5, 0.2]] * 2
    batches = score_round(policy, reference, prompts, answers, scores, objective, micro_answers=8)
    return peak(
        policy, lambda model, *batch: round_loss(model, batch, objective), lambda _: batches, folder
    )


CASES = {
    "prefer": (comparing, "prefer", []),
    "reward": (rewarding, "reward", []),
    "rl": (reinforcing, "rl", []),
    "rl by token": (reinforcing, "rl", ["rl.ratio=token"]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_planned_memory_is_near_the_peak_that_mlx_counts(case, recipe, tmp_path):
    measure, stage, assignments = case
    found = recipe(*assignments)
    counted = measure(found, tmp_path)
    parts = moments(found, CPU, stage, PROMPT)["training"]
    assert sum(part.bytes for part in parts) == pytest.approx(counted, rel=0.25)


def test_caches_are_planned_for_what_sampling_holds(recipe):
    class Words:
        eos_ids = ()
        vocab_size = 2_048

        def decode(self, ids):
            return ""

    found = recipe("rl.prompts_per_step=16")
    model = decoder(found)
    model.eval()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    prompts = [list(range(1, PROMPT + 1))] * 16
    sample_answers(model, Words(), prompts, samples=4, max_tokens=64, temperature=1, seed=0, step=1)
    counted = mx.get_peak_memory() - before
    parts = {part.name: part.bytes for part in moments(found, CPU, "rl", PROMPT)["writing answers"]}
    assert parts["caches"] == pytest.approx(counted, rel=0.25)
