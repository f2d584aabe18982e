"""Formulas of a round of sampled answers: it is scored once, then trained on for a few steps.

Shapes. n prompts, K answers to each, A answers of one micro-batch, N their tokens (padded),
S stored tokens of each place, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from afm_mlx.alignment import mdloo
from afm_mlx.alignment.logps import (
    Answer,
    PackedAnswers,
    answer_logps,
    answer_sums,
    linear_logps,
    pack_answers,
    packed_hidden,
)
from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.sampling import Sampled
from afm_mlx.decoder.decoder import Decoder

PACKED = len(PackedAnswers._fields)


class Scored(NamedTuple):
    """What is known of the answers of a micro-batch, besides their tokens."""

    old: mx.array
    """[N] log-probability of each token when it was sampled, in nats; 0 for padding."""
    advantages: mx.array
    """[A]; 0 for answers that do not count."""
    counted: mx.array
    """[A], 0 for cut answers where these are left out, else 1."""
    rewards: mx.array
    """[A], before the pull to the reference."""
    to_reference: mx.array
    """[A], log of the ratio to the reference when it was sampled, in nats."""
    truncated: mx.array
    """[A], 1 for answers that were cut."""
    stored: mx.array
    """[N, S] int32, the tokens likeliest at each place; [N, 0] in sequence mode."""
    stored_old: mx.array
    """[N, S], their log-probabilities then."""


@dataclass(frozen=True)
class Objective:
    """Settings of the round's formulas, as in `settings.alignment.Rl`."""

    by_token: bool
    beta: float
    gamma: float
    limit: float
    stored: int
    """S, in token mode."""
    mask_truncated: bool
    chunk_bytes: int
    checkpoint: bool


def score_round(
    policy: Decoder,
    reference: Decoder,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Sampled]],
    rewards: Sequence[Sequence[float]],
    objective: Objective,
    *,
    micro_answers: int,
) -> list[tuple[mx.array, ...]]:
    """Micro-batches for `round_loss`: answers with their advantages.

    Args:
        policy: the model that gave the answers.
        reference: the model that training started from.
        prompts: n.
        answers: [n][K], those of a prompt one after the other.
        rewards: [n][K].
        objective: settings.
        micro_answers: answers of one micro-batch.
    """
    if not prompts:
        return []
    flat = [
        (Answer([*prompt.ids, *answer.ids], len(prompt.ids)), answer.finished)
        for prompt, group in zip(prompts, answers, strict=True)
        for answer in group
    ]
    parts = [flat[start : start + micro_answers] for start in range(0, len(flat), micro_answers)]
    read = [_read(policy, reference, [each for each, _ in part], objective) for part in parts]
    scores = mx.array([list(group) for group in rewards], mx.float32)
    truncated = mx.array([not finished for _, finished in flat]).astype(mx.float32)
    counted = 1 - truncated if objective.mask_truncated else mx.ones(truncated.shape)
    to_reference = mx.concatenate([each.to_reference for each in read])
    zero = mx.zeros(to_reference.shape)
    pulled = mdloo.regularized_rewards(
        scores, to_reference.reshape(scores.shape), zero.reshape(scores.shape), beta=objective.beta
    )
    advantages = mdloo.leave_one_out(pulled, counted.reshape(scores.shape))
    batches: list[tuple[mx.array, ...]] = []
    start = 0
    for each in read:
        part = slice(start, start + each.to_reference.size)
        start = part.stop
        scored = Scored(
            old=each.old,
            advantages=advantages.reshape(-1)[part],
            counted=counted[part],
            rewards=scores.reshape(-1)[part],
            to_reference=each.to_reference,
            truncated=truncated[part],
            stored=each.stored,
            stored_old=each.stored_old,
        )
        batches.append((*each.packed, *scored))
    mx.eval(batches)
    return batches


