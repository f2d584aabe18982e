"""Rejection sampling: of several answers to a prompt, the best one that passes its check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.sampling import Sampled


def best_answer(
    answers: Sequence[Sampled],
    rewards: Sequence[float],
    checked: Sequence[float],
    *,
    least_score: float | None,
) -> int | None:
    """Number of the answer with the highest reward, the first of equal ones; None if none passes.

    Args:
        answers: to one prompt. Those that were cut or are empty do not pass.
        rewards: of each.
        checked: how much of each is right, 0 to 1.
        least_score: how much must be; None where the prompt has no check.
    """
    passed = [
        number
        for number, (answer, score) in enumerate(zip(answers, checked, strict=True))
        if answer.finished and answer.text.strip() and (least_score is None or score >= least_score)
    ]
    return max(passed, key=lambda number: (rewards[number], -number), default=None)


def as_conversation(prompt: Prompt, answer: Sampled) -> dict[str, Any]:
    """A line of a file of conversations: the prompt, and the answer as the assistant's turn."""
    asked = prompt.conversation
    line: dict[str, Any] = {
        "messages": [*asked.messages, {"role": "assistant", "content": answer.text}]
    }
    if asked.tools:
        line["tools"] = list(asked.tools)
    if asked.id:
        line["id"] = asked.id
    if asked.check is not None:
        line["check"] = dict(asked.check)
    return line
