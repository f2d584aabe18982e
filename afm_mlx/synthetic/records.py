"""What a generator makes: a conversation whose last message is the answer, and how to check it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from afm_mlx.settings.synthetic import Synthetic
from afm_mlx.synthetic.draws import Draw, share_of

Message = dict[str, Any]
"""`role`, `content`, and `tool_calls` of an assistant."""

TRAIN, HELD_OUT = "train", "held_out"


@dataclass(frozen=True)
class Candidate:
    """A record that has not been compared with others yet."""

    messages: Sequence[Message]
    """The last is the assistant's answer, which `check` is about."""
    check: Mapping[str, Any]
    """How a program verifies the answer; see checks.py."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Declarations of functions, as in OpenAI's API."""

    @property
    def prompt(self) -> Sequence[Message]:
        """All but the answer."""
        return self.messages[:-1]

    def text(self) -> str:
        """What is said, one message per line."""
        return "\n".join(str(message["content"]) for message in self.messages)


Make = Callable[[Draw, str, Sequence[str]], Candidate | str]
"""From the record's choices, its family and all families of its split: a candidate, or a word on
why there is none this time."""


@dataclass(frozen=True)
class Kind:
    """A kind of generated data."""

    name: str
    """As on the command line."""
    families: Sequence[str]
    """Templates that are on the same side of the split: names that never change."""
    make: Make
    """Makes one candidate."""
    compare_near: bool = True
    """Prompts are compared by shingles, too; not where they share long documents."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the result depends on beside settings, such as a checksum of texts."""

    def of_split(self, split: str, settings: Synthetic) -> list[str]:
        """Families of one side of the split, decided by their names alone."""
        side = split == HELD_OUT
        return [
            name
            for name in self.families
            if (share_of(f"{self.name}/{name}") < settings.held_out_fraction) == side
        ]


def user(content: str) -> Message:
    """A message of the user."""
    return {"role": "user", "content": content}


def assistant(content: str, calls: Sequence[Mapping[str, Any]] = ()) -> Message:
    """A message of the assistant, with calls of tools where there are any."""
    message: Message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"name": call["name"], "arguments": call["arguments"]} for call in calls
        ]
    return message


def tool(result: Any) -> Message:
    """What a tool answered."""
    return {"role": "tool", "content": json.dumps(result, ensure_ascii=False)}
