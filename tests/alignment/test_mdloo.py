"""MDLOO's formulas against arithmetic written out, against the gradient's identity, and to the end
of a bandit's training."""

import math

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.alignment.mdloo import (
    leave_one_out,
    regularized_rewards,
    sequence_gain,
    stored_divergence,
    token_gain,
)

ALL = mx.ones((1, 3))


def test_advantage_is_the_reward_less_the_mean_of_the_others():
    found = leave_one_out(mx.array([[1.0, 2.0, 6.0]]), ALL)
    assert found.tolist()[0] == pytest.approx([1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2])


def test_advantages_sum_to_zero_and_are_the_scaled_distance_to_the_mean():
    rewards = mx.random.normal((5, 8), key=mx.random.key(0))
    found = np.array(leave_one_out(rewards, mx.ones((5, 8))))
    assert found.sum(axis=1) == pytest.approx(0, abs=1e-5)
    wanted = 8 / 7 * (np.array(rewards) - np.array(rewards).mean(axis=1, keepdims=True))
    assert found == pytest.approx(wanted, abs=1e-5)


def test_an_answer_that_does_not_count_is_nobody_s_other():
    found = leave_one_out(mx.array([[1.0, 100.0, 3.0]]), mx.array([[1.0, 0.0, 1.0]]))
    assert found.tolist()[0] == pytest.approx([1 - 3, 0, 3 - 1])


def test_the_only_answer_that_counts_gets_nothing():
    assert leave_one_out(mx.array([[5.0, 1.0]]), mx.array([[1.0, 0.0]])).tolist() == [[0, 0]]
    assert leave_one_out(mx.array([[5.0, 1.0]]), mx.zeros((1, 2))).tolist() == [[0, 0]]


def test_reward_loses_beta_times_the_log_ratio_to_the_reference():
    found = regularized_rewards(mx.array(2.0), mx.array(-3.0), mx.array(-5.0), beta=0.1)
    assert found.item() == pytest.approx(2 - 0.1 * (-3 + 5))


def test_sequence_gain_by_hand():
    gain, divergence = sequence_gain(mx.array([0.5]), mx.array([2.0]), gamma=0.3, limit=5.0)
    w = math.exp(0.5)
    assert divergence.item() == pytest.approx(w * 0.5 - (w - 1))
    assert gain.item() == pytest.approx(w * 2 - 0.3 * (w * 0.5 - (w - 1)))


def test_log_ratio_beyond_the_limit_is_cut_and_has_no_gradient():
    def gain(x):
        return sequence_gain(x, mx.array([1.0, 1.0]), gamma=0.1, limit=5.0)[0].sum()

    ratios = mx.array([7.0, -9.0])
    w = [math.exp(5), math.exp(-5)]
    wanted = sum(x - 0.1 * (x * math.log(x) - (x - 1)) for x in w)
    assert gain(ratios).item() == pytest.approx(wanted, rel=1e-5)
    assert mx.grad(gain)(ratios).tolist() == [0, 0]


def test_token_gain_by_hand():
    found = token_gain(
        mx.array([0.2, 9.0]), mx.array([1.5, 1.0]), mx.array([0.4, 0.0]), gamma=0.5, limit=5.0
    )
    assert found.tolist() == pytest.approx([math.exp(0.2) * 1.5 - 0.5 * 0.4, math.exp(5)])


def test_divergence_is_exact_when_all_tokens_are_stored():
    new, old = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    found = stored_divergence(mx.array(np.log(new))[None], mx.array(np.log(old))[None])
    assert found.item() == pytest.approx((new * np.log(new / old)).sum(), abs=1e-6)


def test_divergence_of_stored_tokens_counts_the_others_as_one():
    new, old = np.array([0.5, 0.3]), np.array([0.2, 0.6])
    found = stored_divergence(mx.array(np.log(new))[None], mx.array(np.log(old))[None])
    wanted = (new * np.log(new / old)).sum() + 0.2 * math.log(0.2 / 0.2)
    assert found.item() == pytest.approx(wanted, abs=1e-6)


# The gradient. Y answers of a softmax policy, whose expectations are sums over all of them.

THETA = np.array([0.3, -0.2, 0.9, 0.1])
OLD = np.array([0.1, 0.4, 0.2, -0.5])
ADVANTAGES = np.array([1.0, -2.0, 0.5, 0.7])


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


def objective(theta, gamma):
    """Expected advantage less gamma times the divergence: what step 4 of the report maximizes."""
    new, old = log_softmax(theta), log_softmax(OLD)
    return np.exp(new) @ ADVANTAGES - gamma * np.exp(new) @ (new - old)


def finite_differences(gamma, step=1e-6):
    eye = step * np.eye(len(THETA))
    return np.array([objective(THETA + e, gamma) - objective(THETA - e, gamma) for e in eye]) / (
        2 * step
    )


