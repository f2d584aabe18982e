"""A round of answers: its numbers against one plain pass each, its first gradient, its file."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from afm_mlx.alignment import mdloo
from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.rollouts import Objective, Scored, round_loss, score_round
from afm_mlx.alignment.sampling import Sampled
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.text.conversations import Conversation

SEQUENCE = Objective(
    by_token=False,
    beta=0.1,
    gamma=0.3,
    limit=5.0,
    stored=4,
    mask_truncated=True,
    chunk_bytes=2**20,
    checkpoint=False,
)
TOKEN = replace(SEQUENCE, by_token=True)
PROMPTS = [Prompt(ids, Conversation(())) for ids in ((3, 4, 5), (6,))]
ANSWERS = [
    [Sampled(ids, "", finished) for ids, finished in group]
    for group in (
        [((7, 8, 1), True), ((9, 1), True), ((10, 11, 12, 13), False)],
        [((14, 1), True), ((15, 16, 17, 1), True), ((18, 19, 1), True)],
    )
]
REWARDS = [[1.0, 0.0, 5.0], [0.2, 0.9, 0.4]]


@pytest.fixture
def models(decoder):
    other = Decoder(decoder.shape)
    initialize(other, 9)
    return decoder, other


def scored(policy, reference, objective, micro_answers=2):
    return score_round(
        policy,
        reference,
        PROMPTS,
        ANSWERS,
        REWARDS,
        objective,
        micro_answers=micro_answers,
    )


def field(batches, name):
    place = Scored._fields.index(name) - len(Scored._fields)
    return np.concatenate([np.array(batch[place]).reshape(-1) for batch in batches])


def plain_logps(model, prompt, answer):
    ids = mx.array([[*prompt.ids, *answer.ids]])
    logps = nn.log_softmax(model(ids)[0, :-1].astype(mx.float32), axis=-1)
    first = len(prompt.ids) - 1
    return logps[mx.arange(first, first + len(answer.ids)), mx.array(answer.ids)]


def pairs():
    return [
        (prompt, answer) for prompt, group in zip(PROMPTS, ANSWERS, strict=True) for answer in group
    ]


@pytest.mark.parametrize("objective", [SEQUENCE, TOKEN], ids=["sequence", "token"])
def test_log_probabilities_are_those_of_one_plain_pass_for_each_answer(models, objective):
    policy, reference = models
    batches = scored(policy, reference, objective)
    ratios = [
        (plain_logps(policy, *pair).sum() - plain_logps(reference, *pair).sum()).item()
        for pair in pairs()
    ]
    assert field(batches, "to_reference") == pytest.approx(ratios, abs=1e-4)


def test_advantages_leave_out_cut_answers_and_hold_the_pull_to_the_reference(models):
    batches = scored(*models, SEQUENCE)
    ratios = field(batches, "to_reference").reshape(2, 3)
    pulled = np.array(REWARDS) - 0.1 * ratios
    found = field(batches, "advantages").reshape(2, 3)
    assert found[0] == pytest.approx(
        [pulled[0, 0] - pulled[0, 1], pulled[0, 1] - pulled[0, 0], 0], abs=1e-5
    )
    assert found[1, 0] == pytest.approx(pulled[1, 0] - pulled[1, 1:].mean(), abs=1e-5)
    kept = scored(*models, replace(SEQUENCE, mask_truncated=False))
    assert field(kept, "advantages")[2] != 0


@pytest.mark.parametrize("objective", [SEQUENCE, TOKEN], ids=["sequence", "token"])
def test_a_round_is_its_parts_one_after_the_other(models, objective):
    whole = scored(*models, objective, micro_answers=3)
    parts = [
        batch
        for part in (slice(0, 1), slice(1, 1), slice(1, 2))
        for batch in score_round(
            *models,
            PROMPTS[part],
            ANSWERS[part],
            REWARDS[part],
            objective,
            micro_answers=3,
        )
    ]
    for one, other in zip(whole, parts, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert mine.dtype == theirs.dtype
            assert mx.allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", [SEQUENCE, TOKEN], ids=["sequence", "token"])
def test_first_gradient_of_a_round_is_rloo_s(models, objective):
    policy, reference = models
    batches = scored(policy, reference, objective)
    advantages = mx.array(field(batches, "advantages"))

    def ours(params, batch):
        policy.update(params)
        return round_loss(policy, batch, objective)[0]

    def reinforce(params):
        policy.update(params)
        gains = [
            advantage * (logps.mean() if objective.by_token else logps.sum())
            for advantage, logps in zip(
                advantages, (plain_logps(policy, *pair) for pair in pairs()), strict=True
            )
        ]
        return -sum(gains)

    params = policy.trainable_parameters()
    found = [mx.grad(ours)(params, batch) for batch in batches]
    found = tree_map(lambda *parts: sum(parts), *found)
    wanted = dict(tree_flatten(mx.grad(reinforce)(params)))
    for name, gradient in tree_flatten(found):
        assert mx.allclose(gradient, wanted[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("objective", [SEQUENCE, TOKEN], ids=["sequence", "token"])
def test_the_policy_that_sampled_is_at_no_distance_and_a_moved_one_is(models, objective):
    policy, reference = models
    batches = scored(policy, reference, objective)
    sums = [round_loss(policy, batch, objective)[1] for batch in batches]
    assert sum(float(each["kl_step"]) for each in sums) == pytest.approx(0, abs=1e-6)
    assert sum(float(each["tokens"]) for each in sums) == 6
    assert sum(float(each["answer_tokens"]) for each in sums) == 18
    assert sum(float(each["truncated"]) for each in sums) == 1
    assert sum(float(each["reward"]) for each in sums) == pytest.approx(7.5)
    policy.update(tree_map(lambda x: x * 1.05, policy.parameters()))
    assert sum(float(round_loss(policy, b, objective)[1]["kl_step"]) for b in batches) > 1e-4


def test_stored_divergence_of_all_tokens_is_the_full_one(models):
    policy, reference = models
    objective = replace(TOKEN, stored=policy.shape.vocab_size, mask_truncated=False)
    batches = scored(policy, reference, objective)
    before = [
        nn.log_softmax(policy(mx.array([[*p.ids, *a.ids]]))[0, len(p.ids) - 1 : -1], axis=-1)
        for p, a in pairs()
    ]
    mx.eval(before)
    policy.update(tree_map(lambda x: x * 1.05, policy.parameters()))
    wanted = 0.0
    for (p, a), old in zip(pairs(), before, strict=True):
        logits = policy(mx.array([[*p.ids, *a.ids]]))[0, len(p.ids) - 1 : -1]
        new = nn.log_softmax(logits, axis=-1)
        wanted += (mx.exp(new) * (new - old)).sum().item()
    found = sum(float(round_loss(policy, batch, objective)[1]["kl_step"]) for batch in batches)
    assert found == pytest.approx(wanted, rel=1e-3)


def test_token_mode_s_gain_is_the_mean_over_an_answer_s_tokens(models):
    policy, reference = models
    (batch,) = scored(policy, reference, TOKEN, micro_answers=6)
    loss, _ = round_loss(policy, batch, TOKEN)
    assert loss.item() == pytest.approx(-field([batch], "advantages").sum(), abs=1e-5)
    assert mdloo.token_gain(  # what it is at the start of a round
        mx.zeros(1), mx.array([2.0]), mx.zeros(1), gamma=0.3, limit=5.0
    ).item() == pytest.approx(2)
