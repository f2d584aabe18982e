"""Our words for what can be wrong with a recipe: where, which setting, its value, what instead.

pydantic finds the mistakes, `tomllib` the broken files; neither knows the line of a key, so it is
searched for in the text.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from afm_mlx.errors import RecipeError

MOST_SHOWN = 2  # problems in one message; ours
LONGEST_VALUE = 40  # characters of a wrong value that are shown; ours


@dataclass(frozen=True)
class Origin:
    """Where settings came from, to say it in an error."""

    path: Path | None
    """The recipe file; None: a command made the settings."""
    text: str
    """Its text."""
    assigned: tuple[str, ...] = ()
    """Dotted names that were set on the command line."""

    def of(self, keys: list[str]) -> str:
        """`--set`, or `file, line N`: the key's line, else its section's, else the file alone.

        Empty for what a command set itself.
        """
        name = ".".join(keys)
        if any(name == given or name.startswith(given + ".") for given in self.assigned):
            return "--set"
        if line := line_of(self.text, keys):
            return f"{self.path}, line {line}"
        if keys and self.made_inside(keys):
            return "--set"
        return str(self.path) if self.path else ""

    def made_inside(self, keys: list[str]) -> bool:
        """Whether something below this name was set on the command line."""
        return any(given.startswith(".".join(keys) + ".") for given in self.assigned)


def invalid_settings(error: ValidationError, model: type[BaseModel], origin: Origin) -> RecipeError:
    """What pydantic found, as one error: unknown keys first, at most two problems spelled out."""
    found = error.errors()
    unknown = [_keys(item) for item in found if item["type"] == "extra_forbidden"]
    meant = {_nearest_setting(keys, model) for keys in unknown}
    problems = []
    for item in found:
        keys = _keys(item)
        # A mistyped key is also missing under its right name: saying it once is enough.
        if item["type"] == "missing" and ".".join(keys) in meant:
            continue
        problem, hint = _explain(item, keys, model, origin)
        problems.append((item["type"] != "extra_forbidden", problem, hint))
    problems.sort(key=lambda problem: problem[0])
    # Where there are unknown keys, what else is wrong may follow from them.
    shown = [problem for problem in problems if not problem[0]] or problems
    lines = [problem for _, problem, _ in shown[:MOST_SHOWN]]
    if len(problems) > len(lines):
        lines[-1] += f" (and {len(problems) - len(lines)} more)"
    return RecipeError("\n".join(lines), hint=next((hint for *_, hint in problems if hint), ""))


def read_toml(path: Path, what: str) -> tuple[str, dict[str, Any]]:
    """Text and settings of a file, which is a `what`, such as "recipe".

    Raises:
        RecipeError: it cannot be read, or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {what} {path}: {reason(error)}") from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(error, path, text) from None


def _not_toml(error: tomllib.TOMLDecodeError, path: Path, text: str) -> RecipeError:
    """Where and why a file is not TOML; a setting or section given twice is named."""
    problem, _, place = str(error).partition(" (at ")
    position = re.search(r"line (\d+), column (\d+)", place)
    lines = text.splitlines()
    number = int(position[1]) if position else max(len(lines), 1)
    where = f"{path}, line {number}"
    line = lines[number - 1].split("#")[0].strip() if lines else ""
    head = re.match(r"\[\s*([^\[\]]+?)\s*\]$", line)
    if "twice" in problem and head:
        return RecipeError(f"{where}: section [{head[1]}] is given twice", hint="join the two")
    if "overwrite" in problem:
        key = head[1] if head else line.partition("=")[0].strip()
        return RecipeError(f"{where}: '{key}' is given twice", hint="delete one of the two")
    where += f", column {position[2]}" if position else ", at the end of the file"
    return RecipeError(f"{where}: not TOML: {problem[0].lower()}{problem[1:]}")


def line_of(text: str, keys: list[str]) -> int:
    """Line, from 1, where the setting stands, else its nearest enclosing section; 0 for neither."""
    table: list[str] = []
    best, line_number = 0, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if head := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = _split(head[1])
            found = table
        elif key := re.match(r"\s*([A-Za-z0-9_.\"' -]+?)\s*=", line):
            found = table + _split(key[1])
        else:
            continue
        if found == keys[: len(found)] and len(found) > best:
            best, line_number = len(found), number
    return line_number


def reason(error: OSError | UnicodeDecodeError) -> str:
    """What went wrong with a file, in words: `no such file or directory`."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start:,})"
    return (error.strerror or str(error)).lower()


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The closest of `words`, if any is close."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


def all_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings; a table of named parts shows as `data.NAME.path`."""
    for name, field in model.model_fields.items():
        yield prefix + name
        section, named = _section_of(field)
        if section:
            yield from all_names(section, f"{prefix}{name}." + ("NAME." if named else ""))


def expected(field: FieldInfo) -> str:
    """What a setting takes, in words: `a whole number above 0`."""
    kind = field.annotation
    limits = [*field.metadata]
    options = [part for part in get_args(kind) if part is not NoneType]
    if NoneType in get_args(kind) and len(options) == 1:
        kind = options[0]
    if get_origin(kind) is Annotated:
        kind, *details = get_args(kind)
        for detail in details:
            limits += detail.metadata if isinstance(detail, FieldInfo) else [detail]
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _range(limits)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "one of " + ", ".join(kind)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "a table of settings"
    if kind is str and any(getattr(limit, "pattern", None) for limit in limits):
        return "lower-case letters, digits, dots, dashes or underscores"
    names: dict[Any, str] = {bool: "true or false", str: "text", dict: "a table", tuple: "a list"}
    return names.get(get_origin(kind) or kind, "another value")


