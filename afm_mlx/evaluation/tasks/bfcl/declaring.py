"""BFCL's functions as tools: declared as in OpenAI's API, or written into the prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from afm_mlx.evaluation.tasks.bfcl.matching import PYTHON, Language
from afm_mlx.inference.requests import Message

_JSON_TYPES = {
    "string": "string",
    "integer": "integer",
    "float": "number",
    "boolean": "boolean",
    "array": "array",
    "tuple": "array",
    "dict": "object",
    "any": "string",
}
"""JSON Schema's, by BFCL's name. An argument of any type is a text, and the matcher wants one."""

ASKED_IN_TEXT = """\
You can call these functions, each declared by a line of JSON:
{functions}
If they help with the request, answer with calls alone, in Python's form:
[NAME(PARAMETER=VALUE, ...), NAME(PARAMETER=VALUE, ...)]
If no function fits, or the request lacks a value that one needs, say so in words."""
"""What comes first in a conversation whose model is told of functions in text. Ours; the
leaderboard's own prompt says the same at greater length."""


def declared(function: Mapping[str, Any], language: Language = PYTHON) -> dict[str, Any]:
    """A function of BFCL as a tool of OpenAI's API.

    Arguments of Java and JavaScript are texts, and their descriptions say of what type.

    Raises:
        ValueError: a type is unknown or something is of a wrong form; it says which.
    """
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError("a function has no 'name'")
    name, parameters = function["name"], function.get("parameters")
    if not isinstance(parameters, Mapping) or not isinstance(parameters.get("properties"), Mapping):
        raise ValueError(f"function '{name}' has no 'parameters' with 'properties'")
    if not isinstance(parameters.get("required"), list):
        raise ValueError(f"function '{name}' has no list 'required'")
    properties = {
        key: _property(key, value, language) for key, value in parameters["properties"].items()
    }
    schema = {"type": "object", "properties": properties, "required": parameters["required"]}
    described = {"name": name, "description": function.get("description", ""), "parameters": schema}
    return {"type": "function", "function": described}


def told_in_text(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[Message, ...]:
    """A conversation that begins with the functions, and with what it began with before."""
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    told = ASKED_IN_TEXT.format(functions=lines)
    if messages and messages[0]["role"] == "system":
        first = {"role": "system", "content": f"{told}\n\n{messages[0]['content']}"}
        return (first, *messages[1:])
    return ({"role": "system", "content": told}, *messages)


def _property(name: str, value: Any, language: Language) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind not in language.types:
        known = ", ".join(language.types)
        raise ValueError(f"parameter '{name}' is of type '{kind}', which is none of {known}")
    if language is PYTHON:
        if kind in ("array", "tuple") and not isinstance(value.get("items"), Mapping):
            raise ValueError(f"parameter '{name}' is a list without 'items'")
        return _json_schema(value)
    of = value.get("items", {}).get("type")
    said = f"A text of {language.name}'s type {kind}" + (f" of {of}." if of else ".")
    return {"type": "string", "description": f"{value.get('description', '')} {said}".strip()}


def _json_schema(value: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of BFCL as one of JSON; it is alike but for the types."""
    found = {key: part for key, part in value.items() if key != "optional"}
    kind = value.get("type")
    if isinstance(kind, str):
        if kind not in _JSON_TYPES:
            raise ValueError(f"type '{kind}' is none of {', '.join(_JSON_TYPES)}")
        found["type"] = _JSON_TYPES[kind]
    if isinstance(value.get("items"), Mapping):
        found["items"] = _json_schema(value["items"])
    if isinstance(value.get("properties"), Mapping):
        found["properties"] = {
            key: _json_schema(part) if isinstance(part, Mapping) else part
            for key, part in value["properties"].items()
        }
    return found
