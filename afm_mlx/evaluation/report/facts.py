"""Reading tables of JSON that anyone may have changed: a value of the wrong kind is none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

Facts = Mapping[str, Any]

NOTHING: Facts = MappingProxyType({})


def read_facts(file: Path) -> tuple[Any, str]:
    """What a file of JSON holds, and what is wrong with it: one of the two is empty."""
    try:
        return json.loads(file.read_bytes().decode()), ""
    except (ValueError, RecursionError):
        return None, "is damaged: it is not JSON"
    except OSError as error:
        return None, f"cannot be read: {error.strerror or error}"


def read_lines(file: Path) -> tuple[list[Facts], int]:
    """The tables in a file of JSON lines, and how many lines are damaged."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return [], 0
    found: list[Facts] = []
    damaged = 0
    for line in lines:
        try:
            each = json.loads(line.decode())
        except (ValueError, RecursionError):
            each = None
        if isinstance(each, dict):
            found.append(each)
        else:
            damaged += 1
    return found, damaged


def at(facts: Any, *path: str) -> Any:
    """What stands below a path of keys; None where there is none."""
    for key in path:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def table_at(facts: Any, *path: str) -> Facts:
    """The table below a path; an empty one where there is none."""
    found = at(facts, *path)
    return found if isinstance(found, Mapping) else NOTHING


def number_at(facts: Any, *path: str) -> float | None:
    """The finite number below a path."""
    return as_number(at(facts, *path))


def words_at(facts: Any, *path: str) -> str:
    """The text below a path; "" where there is none."""
    found = at(facts, *path)
    return found if isinstance(found, str) else ""


def as_number(value: Any) -> float | None:
    """A finite number; None for anything else, true and false among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def numbers(facts: Any) -> dict[str, float]:
    """The entries of a table that are numbers."""
    found = {}
    for key, value in facts.items() if isinstance(facts, Mapping) else ():
        number = as_number(value)
        if number is not None:
            found[str(key)] = number
    return found


def flat(facts: Facts, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below a table, with its dotted name."""
    for key, value in facts.items():
        name = f"{before}.{key}" if before else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, name)
        else:
            yield name, value
