"""Is an answer right? What a record's `check` asks for, verified by a program.

    {"kind": "number", "answer": "42"}          the last "#### N", else the last number
    {"kind": "tool_calls", "calls": [...]}      these calls in any order; none where it is empty
    {"kind": "tests", "code": "assert ..."}     Python, run after the answer's code in the sandbox
    {"kind": "constraints", "list": [...]}      see constraints.py
    {"kind": "exact", "answer": "..."}          this text, but for space at ends and between words
    {"kind": "contains", "texts": [...]}        all of these, whole and whatever their case

A call is `{"name": ..., "arguments": {...}}`; with `"optional": {"unit": ["metric"]}` an argument
may be left out or have one of these values.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from afm_mlx.errors import DataError
from afm_mlx.settings.synthetic import Sandbox
from afm_mlx.synthetic.constraints import holds
from afm_mlx.synthetic.sandbox import run_tests

_NUMBER = r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?"
# A minus sign belongs to a number only where no digit, letter or bracket stands before it.
_ANY_NUMBER = re.compile(rf"(?<![\w.)])(?:{_NUMBER})|{_NUMBER.removeprefix('-?')}")
_MARKED = re.compile(rf"####\s*[^\d\s.-]?({_NUMBER})")
_FENCED = re.compile(r"```(?:python|py|Python)?[ \t]*\n(.*?)```", re.DOTALL)
_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)

Call = Mapping[str, Any]


def passes(
    check: Mapping[str, Any],
    answer: str,
    tool_calls: Sequence[Call] = (),
    *,
    limits: Sandbox = Sandbox(),  # noqa: B008  frozen
) -> bool:
    """Whether an answer is right in all parts.

    Args:
        check: of a record.
        answer: what the assistant said.
        tool_calls: what it called, as `{"name": ..., "arguments": {...}}`; where there are none,
            calls written in `answer` count.
        limits: of code that runs.

    Raises:
        DataError: the check cannot be read.
    """
    return score(check, answer, tool_calls, limits=limits) == 1.0


def score(
    check: Mapping[str, Any],
    answer: str,
    tool_calls: Sequence[Call] = (),
    *,
    limits: Sandbox = Sandbox(),  # noqa: B008  frozen
) -> float:
    """How much of an answer is right, 0 to 1: the share of tests, constraints, calls or texts.

    Arguments and errors as for `passes`.
    """
    kind = check.get("kind")
    try:
        if kind == "number":
            wanted = as_number(str(check["answer"]))
            if wanted is None:
                raise DataError(f"check 'number' has the answer '{check['answer']}'")
            return float(final_number(answer) == wanted)
        if kind == "tool_calls":
            return _calls_score(check["calls"], list(tool_calls) or written_calls(answer))
        if kind == "tests":
            return _tests_score(check["code"], answer, limits)
        if kind == "constraints":
            kept = [holds(constraint, answer) for constraint in check["list"]]
            return sum(kept) / len(kept) if kept else float(bool(answer.strip()))
        if kind == "exact":
            return float(answer.split() == str(check["answer"]).split())
        if kind == "contains":
            found = [_contains(answer, text) for text in check["texts"]]
            return sum(found) / len(found) if found else 1.0
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"check '{kind}' cannot be read: {type(error).__name__} {error}") from None
    raise DataError(
        f"no check is of kind '{kind}'",
        hint="one of number, tool_calls, tests, constraints, exact, contains",
    )


def final_number(text: str) -> Fraction | None:
    """The number that an answer ends with: after its last `####`, else the last one of all.

    Source: GSM8K's extraction, which looks for `#### N`; the rest is usual.

    >>> final_number("3 + 4 = 7 apples. #### 7"), final_number("It costs $1,250.50.")
    (Fraction(7, 1), Fraction(2501, 2))
    """
    marked = _MARKED.findall(text)
    if marked:
        return as_number(marked[-1])
    found = _ANY_NUMBER.findall(text)
    return as_number(found[-1]) if found else None


def as_number(text: str) -> Fraction | None:
    """The exact value of a decimal number or a fraction; None for other text."""
    try:
        return Fraction(text.replace(",", "").strip().lstrip("$"))
    except (ValueError, ZeroDivisionError):
        return None


def written_calls(text: str) -> list[Call]:
    """Tool calls in a text: between `<tool_call>` tags, or the whole text as JSON.

    What cannot be read is a call without a name, which is never right.
    """
    tagged = _TOOL_CALL.findall(text)
    if tagged:
        return [call for part in tagged for call in _calls_of(part) or [{"name": ""}]]
    stripped = text.strip()
    fenced = re.fullmatch(r"```(?:json)?\n(.*)\n```", stripped, re.DOTALL)
    return _calls_of(fenced[1] if fenced else stripped)


def code_of(answer: str) -> str:
    """The program in an answer: its last fenced block of Python, else the whole text."""
    blocks: list[str] = _FENCED.findall(answer)
    return blocks[-1] if blocks else answer


def same_value(wanted: Any, given: Any) -> bool:
    """Whether two JSON values say the same: 1 is 1.0 but not true, and keys have no order."""
    if isinstance(wanted, bool) or isinstance(given, bool):
        return wanted is given
    if isinstance(wanted, int | float) and isinstance(given, int | float):
        return wanted == given
    if isinstance(wanted, str) and isinstance(given, str):
        return wanted.strip() == given.strip()
    if isinstance(wanted, list) and isinstance(given, list):
        return len(wanted) == len(given) and all(map(same_value, wanted, given))
    if isinstance(wanted, dict) and isinstance(given, dict):
        return wanted.keys() == given.keys() and all(
            same_value(value, given[key]) for key, value in wanted.items()
        )
    return wanted is None and given is None


def _calls_of(text: str) -> list[Call]:
    """Calls that a JSON text states, one or a list of them; none where it is no such text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, dict) and "name" in item for item in items):
        return []
    return items


