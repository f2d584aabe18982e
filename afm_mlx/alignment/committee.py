"""iTeC's bookkeeping: what a committee's answers say, and what the next models learn from.

A committee is models by name. All answer the same prompts. A program says how much of an answer is
right (`checked`, 0 to 1); the reward model says what it is worth (`rewards`). From these come the
comparisons that the reward model learns next, the best answer to each prompt, and the pairs of best
and worst answers.

Source: R24 (arXiv:2407.21075), section 4.3; afm-report.md, section 11. Which two members are
compared, the levels by gaps, and the rule of "under noise" are ours.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from afm_mlx.alignment.preferences import Preference, level_of_gap, level_of_reward_gap
from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.rejection import best_answer
from afm_mlx.alignment.sampling import Sampled
from afm_mlx.text.conversations import Conversation

TRIES = 8
"""Draws of two answers for each comparison that is wanted. Ours."""


@dataclass(frozen=True)
class Answered:
    """An answer of a member to a prompt, and what is known of it."""

    member: str
    answer: Sampled
    checked: float
    """How much is right, 0 to 1; 0 for an answer that was cut, or where nobody checks."""
    reward: float
    """What the reward model says; 0 before there is one."""

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's turn."""
        return {"role": "assistant", "content": self.answer.text}


def compare(
    prompt: Prompt, answers: Sequence[Answered], *, most_pairs: int, key: str
) -> list[Preference]:
    """Comparisons between members' answers to one prompt, decided by its check.

    Two members are drawn, all pairs alike, and an answer of each; where there is one member, two of
    its answers. Equal texts, and answers that are equally right, are not compared.

    Args:
        prompt: with a check; without one nothing is compared.
        answers: of all members.
        most_pairs: stop after this many.
        key: decides the draws.
    """
    if prompt.conversation.check is None:
        return []
    chance = random.Random(key)  # of a text: the same in every run
    members = sorted({each.member for each in answers})
    by_member = {name: [a for a in answers if a.member == name] for name in members}
    found: dict[tuple[str, str], Preference] = {}
    for _ in range(TRIES * most_pairs):
        if len(found) == most_pairs:
            break
        pair = chance.sample(members, 2) if len(members) > 1 else members * 2
        one, other = (chance.choice(by_member[name]) for name in pair)
        if one.checked < other.checked:
            one, other = other, one
        if preference := _preference(prompt, one, other, one.checked - other.checked):
            found.setdefault((one.answer.text, other.answer.text), preference)
    return list(found.values())


def pick(prompt: Prompt, answers: Sequence[Answered]) -> Answered | None:
    """The answer of the highest reward that ended by itself, and passes its check if any."""
    least = None if prompt.conversation.check is None else 1.0
    best = best_answer(
        [each.answer for each in answers],
        [each.reward for each in answers],
        [each.checked for each in answers],
        least_score=least,
    )
    return None if best is None else answers[best]


def best_and_worst(prompt: Prompt, answers: Sequence[Answered]) -> Preference | None:
    """The best answer beside the worst: rightest first, and then of the highest reward.

    None where they are equal, or where a program says that they are equally right.
    """
    order = sorted(answers, key=lambda each: (each.checked, each.reward))
    worst, best = order[0], order[-1]
    if prompt.conversation.check is not None:
        return _preference(prompt, best, worst, best.checked - worst.checked)
    gap = best.reward - worst.reward
    level = level_of_reward_gap(gap)
    return _preference(prompt, best, worst, gap, level) if gap > 0 else None


def _preference(
    prompt: Prompt, better: Answered, worse: Answered, gap: float, level: str | None = None
) -> Preference | None:
    """The comparison, unless there is none to make."""
    texts = [each.answer.text.strip() for each in (better, worse)]
    if gap <= 0 or texts[0] == texts[1] or not all(texts):
        return None
    asked = prompt.conversation
    return Preference(
        tuple(asked.messages),
        better.message,
        worse.message,
        level or level_of_gap(gap),
        tools=tuple(asked.tools),
    )


def category(conversation: Conversation) -> str:
    """Where an answer was given: the id `math/ages/0-5` is of `math/ages`; "" without an id."""
    head, _, _ = (conversation.id or "").rpartition("/")
    return head.partition(".")[0]


def values(
    prompts: Sequence[Prompt], answers: Sequence[Answered], start: Sequence[Answered]
) -> list[float]:
    """What a member's answers to held-out prompts are worth, each 0 to 1.

    How much is right; without a check, whether the reward model prefers the answer to the one of
    the model that training started from: 1, 0, or a half.
    """
    return [
        each.checked
        if prompt.conversation.check is not None
        else (1.0 if each.reward > first.reward else 0.5 if each.reward == first.reward else 0.0)
        for prompt, each, first in zip(prompts, answers, start, strict=True)
    ]


def under_noise(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the gain, over the same prompts, is at most its standard error."""
    gains = [one - other for one, other in zip(after, before, strict=True)]
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return fmean(gains) <= error


def count_picks(prompts: Sequence[Prompt], picks: Sequence[Answered | None]) -> dict[str, Any]:
    """Whose answers were picked: by category, then by member."""
    found: dict[str, Counter[str]] = {}
    for prompt, each in zip(prompts, picks, strict=True):
        where = category(prompt.conversation) or "all"
        found.setdefault(where, Counter())[each.member if each else "nobody"] += 1
    return {where: dict(counts.most_common()) for where, counts in sorted(found.items())}
