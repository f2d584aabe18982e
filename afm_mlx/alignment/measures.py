"""How well a model tells the better of two held-out answers.

Shapes. P pairs, A = 2 P answers, the preferred ones first; G graded qualities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx.alignment.logps import answer_logps
from afm_mlx.alignment.pairs import Pair, in_parts, pack_pairs
from afm_mlx.alignment.reward import RewardModel


def won(margin: mx.array) -> mx.array:
    """[P]: 1 where the preferred answer is ahead, 0 where the other one is, a half in a draw."""
    return (mx.sign(margin) + 1) / 2


class PreferenceMeasure:
    """Held-out pairs under a policy, beside what the reference gave them."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        reference: NDArray[np.float32],
        *,
        most_answers: int,
        chunk_bytes: int,
    ) -> None:
        """Pairs with their reference log-probabilities [P, 2]; `most_answers` at once."""
        self.pairs, self.reference = pairs, reference
        self.most_answers, self.chunk_bytes = most_answers, chunk_bytes

    def start(self) -> dict[str, float]:
        """`held_out_likelier` of the reference itself; its other numbers are 0, or a half."""
        if not len(self.pairs):
            return {}
        ahead = won(mx.array(self.reference[:, 0] - self.reference[:, 1]))
        return {"held_out_likelier": float(mx.mean(ahead))}

    def __call__(self, model: Any) -> dict[str, float]:
        """Means over pairs, by name.

        held_out_accuracy: share of pairs, 0 to 1, whose preferred answer gained more on the
        reference than the other one. held_out_margin: by how much, in nats. held_out_likelier:
        share of pairs whose preferred answer is the likelier one. held_out_chosen_drift and
        held_out_rejected_drift: change of an answer's log-probability, in nats per token.
        """
        totals: dict[str, float] = {}
        for numbers in in_parts(range(len(self.pairs)), self.most_answers):
            packed = pack_pairs([self.pairs[number] for number in numbers])
            policy = answer_logps(model, packed, chunk_bytes=self.chunk_bytes).answers
            gain = policy - mx.array(self.reference[list(numbers)].T.reshape(-1))
            margin = _difference(gain)
            chosen_drift, rejected_drift = mx.split(gain / packed.lengths, 2)
            _add(
                totals,
                accuracy=won(margin),
                margin=margin,
                likelier=won(_difference(policy)),
                chosen_drift=chosen_drift,
                rejected_drift=rejected_drift,
            )
        return {f"held_out_{name}": total / len(self.pairs) for name, total in totals.items()}


class RewardMeasure:
    """Held-out pairs under a reward model."""

    def __init__(self, pairs: Sequence[Pair], *, most_answers: int) -> None:
        """Pairs, of which so many answers are read at once."""
        self.pairs, self.most_answers = pairs, most_answers

    def __call__(self, model: RewardModel) -> dict[str, Any]:
        """Means over pairs, by name.

        held_out_accuracy: share of pairs, 0 to 1, whose preferred answer has the higher reward.
        held_out_margin: difference of the rewards. held_out_grade_accuracy: by quality, share of
        the grades that were given whose class the model finds likeliest.
        """
        totals: dict[str, float] = {}
        right = np.zeros(len(model.qualities))
        given = np.zeros(len(model.qualities))
        for part in in_parts(self.pairs, self.most_answers):
            scores = model(pack_pairs(part))
            margin = _difference(scores.rewards)
            _add(totals, accuracy=won(margin), margin=margin)
            if model.qualities:
                grades = grade_table(part)
                found = np.array(mx.argmax(scores.grades, axis=-1))
                right += ((found == grades) & (grades >= 0)).sum(axis=0)
                given += (grades >= 0).sum(axis=0)
        means: dict[str, Any] = {
            f"held_out_{name}": total / len(self.pairs) for name, total in totals.items()
        }
        shares = {
            quality: float(hits / count)
            for quality, hits, count in zip(model.qualities, right, given, strict=True)
            if count
        }
        return means | ({"held_out_grade_accuracy": shares} if shares else {})


def grade_table(pairs: Sequence[Pair]) -> NDArray[np.int32]:
    """[A, G] grades of the answers of pairs; below 0 where nobody gave one."""
    chosen = [pair.chosen_grades for pair in pairs]
    return np.array([*chosen, *(pair.rejected_grades for pair in pairs)], np.int32)


def _difference(values: mx.array) -> mx.array:
    """[A] to [P]: that of the preferred answer less that of the other."""
    chosen, rejected = mx.split(values, 2)
    return chosen - rejected


def _add(totals: dict[str, float], **values: mx.array) -> None:
    for name, value in values.items():
        totals[name] = totals.get(name, 0.0) + float(mx.sum(value))
