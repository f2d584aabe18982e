"""Calls of tools: how models write them, and what becomes of them.

What a model writes is parsed into calls, checked, and carried out; results and problems go back to
it as text, in words that it can act on. How calls are written is the model's own: `ToolFormat`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import DataError
from afm_mlx.inference.answers import overlap
from afm_mlx.inference.forms.nodes import (
    MARKS,
    Anything,
    Either,
    Form,
    Many,
    Match,
    Node,
    Piece,
    Text,
)
from afm_mlx.inference.forms.nodes import Sequence as Parts
from afm_mlx.inference.forms.patterns import read_pattern
from afm_mlx.inference.forms.schemas import form_of_schema
from afm_mlx.inference.tools import Tool, shortened
from afm_mlx.text.chat import TURN_TOOL

if TYPE_CHECKING:
    from afm_mlx.inference.guided import Guide, Guides
    from afm_mlx.inference.requests import Message

LINE_OR_NOTHING = Match(read_pattern("\n?"))
"""Around a call."""


@dataclass(frozen=True)
class Call:
    """What a model asks for."""

    id: str
    """Made up here; the result names it."""
    name: str
    """Of the tool; "" where it cannot be read."""
    arguments: Mapping[str, Any]
    """Empty where they cannot be read."""
    problem: str = ""
    """Why it cannot be carried out, in words for the model."""

    @property
    def message_part(self) -> dict[str, Any]:
        """As in the `tool_calls` of an assistant's message; its arguments are JSON text."""
        function = {"name": self.name, "arguments": json.dumps(dict(self.arguments))}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class Reply:
    """An answer, taken apart."""

    text: str
    """What is said beside the calls."""
    calls: tuple[Call, ...]

    @property
    def message(self) -> dict[str, Any]:
        """The turn for the conversation, as in OpenAI's API."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.calls:
            message["tool_calls"] = [call.message_part for call in self.calls]
        return message


@dataclass(frozen=True)
class ToolFormat:
    """How a model writes calls."""

    start: str
    """What begins a call."""
    end: str
    """What ends it; "" where the end of the answer does."""
    parse: Callable[..., Any]
    """What stands between, and the declarations, to `name` and `arguments`, or a list of such."""
    is_json: bool
    """Whether it is `{"name": ..., "arguments": {...}}`; only then can a guide write it."""


def _parse_json(text: str, tools: object = None) -> Any:
    return json.loads(text)


JSON_CALLS = ToolFormat("<tool_call>", "</tool_call>", _parse_json, is_json=True)
"""As our own chat template has it, and those of Qwen3, Hermes and others."""


@lru_cache(maxsize=8)
def tool_format(folder: Path) -> ToolFormat | None:
    """How the model of a tokenizer's folder writes calls, by its chat template; None: not at all.

    The parsers are mlx-lm's.
    """
    wrapper = import_mlx_lm("mlx_lm.tokenizer_utils").load(folder)
    if not wrapper.has_tool_calling:
        return None
    start, end = str(wrapper.tool_call_start), str(wrapper.tool_call_end or "")
    parser = wrapper.tool_parser
    is_json = parser.__module__.endswith(".json_tools")
    return ToolFormat(start, end, parser, is_json)


def parse_answer(text: str, tools: Sequence[Tool], format: ToolFormat | None = JSON_CALLS) -> Reply:
    """Take an answer apart into text and calls, and check the calls.

    Nothing is raised for what a model got wrong: such a call has a `problem`.

    Args:
        text: the whole answer, control pieces as they are written.
        tools: those that the model was told of.
        format: how it writes calls; None where it cannot.
    """
    if format is None:
        return Reply(text.strip(), ())
    said, calls, declared = [], [], [tool.schema for tool in tools]
    before, *others = text.split(format.start)
    said.append(before)
    for part in others:
        inside, _, after = part.partition(format.end) if format.end else (part, "", "")
        said.append(after)
        try:
            parsed = format.parse(inside.strip(), declared)
        except Exception as error:  # any: these parsers read what a model made up
            calls.append(_unreadable(f"the call is not in the form it must have: {error}"))
            continue
        calls += [_checked_call(each, tools) for each in _listed(parsed)]
    return Reply("".join(said).strip(), tuple(calls))


class TextBeforeCalls:
    """The text of an answer that comes in pieces, up to its first call; the rest is held."""

    def __init__(self, format: ToolFormat | None) -> None:
        """`format` is how the model writes calls; None: all is text."""
        self._format = format
        self.held = ""
        """What has not been given: a call and what follows, or what may begin one."""
        self.in_call = False
        """Whether a call has begun."""

    def add(self, text: str) -> str:
        """Take the next piece; what of all so far is surely no part of a call."""
        if self._format is None:
            return text
        self.held += text
        if self.in_call:
            return ""
        start = self.held.find(self._format.start)
        self.in_call = start >= 0
        if start < 0:
            start = len(self.held) - overlap(self.held, [self._format.start])
        said, self.held = self.held[:start], self.held[start:]
        return said

    def end(self, tools: Sequence[Tool]) -> Reply:
        """What was held, when the answer is over: calls, and text beside them."""
        return (
            parse_answer(self.held, tools, self._format) if self.in_call else Reply(self.held, ())
        )


def run_call(call: Call, tools: Sequence[Tool]) -> str:
    """Carry a call out: its result as text, or what went wrong in words for the model."""
    if call.problem:
        return f"error: {call.problem}"
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return f"error: {_unknown(call.name, tools)}"
    try:
        return tool.call(call.arguments)
    except Exception as error:  # any: a tool that fails must not end the conversation
        return f"error: {call.name} failed: {shortened('', f'{type(error).__name__}: {error}')}"


def result_message(call: Call, result: str) -> Message:
    """The turn that tells a model the result of its call."""
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": result}


def for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages with the arguments of calls as objects, as chat templates want them.

    OpenAI's API has them as JSON text. What is no JSON stays text.
    """
    found = []
    for message in messages:
        copy = dict(message)
        if copy.get("tool_calls"):
            copy["tool_calls"] = [_with_object(call) for call in copy["tool_calls"]]
        found.append(copy)
    return found


