"""Files of conversations as examples: read, rendered, split, and counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from afm_mlx.corpus.held_out import border_of, text_hash
from afm_mlx.errors import DataError
from afm_mlx.text.conversations import Conversation, Rendered, read_conversations, render_turns
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.examples import Examples


@dataclass(frozen=True)
class Demonstrations:
    """What a model is to learn, and what it is measured on."""

    train: dict[str, Examples]
    """Examples by source."""
    held_out: Examples
    """Of all sources, in an order that does not depend on that of the files."""
    num_conversations: int
    """Conversations that were read."""
    num_too_long: int
    """Sequences that were dropped because they do not fit a row."""
    skipped: list[str] = field(default_factory=list)
    """What was wrong with each line that was left out, with its place."""


def read_demonstrations(
    files: Mapping[str, Path],
    tokenizer: Tokenizer,
    *,
    row_tokens: int,
    held_out_fraction: float,
    skip_bad: bool = False,
    section: str = "sft",
) -> Demonstrations:
    """Examples of JSONL files. A conversation is held out by its hash, so copies go together.

    Between 0 and 1, and of two different conversations, one at least is held out and one trained
    on.

    Args:
        files: by name of the source.
        tokenizer: of the model, with its chat template.
        row_tokens: longest example, in tokens.
        held_out_fraction: expected share of conversations, 0 to below 1.
        skip_bad: leave out what is wrong, instead of stopping at it.
        section: whose settings a hint names.

    Raises:
        DataError: a file cannot be read, a line is no conversation, the chat template refuses one,
            or nothing is left.
    """
    found: dict[str, list[tuple[int, list[Rendered]]]] = {name: [] for name in files}
    skipped: list[str] = []
    too_long = 0
    for name, path in files.items():
        for conversation in read_conversations(path, skip_bad=skip_bad, skipped=skipped):
            try:
                sequences = render_turns(conversation, tokenizer)
            except DataError as error:
                message = f"{conversation.where}: {error}"
                if not skip_bad:
                    raise DataError(message, hint=error.hint) from None
                skipped.append(message)
                continue
            short = [each for each in sequences if len(each.ids) <= row_tokens]
            too_long += len(sequences) - len(short)
            found[name].append((_hash(conversation), short))
    read = [one for source in found.values() for one in source]
    border = border_of([value for value, short in read if short], held_out_fraction)
    demonstrations = Demonstrations(
        {
            name: Examples.of(each for value, short in source if value >= border for each in short)
            for name, source in found.items()
        },
        Examples.of(
            each
            for value, short in sorted(read, key=lambda one: one[0])
            if value < border
            for each in short
        ),
        len(read),
        too_long,
        skipped,
    )
    if not any(len(examples) for examples in demonstrations.train.values()):
        names = ", ".join(str(path) for path in files.values())
        why = f"; {skipped[0]}" if skipped else ""
        if too_long:
            why = f"; {too_long:,} are longer than {row_tokens:,} tokens"
        raise DataError(
            f"no conversation to learn from in {names}{why}",
            hint=f"--set {section}.row_tokens=... with more tokens" if too_long else "",
        )
    return demonstrations


def _hash(conversation: Conversation) -> int:
    """Of what was said, and of the tools."""
    return text_hash(json.dumps([conversation.messages, conversation.tools], sort_keys=True))
