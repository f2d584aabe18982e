"""Whether calls are those that BFCL accepts: the verdict of its AST checker.

An accepted call lists for each argument the values that are right; "" among them means that it may
be left out. The rules are the leaderboard's, odd ones included, or scores could not be compared:
texts are equal if they are so without case, spaces and some marks; a whole number will do for a
float, but not within a list that must be there; an argument whose accepted values are of another
type than the declared one is taken for a variable's name, and may be of either type.

Source: bfcl-eval 2026.3.23, eval_checker/ast_eval/ast_checker.py; the code is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afm_mlx.evaluation.tasks.bfcl.foreign import value_of_java, value_of_javascript

LISTS = ("array", "tuple", "Array", "ArrayList")
"""Types of which the items have a type."""

OMITTED = ""
"""Among the accepted values: the argument may be left out."""

_IGNORED = str.maketrans("'", '"', " ,./-_*^")


@dataclass(frozen=True)
class Called:
    """A call that a model wrote."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Language:
    """Whose values the arguments are."""

    name: str
    types: Mapping[str, type]
    """By BFCL's name."""
    value_of: Callable[[str, str, str | None], Any] | None = None
    """Of a text, its declared type and that of its items; None where values are no texts."""


PYTHON = Language(
    "Python",
    {
        "string": str,
        "integer": int,
        "float": float,
        "boolean": bool,
        "array": list,
        "tuple": list,  # an answer of JSON has no tuples
        "dict": dict,
        "any": str,
    },
)
JAVA = Language(
    "Java",
    {
        "byte": int,
        "short": int,
        "integer": int,
        "long": int,
        "float": float,
        "double": float,
        "boolean": bool,
        "char": str,
        "String": str,
        "any": str,
        "Array": list,
        "ArrayList": list,
        "HashMap": dict,
    },
    value_of_java,
)
JAVASCRIPT = Language(
    "JavaScript",
    {
        "String": str,
        "integer": int,
        "float": float,
        "Bigint": int,
        "Boolean": bool,
        "array": list,
        "dict": dict,
        "any": str,
    },
    value_of_javascript,
)


def problem_of_calls(
    calls: Sequence[Called],
    functions: Sequence[Mapping[str, Any]],
    accepted: Sequence[Mapping[str, Mapping[str, Sequence[Any]]]],
    language: Language = PYTHON,
) -> str:
    """Why calls are not right; "" where they are.

    Calls may come in any order. Each accepted one takes the first call that fits it, and what was
    taken is not looked at again.

    Args:
        calls: that a model wrote.
        functions: that it was told of, as BFCL declares them.
        accepted: calls that should come, each `{NAME: {ARGUMENT: [VALUE, ...]}}`.
        language: of the arguments' values.
    """
    if len(calls) != len(accepted):
        return f"{len(calls)} calls where there should be {len(accepted)}"
    left = list(range(len(calls)))
    for wanted in accepted:
        name, arguments = next(iter(wanted.items()))
        function = next(one for one in functions if one["name"] == name)
        problems = []
        for place in left:
            problem = _problem_of_call(calls[place], function, arguments, language)
            if not problem:
                left.remove(place)
                break
            problems.append(problem)
        else:
            return problems[0] if len(problems) == 1 else f"no call fits {name}"
    return ""


def _problem_of_call(
    call: Called,
    function: Mapping[str, Any],
    accepted: Mapping[str, Sequence[Any]],
    language: Language,
) -> str:
    if call.name != function["name"]:
        return f"{call.name} called in place of {function['name']}"
    declared = function["parameters"]["properties"]
    for name in function["parameters"]["required"]:
        if name not in call.arguments:
            return f"no {name}"
    for name, value in call.arguments.items():
        if name not in declared or name not in accepted:
            return f"{name} is not asked for"
        if not _is_accepted(value, declared[name], accepted[name], language):
            return f"{name} is {value!r}"
    for name, values in accepted.items():
        if name not in call.arguments and OMITTED not in values:
            return f"no {name}"
    return ""


def _is_accepted(
    given: Any, declared: Mapping[str, Any], accepted: Sequence[Any], language: Language
) -> bool:
    kind = declared["type"]
    expected = language.types[kind]
    item_kind = declared["items"]["type"] if kind in LISTS else None
    item_type = None if item_kind is None else language.types[item_kind]
    value: Any = given
    if language.value_of is not None:
        if not isinstance(given, str):
            return False
        value = language.value_of(given, kind, item_kind)
    elif kind == "tuple" and isinstance(given, tuple):
        value = list(given)
    elif kind == "float" and type(given) is int:
        value = float(given)
    shown = _shown_type(accepted)
    is_variable = shown is not None and shown is not expected
    given_type = type(value)
    if given_type is not expected:
        if given_type is not shown:
            return False
        is_variable = True
    elif item_type is not None and not _items_fit(value, accepted, item_type):
        return False
    if is_variable:
        return value in accepted
    if expected is dict:
        return _is_accepted_dict(value, accepted)
    if expected is list and item_type is dict:
        return any(_are_dicts(value, option) for option in accepted)
    if expected is str:
        return _plain(value) in [_plain(option) for option in accepted if isinstance(option, str)]
    if expected is list:
        # "" is taken for an empty list here: what may be left out may be empty.
        return [_plain(item) for item in value] in [_plain_items(option) for option in accepted]
    return value in accepted


def _shown_type(accepted: Sequence[Any]) -> type | None:
    """Type of the first accepted value; None where the argument can only be left out."""
    return next((type(value) for value in accepted if value != OMITTED), None)


def _items_fit(value: Sequence[Any], accepted: Sequence[Any], item_type: type) -> bool:
    """Whether the items are of the declared type, or of that of an accepted list's."""
    return any(
        not isinstance(option, list)
        or all(type(item) in (item_type, _shown_type(option)) for item in value)
        for option in accepted
    )


def _are_dicts(value: Sequence[Any], option: Sequence[Any]) -> bool:
    return len(value) == len(option) and all(
        _is_accepted_dict(item, [wanted]) for item, wanted in zip(value, option, strict=True)
    )


def _is_accepted_dict(value: Any, accepted: Sequence[Any]) -> bool:
    return isinstance(value, dict) and any(
        _is_dict(value, option) for option in accepted if isinstance(option, dict)
    )


def _is_dict(value: Mapping[str, Any], option: Mapping[str, Any]) -> bool:
    """Whether each value is an accepted one; dictionaries within are not looked into."""
    return all(
        key in option and _plain(item) in _plain_items(option[key]) for key, item in value.items()
    ) and all(key in value or OMITTED in items for key, items in option.items())


def _plain_items(values: Any) -> list[Any]:
    return [_plain(value) for value in values] if isinstance(values, Sequence) else [values]


def _plain(value: Any) -> Any:
    """A text as it is compared; another value as it is."""
    return value.translate(_IGNORED).lower() if isinstance(value, str) else value
