"""Tools: functions that a model can ask to be called.

A tool is declared by a Python function or by a JSON Schema; it checks arguments, and is called.
What a model writes, and what becomes of it: `calls.py`.
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from afm_mlx.errors import DataError

if TYPE_CHECKING:
    from pydantic import BaseModel

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
        return [shortened(_place(error.path), error.message) for error in errors[:MAX_PROBLEMS]]

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


def _problem(place: Sequence[Any], said: str, value: Any) -> str:
    shown = "" if isinstance(value, Mapping) else f" (it is {json.dumps(value, default=str)[:60]})"
    return shortened(_place(place), said + shown)


def _place(parts: Sequence[Any]) -> str:
    return ".".join(str(part) for part in parts)


def shortened(place: str, problem: str) -> str:
    """A problem in words for a model, with its place in the arguments if there is one."""
    text = f"{place}: {problem}" if place else problem
    return text if len(text) <= PROBLEM_CHARACTERS else text[: PROBLEM_CHARACTERS - 3] + "..."
