"""MDLOO: mirror descent with a leave-one-out baseline. Formulas only.

A round samples K answers to each of n prompts from the policy as it is then, pi_k. They are scored,
and a few optimizer steps ascend on them:

    E_x [ E_{y ~ pi} A(x, y) - gamma KL(pi(.|x) || pi_k(.|x)) ]

with gamma = 0 and one step, this is RLOO.

Source: arXiv:2407.21075, section 4.3.2; the mirror step is equation 7 of arXiv:2005.09814. What is
estimated how is ours, nobody has published it.

Shapes. n prompts, K answers to each, A answers of any prompts, N tokens of all answers, S stored
tokens of each place.
"""

from __future__ import annotations

import mlx.core as mx

SMALLEST_REST = 1e-9
"""Least probability of all tokens that are not stored, so that its logarithm exists."""


def regularized_rewards(
    rewards: mx.array, policy: mx.array, reference: mx.array, *, beta: float
) -> mx.array:
    """`r - beta log(pi_k / pi_ref)`: what an answer is worth, and how far it is from the start.

    Args:
        rewards: any shape, score of each answer.
        policy: the same shape, log-probability of the whole answer when it was sampled, in nats.
        reference: the same, under the model that training started from.
        beta: 0 or above.
    """
    return rewards - beta * (policy - reference)


def leave_one_out(rewards: mx.array, counted: mx.array) -> mx.array:
    """Advantage of each answer: its reward less the mean of the others to the same prompt.

        A_i = R_i - 1/(K-1) sum_{j != i} R_j = K/(K-1) (R_i - mean R)

    Args:
        rewards: [n, K].
        counted: [n, K], 1 for answers that count; 0 for the others, which are nobody's "other" and
            get 0. So does an answer that is the only one.

    Returns:
        [n, K]; each prompt's sum is 0.
    """
    count = counted.sum(axis=1, keepdims=True)
    mean = (rewards * counted).sum(axis=1, keepdims=True) / mx.maximum(count, 1)
    return counted * (rewards - mean) * count / mx.maximum(count - 1, 1)


def sequence_gain(
    log_ratio: mx.array, advantages: mx.array, *, gamma: float, limit: float
) -> tuple[mx.array, mx.array]:
    """What each answer adds to the objective, with one ratio w = pi / pi_k for the whole answer.

        w A - gamma (w log w - (w - 1))

    The gradient is `w (A - gamma log w) grad log pi`, term by term. Without the `w - 1`, whose mean
    is 0 under pi_k, it would have `- gamma w grad log pi`, too: noise, which is 0 on average.

    Args:
        log_ratio: [A], log w in nats. Beyond the limit it is cut, and has no gradient.
        advantages: [A], constants.
        gamma: 0 or above.
        limit: largest absolute log w.

    Returns:
        The gain [A], and [A] what estimates KL(pi || pi_k) without bias, 0 or above.
    """
    log_ratio = mx.clip(log_ratio, -limit, limit)
    ratio = mx.exp(log_ratio)
    divergence = ratio * log_ratio - (ratio - 1)
    return ratio * advantages - gamma * divergence, divergence


def token_gain(
    log_ratios: mx.array,
    advantages: mx.array,
    divergences: mx.array,
    *,
    gamma: float,
    limit: float,
) -> mx.array:
    """What each token adds, with a ratio of its own: `rho_t A - gamma KL_t`.

    The sum over an answer's tokens is to be divided by their number.

    Args:
        log_ratios: [N], log of pi / pi_k of each token in nats; cut as in `sequence_gain`.
        advantages: [N], that of the answer which the token belongs to.
        divergences: [N], KL(pi || pi_k) at the token's place, as `stored_divergence` gives it.
        gamma: 0 or above.
        limit: largest absolute log ratio.
    """
    return mx.exp(mx.clip(log_ratios, -limit, limit)) * advantages - gamma * divergences


def stored_divergence(new: mx.array, old: mx.array) -> mx.array:
    """KL(pi || pi_k) [N] at each place, in nats, from the tokens that pi_k found likeliest.

    All other tokens count as one. So it is exact where all tokens are stored, and never too large.

    Args:
        new: [N, S] log-probabilities of the stored tokens under pi.
        old: [N, S] the same under pi_k.
    """
    rest_new = _rest(new)
    stored = mx.sum(mx.exp(new) * (new - old), axis=-1)
    return stored + rest_new * (mx.log(rest_new) - mx.log(_rest(old)))


def _rest(logps: mx.array) -> mx.array:
    """Probability of all tokens that are not stored."""
    return mx.maximum(1 - mx.sum(mx.exp(logps), axis=-1), SMALLEST_REST)