def _explain(item: Any, keys: list[str], model: type[BaseModel], origin: Origin) -> tuple[str, str]:
    """One problem in words, and a hint."""
    name = ".".join(keys)
    where = f"{place}: " if (place := origin.of(keys)) else ""
    field, inside = _field(keys, model)
    if item["type"] == "extra_forbidden":
        near = _nearest_setting(keys, model)
        siblings = ", ".join(_siblings(keys, model))
        hint = f"did you mean '{near}'?" if near else f"the settings here are {siblings}"
        return f"{where}no setting is called '{name}'", hint
    if item["type"] == "missing":
        what = f": {_first_sentence(field.description)}" if field and field.description else ""
        return f"{where}'{name}' is missing", f"add '{name}'{what}"
    if item["type"] == "value_error":  # raised by one of our own checks
        problem = str(item["ctx"]["error"])
        involved = [keys + word.split(".") for word in re.findall(r"[a-z_][\w.]*\w", problem)]
        places = [path for path in involved if _field(path, model)[0]]
        made = any(origin.made_inside(path) or origin.of(path) == "--set" for path in places)
        place = "--set" if made else origin.of((places or [keys])[0])
        parts = [part for part in (place, name, problem) if part]
        return ": ".join(parts), ""
    # A mistake inside a list or a table of numbers is named by the setting that holds it.
    wanted = _item_expected(field) if field and inside else expected(field) if field else ""
    hint = ""
    if wanted.startswith("one of ") and isinstance(item["input"], str):
        near = nearest(item["input"], wanted.removeprefix("one of ").split(", "))
        hint = f"did you mean '{near}'?" if near else ""
    elif field and field.description:
        hint = f"'{name}' is: {_first_sentence(field.description)}"
    return f"{where}{name} is {_shown(item['input'])}: expected {wanted}", hint


def _keys(item: Any) -> list[str]:
    """Names of the setting that pydantic speaks of; its marker for a table's key is dropped."""
    return [str(part) for part in item["loc"] if part != "[key]"]


def _field(keys: list[str], model: type[BaseModel]) -> tuple[FieldInfo | None, bool]:
    """The field at `keys`, and whether `keys` go on inside it (an item of a list or table)."""
    field: FieldInfo | None = None
    section: type[BaseModel] | None = model
    path = list(keys)
    while path and section:
        field = section.model_fields.get(path.pop(0))
        if field is None:
            return None, False
        section, named = _section_of(field)
        if named and path:
            path.pop(0)  # the name that the user gave to this part
    return field, bool(path)


def _section_of(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, and whether it holds several by name."""
    parts = (field.annotation, *get_args(field.annotation))
    for part in parts:
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part, get_origin(field.annotation) is dict
    return None, False


def _item_expected(field: FieldInfo) -> str:
    """What one item of a list or table takes."""
    arguments = get_args(field.annotation)
    item = arguments[1] if get_origin(field.annotation) is dict else arguments[0]
    return expected(FieldInfo.from_annotation(item))


def _siblings(keys: list[str], model: type[BaseModel]) -> list[str]:
    """Names of the settings beside an unknown one."""
    field, _ = _field(keys[:-1], model)
    section = _section_of(field)[0] if field else model
    return list(section.model_fields) if section else []


def _nearest_setting(keys: list[str], model: type[BaseModel]) -> str | None:
    """The closest real setting: in the same section, or else of such a name elsewhere."""
    *section, key = keys
    if near := nearest(key, _siblings(keys, model)):
        return ".".join([*section, near])
    elsewhere = {name.rpartition(".")[2]: name for name in all_names(model) if "NAME" not in name}
    near = nearest(key, elsewhere)
    return elsewhere[near] if near else None


def _range(limits: list[Any]) -> str:
    """Bounds of a number in words, with a space in front; empty when there are none."""
    bounds = {
        name: f"{getattr(limit, name):,}"
        for limit in limits
        for name in ("gt", "ge", "lt", "le")
        if getattr(limit, name, None) is not None
    }
    below = f"below {bounds['lt']}" if "lt" in bounds else ""
    if "ge" in bounds:
        high = bounds.get("le", below)
        return f" from {bounds['ge']} to {high}" if high else f" of {bounds['ge']} or more"
    high = f"at most {bounds['le']}" if "le" in bounds else below
    return "".join(
        f" {bound}"
        for bound in (
            f"above {bounds['gt']}" if "gt" in bounds else "",
            "and" if "gt" in bounds and high else "",
            high,
        )
        if bound
    )


def _shown(value: Any) -> str:
    """A wrong value, in TOML's words and cut when long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _first_sentence(text: str) -> str:
    """The first sentence of a description, without its period."""
    return re.split(r"(?<=\w)[.;](?:\s|$)", " ".join(text.split()))[0]


def _split(dotted: str) -> list[str]:
    """Parts of a TOML key: `data."my.web".path` has three."""
    parts = re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", dotted)
    return [part.strip("\"'") for part in parts]
