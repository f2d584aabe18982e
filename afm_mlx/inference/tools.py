"""Tools: functions that a model can ask to be called.

A tool is declared by a Python function or by a JSON Schema. What a model writes is parsed into
calls, checked, and carried out; results and problems go back to it as text, in words that it can
act on. How calls are written is the model's own: `ToolFormat`.
"""

from __future__ import annotations

import inspect
import json
import re
import secrets
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import DataError
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
from afm_mlx.text.chat import TURN_TOOL

if TYPE_CHECKING:
    from pydantic import BaseModel

    from afm_mlx.inference.guided import Guide, Guides
    from afm_mlx.inference.requests import Message

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Names of tools. Source: OpenAI's API."""

MAX_PROBLEMS = 5
"""Problems of one call that are told at once. Ours."""

PROBLEM_CHARACTERS = 200
"""Longest problem; values in it can be long. Ours."""

RESERVED = ("none", "auto", "required")
"""What can stand in place of a tool's name where one is chosen."""


@dataclass(frozen=True, eq=False)
class Tool:
    """A function that a model may ask for; made by `tool_of` and `declared_tool`."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema of the arguments: an object."""
    function: Callable[..., Any] | None = None
    """What is called; None where somebody else does."""
    arguments_model: type[BaseModel] | None = field(default=None, repr=False)
    """Of the arguments of `function`, its fields named by aliases."""

    @property
    def schema(self) -> dict[str, Any]:
        """The declaration, as OpenAI's API and chat templates have it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}

    def problems(self, arguments: Mapping[str, Any]) -> list[str]:
        """What is wrong with arguments, in words for a model; empty where nothing is."""
        if self.arguments_model is not None:
            from pydantic import ValidationError

            try:
                self.arguments_model.model_validate(dict(arguments))
            except ValidationError as error:
                return [
                    _problem(found["loc"], found["msg"].lower(), found.get("input"))
                    for found in error.errors(include_url=False)[:MAX_PROBLEMS]
                ]
            return []
        errors = sorted(self._validator.iter_errors(dict(arguments)), key=lambda e: list(e.path))
        return [_shortened(_place(error.path), error.message) for error in errors[:MAX_PROBLEMS]]

    def call(self, arguments: Mapping[str, Any]) -> str:
        """The result as text: texts as they are, all else as JSON.

        Raises:
            DataError: the arguments are wrong, or there is no function to call.
        """
        if self.function is None:
            raise DataError(f"tool '{self.name}' is only declared: there is no function to call")
        if problems := self.problems(arguments):
            raise DataError(f"tool '{self.name}': {'; '.join(problems)}")
        assert self.arguments_model is not None
        read = self.arguments_model.model_validate(dict(arguments))
        # As objects, not as JSON: a date is a date, a model a model.
        values = {
            info.alias or name: getattr(read, name)
            for name, info in self.arguments_model.model_fields.items()
            if name in read.model_fields_set
        }
        result = self.function(**values)
        if isinstance(result, str):
            return result
        from pydantic_core import to_json

        return to_json(result, fallback=str).decode()

    @cached_property
    def _validator(self) -> Any:
        from jsonschema import Draft202012Validator

        return Draft202012Validator(dict(self.parameters))


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


def tool_of(function: Callable[..., Any]) -> Tool:
    """A tool of a Python function: its name, type hints, defaults and docstring.

    The first paragraph of the docstring tells the model what the tool does, and the lines of its
    `Args:` what each parameter is.

    Raises:
        DataError: a parameter has no type hint or one without a JSON form, or the function is
            one that cannot be called by names.
    """
    from pydantic import ConfigDict, Field, create_model
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    name = _checked_name(getattr(function, "__name__", ""))
    if inspect.iscoroutinefunction(function):
        raise DataError(f"tool '{name}' is a coroutine, and must be a plain function")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise DataError(f"tool '{name}': its type hints cannot be read: {error}") from None
    about, described = _docstring(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DataError(f"tool '{name}': parameter '{parameter.name}' cannot be given by name")
        if parameter.name not in hints:
            raise DataError(
                f"tool '{name}': parameter '{parameter.name}' has no type hint",
                hint=f"def {name}({parameter.name}: str)",
            )
        given = {} if parameter.default is parameter.empty else {"default": parameter.default}
        # By alias: a model's own field could not be called `json` or `_x`.
        info = Field(alias=parameter.name, description=described.get(parameter.name), **given)
        fields[f"parameter_{number}"] = (hints[parameter.name], info)
    try:
        model = create_model(
            name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields
        )
        parameters = _without_titles(model.model_json_schema())
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"tool '{name}': a type hint has no JSON form: {reason}") from None
    parameters.setdefault("properties", {})
    return Tool(name, about, parameters, function, model)


def declared_tool(declaration: Mapping[str, Any]) -> Tool:
    """A tool of a declaration as in OpenAI's API; somebody else carries its calls out.

    Raises:
        DataError: the declaration is not of that form, or its parameters are no JSON Schema.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    declared = declaration.get("function") if isinstance(declaration, Mapping) else None
    if not isinstance(declared, Mapping):
        raise DataError(
            "a tool must be declared as a function",
            hint='{"type": "function", "function": {"name": ..., "parameters": {...}}}',
        )
    name = _checked_name(declared.get("name"))
    parameters = declared.get("parameters") or {"type": "object", "properties": {}}
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        place = "/".join(["#", *map(str, error.absolute_path)])
        raise DataError(
            f"tool '{name}': schema at {place}: {error.message[:PROBLEM_CHARACTERS]}"
        ) from None
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise DataError(f"tool '{name}': its parameters must be an object")
    return Tool(name, str(declared.get("description") or ""), dict(parameters))


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
        return f"error: {call.name} failed: {_shortened('', f'{type(error).__name__}: {error}')}"


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


