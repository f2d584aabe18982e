"""Conversations: read from JSONL in the usual formats, and written as ids with a mask.

A line of a file is one of these:

    {"messages": [{"role": "user", "content": "Hi"}, ...], "tools": [...]}   ours, mlx-lm, OpenAI
    {"prompt": "Hi", "completion": "Hello."}                                 mlx-lm
    [{"role": "user", "content": "Hi"}, ...]                                 Apple's adapter toolkit

Roles are system (or developer), user, assistant and tool. An assistant's `tool_calls` are
`{"name": ..., "arguments": {...}}`, or OpenAI's `{"function": {...}}` around it; arguments may be
JSON in a text. Apple's tools stand in the first message. Ours may have an `id`, and a `check`: how
a program can verify the last answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afm_mlx.errors import DataError
from afm_mlx.text.chat import render_chat
from afm_mlx.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
"""Who can speak."""

FORMATS = 'a line is {"messages": [...]}, {"prompt": ..., "completion": ...} or [messages]'


@dataclass(frozen=True)
class Conversation:
    """What was said, in one form whatever the file's."""

    messages: tuple[dict[str, Any], ...]
    """`role` and `content` (a text) each; `tool_calls` of an assistant, each with a `name` and a
    table of `arguments`. Some have `name` or `reasoning_content`, which templates know."""
    tools: tuple[dict[str, Any], ...] = ()
    """Declarations of functions, as they were written."""
    id: str = ""
    """Name of the conversation, if it has one."""
    check: Mapping[str, Any] | None = None
    """How a program can verify the last answer."""
    where: str = field(default="", compare=False)
    """File and line, for messages about it."""

    def openai(self) -> list[dict[str, Any]]:
        """The messages with calls in OpenAI's form, which every chat template reads."""
        return [
            message
            | {
                "tool_calls": [
                    {"type": "function", "function": call} for call in message["tool_calls"]
                ]
            }
            if message.get("tool_calls")
            else message
            for message in self.messages
        ]


