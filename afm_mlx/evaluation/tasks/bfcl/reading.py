"""The calls in an answer, however the model was taught to write them.

Three ways are read: marked calls (`<tool_call>{...}</tool_call>`, or the marks of the model's own
format) with or without words around them; JSON; and Python, as `[f(a=1), g(b="x")]`. The last two
must be the whole answer, which may stand in a code fence: words around them are no calls, and that
is the leaderboard's rule, too.
"""

from __future__ import annotations

import ast
import json
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from afm_mlx.evaluation.tasks.bfcl.matching import Called
from afm_mlx.inference.calls import JSON_CALLS, ToolFormat

_THOUGHT = re.compile(r"\A\s*(<think>)?.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A```\w*\n?(.*?)\n?```\Z", re.DOTALL)
_BETWEEN = re.compile(r"[\s,;]*")  # of JSON values that follow each other

_NAMES = ("name", "function", "function_name")
_ARGUMENTS = ("arguments", "parameters", "args")

_SUMS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_LARGEST_POWER = 64  # exponent in an argument; larger ones are not computed. Ours


class NoCallsError(ValueError):
    """An answer, or a part of it, that is no call."""


def read_calls(
    answer: str, tools: Sequence[Mapping[str, Any]] = (), format: ToolFormat = JSON_CALLS
) -> list[Called]:
    """The calls of an answer.

    Args:
        answer: the whole of it. What a model thinks before it answers is left out.
        tools: declarations that the model was told of, as in OpenAI's API.
        format: how the model marks calls.

    Raises:
        NoCallsError: there is none, or one of them cannot be read; it says why.
    """
    text = _THOUGHT.sub("", answer).strip()
    for marks in (format, JSON_CALLS):
        if marks.start in text:
            return _marked(text, tools, marks)
    if fenced := _FENCE.match(text):
        text = fenced[1]
    text = text.strip("`'\n ")
    if not text:
        raise NoCallsError("the answer is empty")
    if text[0] in "[{" and (calls := _json_calls(text, tools)):
        return calls
    return _python_calls(text)


def _marked(text: str, tools: Sequence[Mapping[str, Any]], format: ToolFormat) -> list[Called]:
    calls = []
    for part in text.split(format.start)[1:]:
        inside = (part.partition(format.end)[0] if format.end else part).strip()
        if not format.is_json:
            try:
                parsed = format.parse(inside, list(tools))
            except Exception as error:  # any: these parsers read what a model made up
                raise NoCallsError(f"a call cannot be read: {error}") from None
            calls += [_call(one, tools) for one in _listed(parsed)]
            continue
        calls += _json_calls(inside, tools) or _python_calls(inside)
    return calls


def _json_calls(text: str, tools: Sequence[Mapping[str, Any]]) -> list[Called] | None:
    """Calls of JSON: a list of objects, or one object after another; None where it is none."""
    decoder, place, values = json.JSONDecoder(), 0, []
    try:
        while place < len(text):
            value, place = decoder.raw_decode(text, place)
            values += _listed(value)
            if between := _BETWEEN.match(text, place):
                place = between.end()
    except (ValueError, RecursionError):
        return None
    return [_call(value, tools) for value in values]


def _call(value: Any, tools: Sequence[Mapping[str, Any]]) -> Called:
    if not isinstance(value, dict):
        raise NoCallsError(f"{_short(value)} is no call")
    if isinstance(value.get("function"), dict):  # as OpenAI's API has it
        value = value["function"]
    known = {tool["function"]["name"] for tool in tools}
    if len(value) == 1 and next(iter(value)) in known:  # {NAME: ARGUMENTS}
        (name, arguments), *_ = value.items()
    else:
        name = next((value[key] for key in _NAMES if key in value), None)
        arguments = next((value[key] for key in _ARGUMENTS if key in value), {})
    if isinstance(arguments, str):  # some models quote them
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise NoCallsError(f"the arguments of {_short(name)} are no JSON") from None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise NoCallsError(f"{_short(value)} is no call")
    return Called(name, arguments)


def _python_calls(text: str) -> list[Called]:
    inside = text if text.startswith("[") else f"[{text}"
    inside = inside if inside.endswith("]") else f"{inside}]"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "\d" and the like, which the model wrote
            tree = ast.parse(inside, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NoCallsError(f"neither JSON nor Python: {_short(text)}") from None
    if not isinstance(tree, ast.List) or not tree.elts:
        raise NoCallsError(f"no call: {_short(text)}")
    return [_python_call(each) for each in tree.elts]


def _python_call(node: ast.expr) -> Called:
    """A call; arguments without a name are not read, as on the leaderboard."""
    if not isinstance(node, ast.Call):
        raise NoCallsError(f"no call: {_short(ast.unparse(node))}")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise NoCallsError("a call with **")
        arguments[keyword.arg] = _python_value(keyword.value)
    parts, name = [], node.func
    while isinstance(name, ast.Attribute):
        parts.append(name.attr)
        name = name.value
    if not isinstance(name, ast.Name):
        raise NoCallsError(f"no call of a name: {_short(ast.unparse(node))}")
    return Called(".".join([name.id, *reversed(parts)]), arguments)


def _python_value(node: ast.expr) -> Any:
    """A value; names and what is computed from them are texts, as on the leaderboard."""
    match node:
        case ast.Constant(value=value):
            return "..." if value is Ellipsis else value
        case ast.List(elts=items):
            return [_python_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_python_value(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            return {
                _python_value(key): _python_value(value)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
        case ast.Name(id=name):
            return name
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_python_value(operand))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _number(_python_value(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return _computed(_python_value(left), op, _python_value(right))
        case ast.Call(keywords=keywords) if keywords:
            inner = _python_call(node)
            return {inner.name: inner.arguments}
        case ast.Call() | ast.Subscript():
            return ast.unparse(node)
    raise NoCallsError(f"no value: {_short(ast.unparse(node))}")


def _computed(left: Any, op: ast.operator, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str) and isinstance(op, ast.Add):
        return left + right
    _number(left)
    if isinstance(op, ast.Pow) and _number(right) > _LARGEST_POWER:
        raise NoCallsError("a power too large to compute")
    try:
        return _SUMS[type(op)](left, _number(right))
    except (KeyError, ArithmeticError):
        raise NoCallsError("a sum that cannot be computed") from None


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise NoCallsError(f"{_short(value)} is no number")
    return value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
