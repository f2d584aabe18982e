"""Prompts whose answers a program checks: JSONL as `afm synth` writes it, or of one's own.

    {"messages": [{"role": "user", "content": "2 + 2?"}, ...], "check": {"kind": "number", ...}}

The last message, where it is the assistant's, is the right answer; no model reads it. What a check
can be: synthetic/checks.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.synthetic.checks import Call, passes, score, written_calls
from afm_mlx.text.conversations import Conversation, read_conversations


@dataclass(frozen=True)
class Checks:
    """Answers that a program checks."""

    data: Path
    """JSONL of conversations with a `check`."""
    max_tokens: int = 256
    """Longest answer."""

    name: ClassVar[str] = "checks"
    figures: ClassVar[Mapping[str, str]] = {
        "accuracy": "answers that are right in all parts",
        "parts": "parts of answers that are right: tests, constraints, calls or texts",
        "named": "answers that call the right functions, whatever the arguments",
    }

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {"max_tokens": self.max_tokens}

    def items(self) -> Sequence[Item]:
        """See `Task`. Groups are what comes before the first dot in a conversation's id."""
        found = []
        for number, conversation in enumerate(read_conversations(self.data, answered=False)):
            if conversation.check is None:
                raise DataError(
                    f"{conversation.where}: no check says when an answer is right",
                    hint='add "check", as in the files of afm synth',
                )
            found.append(self._question(number, conversation))
        return found

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        assert isinstance(item, Question)
        check = item.facts["check"]
        text = reply.text if isinstance(reply, Answer) else None
        right = text is not None and passes(check, text)
        marks = {
            "accuracy": Mark(float(right)),
            "parts": Mark(float(right) if right or text is None else score(check, text)),
        }
        if check["kind"] == "tool_calls":
            marks["named"] = Mark(
                float(text is not None and _names(check["calls"]) == _names(written_calls(text)))
            )
        return marks

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Question)
        return {"prompt": str(item.prompt[-1]["content"]), "right": item.facts["right"]}  # type: ignore[index]

    def _question(self, number: int, conversation: Conversation) -> Question:
        messages = conversation.openai()
        answered = messages[-1]["role"] == "assistant"
        right = messages[-1] if answered else {}
        return Question(
            key=conversation.id or str(number),
            prompt=tuple(messages[:-1] if answered else messages),
            max_tokens=self.max_tokens,
            tools=conversation.tools,
            group=conversation.id.partition("/")[2].partition("/")[0].partition(".")[0],
            facts={
                "check": conversation.check,
                "right": right.get("content") or right.get("tool_calls", ""),
            },
        )


def _names(calls: Sequence[Call]) -> list[str]:
    return sorted(str(call["name"]) for call in calls)