def read_conversations(
    path: Path,
    *,
    skip_bad: bool = False,
    skipped: list[str] | None = None,
    answered: bool = True,
) -> Iterator[Conversation]:
    """Conversations of a JSONL file, in order. Empty lines are no lines.

    Args:
        path: the file.
        skip_bad: leave out lines that are no conversation, instead of stopping at the first.
        skipped: what was wrong with each line that is left out is added here, with its place.
        answered: whether a line must have a turn of an assistant; a prompt need not.

    Raises:
        DataError: the file cannot be read, or without `skip_bad` a line is no conversation: it is
            not JSON, has an unknown role, no turn of an assistant, or a tool call that is not JSON.
    """
    try:
        with path.expanduser().open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path.name}, line {number:,}"
                try:
                    yield _conversation(line, where, answered=answered)
                except DataError as error:
                    message = f"{where}: {error}"
                    if not skip_bad:
                        hint = error.hint or "leave such lines out: --skip-bad"
                        raise DataError(message, hint=hint) from None
                    if skipped is not None:
                        skipped.append(message)
    except IsADirectoryError:
        raise DataError(
            f"{path} is a folder", hint="name a file in it, such as train.jsonl"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def _conversation(line: bytes, where: str, *, answered: bool) -> Conversation:
    """The conversation that a line is. Raises DataError without the place."""
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text", hint=FORMATS) from None
    except (ValueError, RecursionError):
        raise DataError("not JSON", hint=FORMATS) from None
    table: Mapping[str, Any] = found if isinstance(found, dict) else {}
    if isinstance(found, list):
        said = found
    elif "messages" in table:
        said = table["messages"]
    elif "prompt" in table and "completion" in table:
        said = [*_said(table["prompt"], "user"), *_said(table["completion"], "assistant")]
    else:
        names = ", ".join(f"'{name}'" for name in table) or type(found).__name__
        raise DataError(f"not a conversation, it has {names}", hint=FORMATS)
    if not isinstance(said, list) or not said:
        raise DataError("'messages' is not a list of messages", hint=FORMATS)
    messages = tuple(read_message(each, number) for number, each in enumerate(said, start=1))
    if answered and not any(message["role"] == "assistant" for message in messages):
        raise DataError("no turn of an assistant, there is nothing to learn")
    tools = table.get("tools") or (said[0].get("tools") if isinstance(said[0], dict) else None)
    check = table.get("check")
    if check is not None and not isinstance(check, dict):
        raise DataError("'check' is not a table")
    return Conversation(
        messages,
        tuple(_tool(each) for each in _list(tools, "tools")),
        id=str(table.get("id") or ""),
        check=check,
        where=where,
    )


def _said(value: Any, role: str) -> list[Any]:
    """A prompt or completion as messages: it is a text, or messages already."""
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def read_message(value: Any, number: int = 1) -> dict[str, Any]:
    """One message in our form; `number` is its place, for errors.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise DataError(f"message {number} has no role", hint=FORMATS)
    role = "system" if value["role"] == "developer" else value["role"]
    if role not in ROLES:
        raise DataError(
            f"message {number} has the unknown role '{role}', roles are {', '.join(ROLES)}"
        )
    message = {"role": role, "content": _content(value.get("content"), role, number)}
    calls = _list(value.get("tool_calls"), f"'tool_calls' of message {number}")
    if calls and role == "assistant":
        message["tool_calls"] = [_call(call, number) for call in calls]
    for name in ("name", "reasoning_content"):
        if isinstance(value.get(name), str):
            message[name] = value[name]
    if role == "assistant" and not message["content"] and "tool_calls" not in message:
        raise DataError(f"message {number}, of the assistant, is empty")
    return message


def _content(value: Any, role: str, number: int) -> str:
    """A message's text: as it is, in parts, or the JSON of what a tool gave back."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, dict) and "text" in part for part in value):
        return "".join(str(part["text"]) for part in value)
    if role == "tool":
        return json.dumps(value, ensure_ascii=False)
    raise DataError(f"content of message {number} is not text")


def _call(value: Any, number: int) -> dict[str, Any]:
    """One tool call: name, and arguments as a table."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"a tool call of message {number} has no name")
    name, arguments = function["name"], function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise DataError(f"the call of '{name}' in message {number} is not JSON") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise DataError(f"the call of '{name}' in message {number} has no table of arguments")
    return {"name": name, "arguments": arguments}


def _tool(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError("a tool is not a table with its name and parameters")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise DataError(f"{name} is not a list")
    return value


# How a model sees them.


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids, and which of them the assistant says."""

    ids: list[int]
    """Token ids."""
    mask: list[int]
    """1 for each id that the assistant says, the end of its turn included; 0 for the others."""


def render(conversation: Conversation, chat: Tokenizer | Path) -> Rendered:
    """Ids of a conversation up to the assistant's last turn, and the mask of what it says.

    Some templates rewrite earlier turns: Qwen3's drops their thoughts. The mask is 0 on such a
    turn, because the model never says it in that form; `render_turns` shows it, too.

    Args:
        conversation: with at least one turn of an assistant.
        chat: the model's tokenizer, opened, or its folder.

    Raises:
        DataError: there is no chat template, or it refuses this conversation, or it writes an
            answer in another way than it asks for one.
    """
    return _sequence(_Turns(conversation, chat), set())


def render_turns(conversation: Conversation, chat: Tokenizer | Path) -> list[Rendered]:
    """`render`, and for each turn that the template rewrites afterwards one more sequence.

    Every turn of the assistant has a mask of 1 in exactly one sequence, in the form in which the
    model says it, after what it sees then. With most templates this is one sequence.

    Raises:
        DataError: as `render`.
    """
    turns, shown = _Turns(conversation, chat), set[int]()
    sequences = []
    while len(shown) < len(turns.numbers):
        sequences.append(_sequence(turns, shown))
    return sequences


class _Turns:
    """The assistant's turns in a conversation, each as the model says it."""

    def __init__(self, conversation: Conversation, chat: Tokenizer | Path) -> None:
        self.tokenizer = chat if isinstance(chat, Tokenizer) else Tokenizer.open(chat)
        self.messages, self.tools = conversation.openai(), conversation.tools or None
        self.numbers = [
            number for number, message in enumerate(self.messages) if message["role"] == "assistant"
        ]
        self.ids, self.spans = [], []  # up to each turn, and where it stands there
        for number in self.numbers:
            before = self._render(number, generation_prompt=True)
            ids = self._render(number + 1, generation_prompt=False)
            self.ids.append(ids)
            self.spans.append((self._start(before, ids, number), self._end(before, ids)))

    def _render(self, count: int, *, generation_prompt: bool) -> list[int]:
        return render_chat(
            self.tokenizer,
            self.messages[:count],
            tools=self.tools,
            generation_prompt=generation_prompt,
        )

    def _start(self, before: Sequence[int], ids: Sequence[int], number: int) -> int:
        """Where the answer begins: after what the model is given.

        A tokenizer may join the last token that is given with the first of the answer, as a
        newline with a newline. That one token is counted as the answer's.
        """
        common = _common(before, ids)
        if common < len(before) - 1:
            given, written = before[common:], ids[common : common + len(before) - common]
            raise DataError(
                f"the chat template asks for answer {number + 1} with "
                f"{self.tokenizer.decode(given)!r}, and writes it with "
                f"{self.tokenizer.decode(written)!r} there",
                hint="write the answer as the model is to say it, its thoughts included",
            )
        return common

    def _end(self, before: Sequence[int], ids: Sequence[int]) -> int:
        """Where the model stops: after the first token that ends a turn, else at the end."""
        stops = self.tokenizer.eos_ids
        start = _common(before, ids)
        return next((at + 1 for at in range(start, len(ids)) if ids[at] in stops), len(ids))


def _sequence(turns: _Turns, shown: set[int]) -> Rendered:
    """Ids up to the last turn that is not `shown`, with the mask of all that are not; adds them."""
    last = max(index for index in range(len(turns.numbers)) if index not in shown)
    ids = turns.ids[last]
    mask = [0] * len(ids)
    for index in range(last + 1):
        start, end = turns.spans[index]
        if index not in shown and ids[:end] == turns.ids[index][:end]:
            mask[start:end] = [1] * (end - start)
            shown.add(index)
    return Rendered(ids, mask)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def picture(rendered: Rendered, tokenizer: Tokenizer) -> str:
    """The text of a sequence, a line of it a line; `learn |` stands before what is trained on."""
    lines: list[str] = []
    start = 0
    for at in range(1, len(rendered.ids) + 1):
        if at == len(rendered.ids) or rendered.mask[at] != rendered.mask[start]:
            mark = "learn" if rendered.mask[start] else ""
            text = tokenizer.decode(rendered.ids[start:at])
            lines += [f"{mark:5} | {line}" for line in text.removesuffix("\n").split("\n")]
            start = at
    return "\n".join(lines)