def round_loss(
    model: Decoder, batch: Sequence[mx.array], objective: Objective
) -> tuple[mx.array, dict[str, mx.array]]:
    """Summed loss of a micro-batch's answers, and the sums to report.

    Returns:
        The loss, to be divided by the number of answers, and sums over them: "tokens", their
        number; "reward"; "advantage", absolute; "kl_reference", log ratio of the policy that
        sampled to the reference; "kl_step", divergence from that policy since; "answer_tokens";
        "truncated".
    """
    packed, scored = PackedAnswers(*batch[:PACKED]), Scored(*batch[PACKED:])
    new, stored_new = _logps(model, packed, scored.stored, objective)
    difference = packed.weights * (new - scored.old)
    if objective.by_token:
        divergences = packed.weights * mdloo.stored_divergence(stored_new, scored.stored_old)
        gains = packed.weights * mdloo.token_gain(
            difference,
            scored.advantages[packed.owners],
            divergences,
            gamma=objective.gamma,
            limit=objective.limit,
        )
        gain = answer_sums(gains, packed) / packed.lengths
        divergence = answer_sums(divergences, packed)
    else:
        gain, divergence = mdloo.sequence_gain(
            answer_sums(difference, packed),
            scored.advantages,
            gamma=objective.gamma,
            limit=objective.limit,
        )
    sums = {
        "tokens": mx.array(packed.lengths.size, mx.float32),
        "reward": scored.rewards.sum(),
        "advantage": mx.abs(scored.advantages).sum(),
        "kl_reference": scored.to_reference.sum(),
        "kl_step": (scored.counted * divergence).sum(),
        "answer_tokens": packed.lengths.sum(),
        "truncated": scored.truncated.sum(),
    }
    return -(scored.counted * gain).sum(), sums


class _Read(NamedTuple):
    """A micro-batch of answers as the policy and the reference find them."""

    packed: PackedAnswers
    old: mx.array
    to_reference: mx.array
    stored: mx.array
    stored_old: mx.array


def _read(
    policy: Decoder, reference: Decoder, answers: Sequence[Answer], objective: Objective
) -> _Read:
    packed = pack_answers(answers)
    none = mx.zeros((packed.places.size, 0), mx.int32)
    stored = _likeliest(policy, packed, objective.stored) if objective.by_token else none
    # The very computation of the loss, so that the ratio of a round's first step is 1.
    old, stored_old = _logps(policy, packed, stored, objective)
    of_reference = answer_logps(reference, packed, chunk_bytes=objective.chunk_bytes)
    to_reference = answer_sums(old, packed) - of_reference.answers
    found = _Read(packed, old, to_reference, stored, stored_old)
    mx.eval(found)
    return found


def _logps(
    model: Decoder, packed: PackedAnswers, stored: mx.array, objective: Objective
) -> tuple[mx.array, mx.array]:
    """Log-probabilities [N] of the answers' tokens, and [N, S] of the stored ones."""
    hidden = packed_hidden(model, packed, checkpoint=objective.checkpoint)[packed.places]
    if not objective.by_token:
        logps = linear_logps(
            hidden, model.output_weight, packed.targets, chunk_bytes=objective.chunk_bytes
        )
        return packed.weights * logps, mx.zeros(stored.shape)
    # Logits of all N tokens at once: micro-batches bound them.
    logits = _logits(model, hidden)
    normalizer = mx.logsumexp(logits, axis=-1, keepdims=True)
    wanted = mx.concatenate([packed.targets[:, None], stored], axis=-1)
    logps = mx.take_along_axis(logits, wanted, axis=-1) - normalizer
    return packed.weights * logps[:, 0], logps[:, 1:]


def _likeliest(model: Decoder, packed: PackedAnswers, count: int) -> mx.array:
    """[N, S] the tokens with the largest logits at each place, in any order."""
    logits = _logits(model, packed_hidden(model, packed)[packed.places])
    count = min(count, logits.shape[-1])
    return mx.argpartition(-logits, count - 1, axis=-1)[:, :count].astype(mx.int32)


def _logits(model: Decoder, hidden: mx.array) -> mx.array:
    return hidden.astype(mx.float32) @ model.output_weight.astype(mx.float32).T
