"""Prompts with solved examples, as one text or as a chat."""

from __future__ import annotations

from collections.abc import Sequence

from afm_mlx.inference.requests import Message


def prompt_after_examples(
    asked: Sequence[str], solutions: Sequence[str], *, chat: bool
) -> str | tuple[Message, ...]:
    """Questions with their solutions, then one that has none.

    Args:
        asked: the examples' questions, and the one that is to be answered.
        solutions: of the examples.
        chat: give turns of a chat, not one text that is continued.
    """
    *examples, last = asked
    solved = list(zip(examples, solutions, strict=True))
    if not chat:
        return "".join(f"{ask} {solution}\n\n" for ask, solution in solved) + last
    turns: list[Message] = []
    for ask, solution in solved:
        turns += [{"role": "user", "content": ask}, {"role": "assistant", "content": solution}]
    return (*turns, {"role": "user", "content": last})
