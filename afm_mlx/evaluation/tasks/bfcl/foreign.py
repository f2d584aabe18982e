"""Texts of Java and JavaScript as values, as far as BFCL's items have them.

Arguments of such functions are written as texts of their language, as `5L` or `new int[]{1, 2}`.
A text that is not of the declared type stays a text, and is not accepted then.

Source: bfcl-eval 2026.3.23, eval_checker/ast_eval/type_convertor, whose verdicts these are, odd
ones included; the code is ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

_NUMBER = r"-?\d+(\.\d+)?([eE][+-]?\d+)?"
_WHOLE = re.compile(r"-?\d+$")

Reader = tuple[re.Pattern[str], Callable[[str], Any]]
"""What a text must be, and what it stands for."""

_JAVA: dict[str, Reader] = {
    "byte": (_WHOLE, int),
    "short": (_WHOLE, int),
    "integer": (_WHOLE, int),
    "long": (re.compile(r"-?\d+[lL]$"), lambda text: int(text.rstrip("\nlL"))),
    "float": (re.compile(_NUMBER + "[fF]$"), lambda text: float(text.rstrip("\nfF"))),
    "double": (re.compile(_NUMBER + "$"), float),
    "boolean": (re.compile(r"(true|false)\Z"), lambda text: text == "true"),
}
_JAVASCRIPT: dict[str, Reader] = {
    "integer": (_WHOLE, int),
    "float": (re.compile(r"-?\d+(\.\d+)?$"), float),
    "Bigint": (re.compile(r"-?\d+n$"), lambda text: int(text.rstrip("\nn"))),
    "Boolean": (re.compile(r"(true|false)\Z"), lambda text: text == "true"),
}

_JAVA_ARRAY = re.compile(r"new\s+\w+\[\]\s*\{(.*?)\}")
_JAVA_LIST_OF = re.compile(r"new\s+ArrayList<\w*>\(Arrays\.asList\((.+?)\)\)")
_JAVA_LIST_ADDED = re.compile(r"new\s+ArrayList<\w*>\(\)\s*\{\{\s*(.+?)\s*\}\}", re.DOTALL)
_JAVA_LIST_EMPTY = re.compile(r"new\s+ArrayList<\w*>\(\)")
_JAVA_ADD = re.compile(r"add\((.+?)\)")
_JAVA_MAP = re.compile(
    r"new\s+HashMap<.*?>\s*\(\)\s*\{\s*\{?\s*(.*?)\s*\}?\s*\}", re.DOTALL
)  # fmt: skip
_JAVA_MAP_EMPTY = re.compile(r"new\s+HashMap<.*?>\s*\(\)")
_JAVA_PUT = re.compile(r'put\("(.*?)",\s*(.*?)\)')

_SCRIPT_ROWS = re.compile(
    r"\[\s*\[.*?\]\s*(,\s*\[.*?\]\s*)*\]|\bnew\s+Array\(\s*\[.*?\]\s*(,\s*\[.*?\]\s*)*\)"
)
_SCRIPT_ROW = re.compile(r"\[(.*?)\]")
_SCRIPT_ARRAY = re.compile(r"\[(.*?)\]|\bnew\s+Array\((.*?)\)")
_SCRIPT_DICT = re.compile(r"\{(.*?)\}")
_SCRIPT_PAIR = re.compile(r"([^:]+):\s*(.*?)(?:,\s*(?=[^,]+:)|$)")


def value_of_java(text: str, kind: str, item_kind: str | None = None) -> Any:
    """The value of a text of Java.

    Args:
        text: as `new ArrayList<>(Arrays.asList("a", "b"))`.
        kind: declared type of the argument.
        item_kind: declared type of its items; None where it has none.
    """
    if kind == "Array":
        return _java_array(text, item_kind)
    if kind == "ArrayList":
        return _java_list(text, item_kind)
    if kind == "HashMap":
        return _java_map(text)
    return _read(text, _JAVA.get(kind))


def value_of_javascript(text: str, kind: str, item_kind: str | None = None) -> Any:
    """The value of a text of JavaScript; arguments as of `value_of_java`."""
    if kind == "array":
        return _script_array(text.strip(), item_kind)
    if kind == "dict":
        return _script_dict(text.strip())
    if kind == "String":
        return text[1:-1] if _is_quoted(text) else text
    return _read(text, _JAVASCRIPT.get(kind))


def _read(text: str, reader: Reader | None) -> Any:
    if reader is None or not reader[0].match(text):
        return text
    return reader[1](text)


def _java_array(text: str, item_kind: str | None) -> Any:
    if not (found := _JAVA_ARRAY.search(text)):
        return text
    items = (item.strip() for item in found[1].split(","))
    return [_java_item(item, item_kind) for item in items if item]


def _java_list(text: str, item_kind: str | None) -> Any:
    if found := _JAVA_LIST_OF.search(text):
        items: Sequence[str] = found[1].split(",")
    elif found := _JAVA_LIST_ADDED.search(text):
        items = _JAVA_ADD.findall(found[1])
    else:
        return [] if _JAVA_LIST_EMPTY.search(text) else text
    # In lists, other than in arrays, quotes are taken away.
    quoted = item_kind in ("String", "char")
    return [item.strip()[1:-1] if quoted else _java_item(item.strip(), item_kind) for item in items]


def _java_map(text: str) -> Any:
    if found := _JAVA_MAP.search(text):
        return {key: _guessed(value.strip()) for key, value in _JAVA_PUT.findall(found[1])}
    return {} if _JAVA_MAP_EMPTY.search(text) else text


def _java_item(text: str, kind: str | None) -> Any:
    return value_of_java(text, kind) if kind else _guessed(text)


def _guessed(text: str) -> Any:
    """The value of a text of Java whose type is not declared."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    for kind in ("boolean", "long", "float"):
        if (value := value_of_java(text, kind)) != text:
            return value
    return _number(text)


def _script_array(text: str, item_kind: str | None) -> Any:
    if found := _SCRIPT_ROWS.match(text):
        rows = [row.strip() for row in _SCRIPT_ROW.findall(found[0])]
        rows[0] = rows[0].removeprefix("[")
        return [[_script_guessed(item) for item in row.split(",")] for row in rows]
    if not (found := _SCRIPT_ARRAY.match(text)):
        return text
    inside = (found[1] or found[2] or "").strip()
    items = [item.strip() for item in inside.split(",")] if inside else []
    if item_kind is None:
        return [_script_guessed(item) for item in items]
    return [value_of_javascript(item, item_kind) for item in items]


def _script_dict(text: str) -> Any:
    if text == "{}":
        return {}
    if not (found := _SCRIPT_DICT.match(text)):
        return text
    pairs = {}
    for key, value in _SCRIPT_PAIR.findall(found[1]):
        inside = value.strip()
        if inside.startswith("[") and inside.endswith("]"):
            read = _script_array(inside, None)
        elif inside.startswith("{") and inside.endswith("}"):
            read = _script_dict(inside)
        else:
            read = _script_guessed(inside.strip("'\""))
        pairs[key.strip().strip("'\"")] = read
    return pairs


def _script_guessed(text: str) -> Any:
    """The value of a text of JavaScript whose type is not declared."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if _is_quoted(text) else _number(text)


def _is_quoted(text: str) -> bool:
    return text[:1] == text[-1:] and text[:1] in ("'", '"') and text != ""


def _number(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
