"""Prompts for models to answer: conversations up to what the user said last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from afm_mlx.alignment.preferences import note_or_raise
from afm_mlx.errors import DataError
from afm_mlx.text.chat import render_chat
from afm_mlx.text.conversations import Conversation, read_conversations
from afm_mlx.text.tokenizer import Tokenizer

HELD_OUT_EPOCH = 2**31
"""Number of the shuffled order that decides which prompts are held out: no epoch has it."""


@dataclass(frozen=True)
class Prompt:
    """What a model is to answer."""

    ids: tuple[int, ...]
    """Tokens, the head of the assistant's turn included."""
    conversation: Conversation
    """What they spell: it ends with the user's last message, and may have a `check`."""


def read_prompts(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    skip_bad: bool,
    say: Callable[[str], None],
) -> list[Prompt]:
    """The prompts of all conversations of some files, in order; says what was left out.

    Raises:
        DataError: a line is no conversation, has no message of the user, or the chat template
            refuses it, unless bad ones are skipped; or no prompt is left.
    """
    prompts: list[Prompt] = []
    for file in files:
        skipped: list[str] = []
        too_long = 0
        for conversation in read_conversations(
            file, skip_bad=skip_bad, skipped=skipped, answered=False
        ):
            try:
                prompt = _prompt(conversation, tokenizer)
            except DataError as error:
                note_or_raise(error, conversation.where, skip_bad=skip_bad, skipped=skipped)
                continue
            if len(prompt.ids) > max_tokens:
                too_long += 1
            else:
                prompts.append(prompt)
        if skipped:
            say(f"  {file.name}: {len(skipped):,} bad lines left out, the first: {skipped[0]}")
        if too_long:
            say(f"  {file.name}: {too_long:,} prompts left out, above {max_tokens:,} tokens")
    if not prompts:
        raise DataError(
            f"no prompt of at most {max_tokens:,} tokens in {', '.join(map(str, files))}",
            hint="a prompt and the longest answer must fit the model's context",
        )
    return prompts


def _prompt(conversation: Conversation, tokenizer: Tokenizer) -> Prompt:
    """What a conversation asks. Raises DataError without the place.

    What follows the user's last message is ignored: the model is to say it by itself.
    """
    messages = conversation.messages
    end = max((at for at, each in enumerate(messages, 1) if each["role"] == "user"), default=0)
    if not end:
        raise DataError("the user says nothing, there is no prompt")
    asked = replace(conversation, messages=messages[:end])
    return Prompt(
        tuple(render_chat(tokenizer, asked.openai(), tools=list(asked.tools) or None)), asked
    )


def hold_out(
    prompts: Sequence[Prompt], most: int, *, seed: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to train on, in order, and held-out ones: `most` of them, at most a tenth of all."""
    order = shuffled(len(prompts), seed, HELD_OUT_EPOCH)
    count = min(most, len(prompts) // 10)
    return [prompts[at] for at in sorted(order[count:])], [prompts[at] for at in order[:count]]


class PromptOrder:
    """Which prompts a round takes: all in a shuffled order, then all in another one."""

    def __init__(self, count: int, *, per_round: int, seed: int) -> None:
        """Of `count` prompts; `seed` decides the orders."""
        self.count, self.per_round, self.seed = count, per_round, seed

    def of_round(self, number: int) -> list[int]:
        """Numbers of the prompts of a round, which is counted from 1."""
        first = (number - 1) * self.per_round
        places = [divmod(place, self.count) for place in range(first, first + self.per_round)]
        orders = {each: shuffled(self.count, self.seed, each) for each in {e for e, _ in places}}
        return [orders[epoch][rest] for epoch, rest in places]


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The numbers 0 to `count` - 1 in an order that the seed and the epoch decide."""
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return order