def _calls_score(wanted: Sequence[Call], given: Sequence[Call]) -> float:
    """Share of calls that match one to one, of those wanted or given, whichever are more."""
    if not wanted:
        return float(not given)
    partner: dict[int, int] = {}  # number of a given call, and of the wanted one it stands for
    found = sum(
        _find_partner(number, wanted, given, partner, set()) for number in range(len(wanted))
    )
    return found / max(len(wanted), len(given))


def _find_partner(
    number: int,
    wanted: Sequence[Call],
    given: Sequence[Call],
    partner: dict[int, int],
    tried: set[int],
) -> bool:
    """Give a wanted call a given one, moving others to their next where that makes room."""
    for place, call in enumerate(given):
        if place in tried or not _same_call(wanted[number], call):
            continue
        tried.add(place)
        if place not in partner or _find_partner(partner[place], wanted, given, partner, tried):
            partner[place] = number
            return True
    return False


def _same_call(wanted: Call, given: Call) -> bool:
    arguments = given.get("arguments", {})
    if isinstance(arguments, str):  # OpenAI's form
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            return False
    if wanted["name"] != given.get("name") or not isinstance(arguments, dict):
        return False
    required, optional = wanted.get("arguments", {}), wanted.get("optional", {})
    if not required.keys() <= arguments.keys() <= required.keys() | optional.keys():
        return False
    return all(
        same_value(required[key], value)
        if key in required
        else any(same_value(choice, value) for choice in optional[key])
        for key, value in arguments.items()
    )


def _tests_score(tests: str, answer: str, limits: Sandbox) -> float:
    try:
        tree = ast.parse(tests)
    except SyntaxError as error:
        raise DataError(f"check 'tests' is no Python: {error.msg}, line {error.lineno}") from None
    pieces: list[tuple[str, bool]] = []  # code, and whether it is a test
    for node in tree.body:
        text = ast.unparse(node)
        pieces.append((text, isinstance(node, ast.Assert)))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            pieces.append((f"{node.name}()", True))
    total = sum(is_test for _, is_test in pieces)
    if not total:
        raise DataError("check 'tests' has no assert and no function test...")
    return run_tests(code_of(answer), pieces, limits).passed / total


def _contains(text: str, wanted: str) -> bool:
    pattern = r"\s+".join(map(re.escape, wanted.split()))
    return re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE) is not None