LINE_OR_NOTHING = Match(read_pattern("\n?"))


def _mark(guides: Guides, name: str, number: int) -> Node:
    """The control piece of a name, or its text where the tokenizer has none."""
    token = guides.tokenizer.piece_id(name)
    if token is not None and not guides.vocabulary.bytes[token]:
        return Piece(token, chr(ord(MARKS[0]) + number))
    return Text(name)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise DataError(
            f"'{name}' cannot be a tool's name: letters, digits, _ and -, at most 64 of them"
        )
    if name in RESERVED:
        raise DataError(f"a tool cannot be called '{name}'")
    return name


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """First paragraph of a docstring, and what its `Args:` say, by name."""
    about = " ".join(text.split("\n\n")[0].split())
    described: dict[str, str] = {}
    found = re.search(r"^(?:Args|Arguments|Parameters):\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    lines = inspect.cleandoc("\n" + found[1]).splitlines() if found else []
    name = ""
    for line in lines:
        head = re.match(r"(\*{0,2}\w+)(?:\s*\([^)]*\))?:\s*(.*)", line)
        if head:
            name = head[1]
            described[name] = head[2].strip()
        elif name and line.startswith((" ", "\t")):
            described[name] = f"{described[name]} {line.strip()}".strip()
    return about, described


def _without_titles(schema: Any, *, names: bool = False) -> Any:
    """A schema without `title`, which only repeats names; properties called so stay."""
    if isinstance(schema, Mapping):
        return {
            key: _without_titles(value, names=key in ("properties", "$defs") and not names)
            for key, value in schema.items()
            if names or key != "title" or not isinstance(value, str)
        }
    if isinstance(schema, list):
        return [_without_titles(each) for each in schema]
    return schema


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
    return Call(_new_id(), "", {}, _shortened("", problem))


def _unknown(name: str, tools: Sequence[Tool]) -> str:
    known = ", ".join(tool.name for tool in tools) or "none"
    return f"there is no tool '{name[:64]}'; there is {known}"


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _problem(place: Sequence[Any], said: str, value: Any) -> str:
    shown = "" if isinstance(value, Mapping) else f" (it is {json.dumps(value, default=str)[:60]})"
    return _shortened(_place(place), said + shown)


def _place(parts: Sequence[Any]) -> str:
    return ".".join(str(part) for part in parts)


def _shortened(place: str, problem: str) -> str:
    text = f"{place}: {problem}" if place else problem
    return text if len(text) <= PROBLEM_CHARACTERS else text[: PROBLEM_CHARACTERS - 3] + "..."


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    inner = dict(function if isinstance(function, Mapping) else call)
    if isinstance(inner.get("arguments"), str):
        try:
            inner["arguments"] = json.loads(inner["arguments"])
        except ValueError:
            return dict(call)
    return {**call, "function": inner} if isinstance(function, Mapping) else inner