def surrogate_gradient(gamma, mode):
    old = mx.array(log_softmax(OLD), mx.float64)
    advantages = mx.array(ADVANTAGES, mx.float64)

    def expected(theta):
        new = theta - mx.logsumexp(theta)
        if mode == "sequence":
            gain, _ = sequence_gain(new - old, advantages, gamma=gamma, limit=5.0)
        else:
            divergences = stored_divergence(new[None], old[None])
            gain = token_gain(new - old, advantages, divergences, gamma=gamma, limit=5.0)
        return (mx.exp(old) * gain).sum()

    with mx.stream(mx.cpu):
        return np.array(mx.grad(expected)(mx.array(THETA, mx.float64)))


@pytest.mark.parametrize("gamma", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("mode", ["sequence", "token"])
def test_surrogate_gradient_is_that_of_the_objective_by_finite_differences(mode, gamma):
    with mx.stream(mx.cpu):
        # MLX's exponential has seven digits on the CPU, in float64 too.
        assert surrogate_gradient(gamma, mode) == pytest.approx(finite_differences(gamma), abs=1e-6)


@pytest.mark.parametrize("gamma", [0.05, 1.0])
def test_surrogate_gradient_is_the_identity_s_term_by_term(gamma):
    """`w (A - gamma log w) grad log pi` of each answer, not only of their mean."""
    with mx.stream(mx.cpu):
        log_ratio = mx.array(log_softmax(THETA) - log_softmax(OLD), mx.float64)
        advantages = mx.array(ADVANTAGES, mx.float64)
        found = mx.grad(lambda x: sequence_gain(x, advantages, gamma=gamma, limit=5.0)[0].sum())(
            log_ratio
        )
        log_w = np.array(log_ratio)
        assert np.array(found) == pytest.approx(np.exp(log_w) * (ADVANTAGES - gamma * log_w))


@pytest.mark.parametrize("mode", ["sequence", "token"])
def test_first_step_is_rloo_s_whatever_gamma_is(mode):
    old = mx.array(log_softmax(OLD).astype(np.float32))
    answers = mx.array([0, 2, 2, 1])
    advantages = mx.array(ADVANTAGES.astype(np.float32))

    def gain(theta):
        new = theta - mx.logsumexp(theta)
        ratios = (new - old)[answers]
        if mode == "sequence":
            return sequence_gain(ratios, advantages, gamma=0.7, limit=5.0)[0].sum()
        divergences = mx.broadcast_to(stored_divergence(new[None], old[None]), (4,))
        return token_gain(ratios, advantages, divergences, gamma=0.7, limit=5.0).sum()

    def reinforce(theta):
        return (advantages * (theta - mx.logsumexp(theta))[answers]).sum()

    theta = mx.array(OLD.astype(np.float32))
    assert mx.grad(gain)(theta).tolist() == pytest.approx(
        mx.grad(reinforce)(theta).tolist(), abs=1e-6
    )


# The whole algorithm on a policy of two arms, whose optimum is known:
# pi*(a) proportional to pi_ref(a) exp(r(a) / beta).

ARM_REWARDS = np.array([1.0, 0.7])
BETA, ROUNDS, UPDATES, PROMPTS, SAMPLES = 0.25, 60, 4, 16, 8
REFERENCE = np.array([0.0, 0.4])


def train_bandit(mode, gamma, seed):
    """Probability of the first arm after MDLOO on sampled arms, by plain gradient steps."""
    reference = mx.array(log_softmax(REFERENCE).astype(np.float32))
    rewards_of = mx.array(ARM_REWARDS.astype(np.float32))
    theta = mx.array(REFERENCE.astype(np.float32))
    for number in range(ROUNDS):
        old = theta - mx.logsumexp(theta)
        key = mx.random.key(seed * 1_000 + number)
        arms = mx.random.categorical(old, shape=(PROMPTS, SAMPLES), key=key)
        rewards = regularized_rewards(rewards_of[arms], old[arms], reference[arms], beta=BETA)
        advantages = leave_one_out(rewards, mx.ones(rewards.shape)).reshape(-1)
        flat = arms.reshape(-1)

        def loss(theta, old=old, flat=flat, advantages=advantages):
            new = theta - mx.logsumexp(theta)
            ratios = new[flat] - old[flat]
            if mode == "sequence":
                gain, _ = sequence_gain(ratios, advantages, gamma=gamma, limit=5.0)
            else:
                divergences = mx.broadcast_to(stored_divergence(new[None], old[None]), flat.shape)
                gain = token_gain(ratios, advantages, divergences, gamma=gamma, limit=5.0)
            return -gain.mean()

        for _ in range(UPDATES):
            theta = theta - 0.5 * mx.grad(loss)(theta)
            mx.eval(theta)
    return mx.softmax(theta)[0].item()


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("mode", ["sequence", "token"])
@pytest.mark.parametrize("seed", [0, 1])
def test_bandit_converges_to_the_regularized_optimum_within_two_percent(mode, gamma, seed):
    weights = np.exp(log_softmax(REFERENCE) + ARM_REWARDS / BETA)
    optimum = weights[0] / weights.sum()
    assert 0.6 < optimum < 0.8  # neither where it started, nor one arm alone
    assert train_bandit(mode, gamma, seed) == pytest.approx(optimum, rel=0.02)