def tool_guide(
    guides: Guides,
    tools: Sequence[Tool],
    choice: str,
    *,
    format: ToolFormat | None = JSON_CALLS,
    parallel: bool = True,
) -> Guide | None:
    """A guide by which every call in an answer can be read and passes its check.

    Args:
        guides: of the model.
        tools: those that the model was told of.
        choice: "auto": text as the model likes, then calls or none. "required": one call or more
            and nothing else. A tool's name: one call of it. "none": no calls, and no guide.
        format: how the model writes calls.
        parallel: more than one call is allowed.

    Returns:
        None where nothing is to be guided: also for "auto" if the calls of this model or the
        parameters of a tool are of a kind that cannot be; `parse_answer` checks them all the same.

    Raises:
        DataError: there is no such tool, or its calls cannot be guided.
    """
    if choice == "none" or (choice == "auto" and not tools):
        return None
    chosen = [tool for tool in tools if choice in ("auto", "required", tool.name)]
    if not chosen:
        raise DataError(_unknown(choice, tools))
    try:
        if format is None or not format.is_json:
            raise DataError("the calls of this model are in a form that cannot be guided")
        form = _calls_form(guides, chosen, format, choice, parallel)
    except DataError:
        if choice == "auto":
            return None
        raise
    key = [choice, parallel, format.start, [tool.schema for tool in chosen]]
    return guides.form(form, f"tools {json.dumps(key, default=str)}")


def _calls_form(
    guides: Guides, tools: Sequence[Tool], format: ToolFormat, choice: str, parallel: bool
) -> Form:
    names: dict[str, Node] = {}
    options = []
    for number, tool in enumerate(tools):
        try:
            form = form_of_schema(tool.parameters, prefix=f"{number} ")
        except DataError as error:
            raise DataError(f"tool '{tool.name}': {error}", hint=error.hint) from None
        names |= form.names
        head = Text(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
        options.append(Parts((head, form.root, Text("}"))))
    start = _mark(guides, format.start, 0)
    end = _mark(guides, format.end, 1)
    # Ours has no space around the JSON; others have a new line, and all parsers take both.
    space: Node = Text("") if guides.tokenizer.piece_id(TURN_TOOL) else LINE_OR_NOTHING
    call = Parts((start, space, Either(tuple(options)), space, end))
    most = None if parallel and choice in ("auto", "required") else 1
    if choice != "auto":
        return Form(Many(call, space, 1, most), names)
    if isinstance(start, Text):
        raise DataError(f"'{format.start}' is no control piece of this tokenizer")
    return Form(Parts((Anything(), Many(call, space, 0, most))), names)


def _mark(guides: Guides, name: str, number: int) -> Node:
    """The control piece of a name, or its text where the tokenizer has none."""
    token = guides.tokenizer.piece_id(name)
    if token is not None and not guides.vocabulary.bytes[token]:
        return Piece(token, chr(ord(MARKS[0]) + number))
    return Text(name)


def _listed(parsed: Any) -> list[Any]:
    return parsed if isinstance(parsed, list) else [parsed]


def _checked_call(parsed: Any, tools: Sequence[Tool]) -> Call:
    if not isinstance(parsed, Mapping) or not isinstance(parsed.get("name"), str):
        return _unreadable('a call must be {"name": ..., "arguments": {...}}')
    name, arguments = parsed["name"], parsed.get("arguments", {})
    if isinstance(arguments, str):  # some models quote them
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return Call(_new_id(), name, {}, "the arguments are not JSON")
    if not isinstance(arguments, Mapping):
        return Call(_new_id(), name, {}, "the arguments must be an object")
    tool = next((tool for tool in tools if tool.name == name), None)
    problem = _unknown(name, tools) if tool is None else "; ".join(tool.problems(arguments))
    return Call(_new_id(), name, dict(arguments), problem)


def _unreadable(problem: str) -> Call:
    return Call(_new_id(), "", {}, shortened("", problem))


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    inner = dict(function if isinstance(function, Mapping) else call)
    if isinstance(inner.get("arguments"), str):
        try:
            inner["arguments"] = json.loads(inner["arguments"])
        except ValueError:
            return dict(call)
    return {**call, "function": inner} if isinstance(function, Mapping) else inner


def _unknown(name: str, tools: Sequence[Tool]) -> str:
    known = ", ".join(tool.name for tool in tools) or "none"
    return f"there is no tool '{name[:64]}'; there is {known}"
