"""The losses. Each is a sum over tokens that count, together with what to divide it by.

Sums, because a mean of means is wrong as soon as micro-batches or machines hold unequal numbers
of tokens: add up sums and gradients of sums, then divide once by the total.

Shapes. B rows, T tokens of a row, N tokens in all, D width, V vocabulary, K candidates of a
teacher for one token. Of losses on pairs: P pairs, A answers, G grades of an answer, C classes of
a grade. A pair's margin is a difference between its preferred answer and the other one.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from afm_mlx.decoder.decoder import Branch, Decoder
from afm_mlx.training.cross_entropy import linear_cross_entropy


def token_cross_entropy(logits: mx.array, targets: mx.array, *, z_loss: float) -> mx.array:
    """Loss of each token in nats: `CE + z_loss * log(Z)**2`, Z the softmax normalizer.

    The plain form. Training uses `linear_cross_entropy`, which gives the same sums.

    Args:
        logits: [..., V], computed with as float32.
        targets: [...] integers, 0 to V - 1.
        z_loss: weight of the squared log normalizer, 0 or above.

    Source: arXiv:2309.14322, section 3.1.2, for the second term; its weight 1e-6 is that of
    apple/axlearn.
    """
    logits = logits.astype(mx.float32)
    log_normalizer = mx.logsumexp(logits, axis=-1)
    at_target = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    return log_normalizer - at_target + z_loss * mx.square(log_normalizer)


def next_token_loss(
    model: Decoder,
    inputs: mx.array,
    targets: mx.array,
    weights: mx.array,
    *,
    mask: mx.array | str | None,
    z_loss: float,
    chunk_bytes: int,
    shares: mx.array | None = None,
    checkpoint: bool = False,
    branch: Branch | None = None,
    train_weight: bool = True,
    gradient: bool = True,
) -> tuple[mx.array, dict[str, mx.array]]:
    """Summed loss of predicting `targets` from `inputs`, in nats, and the sums to report.

    Args:
        model: the decoder.
        inputs: [B, T] integers, tokens that the model sees.
        targets: [B, T] integers, the token after each of them; anything where `weights` is 0.
            Or [B, T, K] with `shares`, as `distillation_targets` gives them.
        weights: [B, T], how much each target counts; 0 for padding.
        mask: attention mask, as `Decoder.hidden` takes it.
        z_loss: weight of the squared log normalizer, 0 or above.
        chunk_bytes: budget for logits, see `linear_cross_entropy`.
        shares: [B, T, K], the probability that each of K targets is to have.
        checkpoint: recompute the blocks in the backward pass.
        branch: as `Decoder.hidden` takes it, for dropout.
        train_weight: whether the output layer is trained; False saves its gradient.
        gradient: False for an evaluation.

    Returns:
        The loss, and {"nll": sum of cross entropies of the text's own tokens, "tokens": sum of
        weights}, all float32 scalars. Only the loss has a gradient.
    """
    hidden = model.hidden(inputs, mask=mask, checkpoint=checkpoint, branch=branch)
    loss, nll = linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        model.output_weight,
        targets.reshape(-1) if shares is None else targets.reshape(-1, targets.shape[-1]),
        weights.reshape(-1),
        z_loss=z_loss,
        chunk_bytes=chunk_bytes,
        shares=None if shares is None else shares.reshape(-1, shares.shape[-1]),
        train_weight=train_weight,
        gradient=gradient,
    )
    return loss, {"nll": nll, "tokens": mx.sum(weights.astype(mx.float32))}


def distillation_targets(
    text: mx.array, candidates: mx.array, probabilities: mx.array, *, teacher_weight: float
) -> tuple[mx.array, mx.array]:
    """What a student is to predict: the teacher's candidates and the text's own next token.

        q = teacher_weight * teacher + (1 - teacher_weight) * onehot(text)

    With one candidate of probability 1, the teacher's likeliest token, this is AFM's target. With
    several, `linear_cross_entropy` matches the rest of the teacher's probability, too.

    Args:
        text: [B, T] integers, the tokens of the text.
        candidates: [B, T, K] integers, tokens that the teacher finds likely.
        probabilities: [B, T, K] theirs, with sum 1 at most.
        teacher_weight: 0 to 1.

    Returns:
        Targets [B, T, K + 1], the text's token first, and their shares of the same shape.

    Source: LS, OB and PE, notes on arXiv:2407.21075, with 0.9.
    """
    of_text = mx.full((*text.shape, 1), 1 - teacher_weight)
    targets = mx.concatenate([text[..., None], candidates.astype(text.dtype)], axis=-1)
    return targets, mx.concatenate([of_text, teacher_weight * probabilities], axis=-1)


def reward_ranking_loss(
    chosen: mx.array, rejected: mx.array, probability: mx.array
) -> tuple[mx.array, mx.array]:
    """Summed loss of rewards on pairs, in nats, and the number of pairs.

        -p log sigmoid(c - r) - (1 - p) log sigmoid(r - c)

    It is least at `c - r = logit(p)`: how strong a preference was says how far apart the rewards
    are to be, and no further.

    Args:
        chosen: [P] float32, rewards c of the preferred answers.
        rejected: [P], rewards r of the others.
        probability: [P], p: how sure it is that the preferred answer is better, 0 to 1.

    Source: LS, note on arXiv:2407.21075.
    """
    margin = chosen - rejected
    loss = -probability * nn.log_sigmoid(margin) - (1 - probability) * nn.log_sigmoid(-margin)
    return mx.sum(loss), mx.array(float(margin.size))


def grade_loss(logits: mx.array, grades: mx.array) -> tuple[mx.array, mx.array]:
    """Summed cross entropy of the grades that were given, in nats, and how many these are.

    Args:
        logits: [A, G, C] float32.
        grades: [A, G] integers, 0 to C - 1; below 0 where nobody gave that grade.

    Source: LS, note on arXiv:2407.21075; that grades can be absent is ours.
    """
    given = grades >= 0
    losses = token_cross_entropy(logits, mx.maximum(grades, 0), z_loss=0.0)
    return mx.sum(mx.where(given, losses, 0.0)), mx.sum(given).astype(mx.float32)


def preference_margin(
    policy_chosen: mx.array,
    policy_rejected: mx.array,
    reference_chosen: mx.array,
    reference_rejected: mx.array,
) -> mx.array:
    """[P] in nats: how much more the policy prefers the chosen answer than the reference does.

    Args:
        policy_chosen: [P] float32, log-probability in nats of each preferred answer: the sum over
            its tokens. Those of the prompt and padding are not in it.
        policy_rejected: [P], the same of the other answer.
        reference_chosen: [P], the same under the model that training began with.
        reference_rejected: [P].
    """
    return (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)


def dpo_loss(margin: mx.array, *, beta: float) -> tuple[mx.array, mx.array]:
    """Summed DPO loss, `-log sigmoid(beta * margin)` in nats, and the number of pairs.

    Args:
        margin: [P] float32, from `preference_margin`.
        beta: pull towards the reference, above 0.

    Source: arXiv:2305.18290, equation 7.
    """
    return -mx.sum(nn.log_sigmoid(beta * margin)), mx.array(float(margin.size))


def ipo_loss(margin: mx.array, *, tau: float) -> tuple[mx.array, mx.array]:
    """Summed IPO loss, `(margin - 1 / (2 tau))**2`, and the number of pairs.

    Unlike DPO it wants a margin of a certain size, so it does not push sure pairs ever further.

    Args:
        margin: [P] float32, from `preference_margin`.
        tau: regularization, above 0; the best margin is 1 / (2 tau) nats.

    Source: arXiv:2310.12036, equation 17.
    """
    return mx.sum(mx.square(margin - 1 / (2 * tau))), mx.array(float(margin.size))
