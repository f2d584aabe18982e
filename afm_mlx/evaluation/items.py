"""What is asked of a model, what comes back, and how a task marks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from afm_mlx.inference.requests import Finish, Message


@dataclass(frozen=True)
class Option:
    """A text, and how it may go on."""

    context: str
    continuation: str
    """Begins with a space where words are to be apart."""


@dataclass(frozen=True)
class Choice:
    """Options of which a model takes the likeliest."""

    key: str
    """Its name, one of a kind in the task; never changes."""
    options: tuple[Option, ...]
    right: int
    """Place of the right one."""
    group: str = ""
    """Part of the task that has a score of its own, such as a subject; "" for none."""


@dataclass(frozen=True)
class Passage:
    """A text that is read, not answered: what counts is how likely a model finds it."""

    key: str
    text: str
    group: str = ""


@dataclass(frozen=True)
class Question:
    """A prompt that a model answers."""

    key: str
    prompt: str | tuple[Message, ...]
    """A text that is continued as it stands, or messages, which go through the chat template."""
    max_tokens: int
    """Longest answer."""
    stop: tuple[str, ...] = ()
    """Texts at which the answer ends."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """That the model may call, declared as in OpenAI's API."""
    schema: Mapping[str, Any] | None = None
    """JSON Schema that the answer is held to; None for any text."""
    group: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What marks the answer, such as the right one; no model reads it."""


Item = Choice | Passage | Question


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds a text."""

    nats: float
    """Its log-probability."""
    tokens: int
    """In which the model reads it."""
    greedy: bool = False
    """Whether each of them is the likeliest."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    finished: Finish = "stop"
    tokens: int = 0


@dataclass(frozen=True)
class Refusal:
    """Why an item was not asked, in words that many items can share: they are counted."""

    reason: str


Reply = Sequence[Likelihood] | Likelihood | Answer | Refusal
"""To a choice (one per option), a passage, a question; or why there is none."""


@dataclass(frozen=True)
class Mark:
    """One figure of an item. A score is the sum of value x weight over the sum of weights."""

    value: float
    weight: float = 1.0


Marks = Mapping[str, Mark]
"""By the name of the figure. All items of a task that count for a figure have it."""


class Task(Protocol):
    """A benchmark.

    It may have `averages`, too: figures that are means of another figure's scores over all groups,
    by name, such as {"average": "accuracy"}. And `counts`: names of figures that are no shares, and
    may be 0 or 1 for all items nevertheless.
    """

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the prompts and the marks, such as `shots`; ready for JSON."""

    @property
    def figures(self) -> Mapping[str, str]:
        """Its scores by name, the one that counts first, each with a word on what it is."""

    def items(self) -> Sequence[Item]:
        """All items, in an order that never changes.

        Raises:
            DataError: a file is missing or broken, or lacks a column; it names file and line.
        """

    def mark(self, item: Item, reply: Reply) -> Marks:
        """The figures of one item. A refusal is marked like no answer at all."""

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """What a reader of `samples.jsonl` wants to see beside the reply, such as what is right."""
