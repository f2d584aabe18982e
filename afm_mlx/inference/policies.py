"""Policy files: read, with what is wrong said by line, and tried on their own samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from afm_mlx.errors import RecipeError
from afm_mlx.inference.matching import Automaton, Scan
from afm_mlx.inference.patterns import Node, parse_pattern
from afm_mlx.settings.mistakes import line_of, nearest, read_toml
from afm_mlx.settings.policy import DEFAULT, Action, Direction, Policy, Questions, Rules
from afm_mlx.synthetic.kinds.safety import read_taxonomy

MOST_SHOWN = 2  # problems in one message; ours


@dataclass(frozen=True)
class Subject:
    """A pattern and what it speaks for."""

    subcategory: str
    node: Node


@dataclass(frozen=True)
class Trial:
    """What the patterns of a policy do with one of its samples."""

    subcategory: str
    text: str
    is_sample: bool
    """Whether it must be caught; else it must pass."""
    caught_by: tuple[str, ...]
    """Subcategories whose patterns match, in the order of the file."""

    @property
    def as_stated(self) -> bool:
        """Whether a sample is caught by its own subcategory, or the other passes all."""
        return self.subcategory in self.caught_by if self.is_sample else not self.caught_by


class ReadPolicy:
    """A policy with its patterns, ready to be looked for."""

    def __init__(self, policy: Policy, path: Path, subjects: Mapping[Direction, list[Subject]]):
        self.policy = policy
        self.path = path
        """The file; paths in it begin at its folder."""
        self._subjects = subjects
        self._patterns: dict[tuple[Direction, str, Action], Patterns] = {}
        self._automata: dict[tuple[Direction, frozenset[str]], Automaton] = {}

    def patterns(self, direction: Direction, feature: str, action: Action) -> Patterns:
        """The patterns that lead to an action of a feature."""
        known = feature if feature in self.policy.features else DEFAULT  # or names would pile up
        key = (direction, known, action)
        if key not in self._patterns:
            chosen = [
                subject
                for subject in self._subjects[direction]
                if self.policy.action(known, subject.subcategory) is action
            ]
            self._patterns[key] = self._ready(direction, chosen)
        return self._patterns[key]

    def trials(self) -> Iterator[Trial]:
        """Each sample of the file, tried on all patterns, whatever the actions.

        A sample is tried as a prompt; where its subcategory has patterns for answers only, and
        with what must pass, as an answer.
        """
        everything = {
            direction: self._ready(direction, list(self._subjects[direction]))
            for direction in Direction
        }
        for name, rules in self.policy.subcategories.items():
            prompts = bool(rules.patterns(Direction.INPUT))
            directions = [Direction.INPUT if prompts else Direction.OUTPUT]
            for text in rules.samples:
                yield Trial(name, text, True, _caught(everything, directions, text))
            for text in rules.passes:
                yield Trial(name, text, False, _caught(everything, list(Direction), text))

    def _ready(self, direction: Direction, subjects: list[Subject]) -> Patterns:
        names = tuple(subject.subcategory for subject in subjects)
        key = (direction, frozenset(names))
        if key not in self._automata:
            self._automata[key] = Automaton(subject.node for subject in subjects)
        return Patterns(self._automata[key], names)


@dataclass(frozen=True)
class Patterns:
    """Patterns in one automaton, and the subcategory of each."""

    automaton: Automaton
    names: tuple[str, ...]


def default_policy() -> Path:
    """The policy that comes with the toolkit."""
    return Path(str(files("afm_mlx.inference"))) / "policy.toml"


def read_policy(path: Path) -> ReadPolicy:
    """Read a policy file.

    Raises:
        RecipeError: it cannot be read, is not TOML, a name or value in it is not allowed, or a
            pattern cannot be used. The first two problems are named, each with its line.
        DataError: its taxonomy cannot be read.
    """
    try:
        text, settings = read_toml(path, "policy")
    except RecipeError as problem:
        if dotted := re.search(r"'(\w+\.\w+)' is given twice", str(problem)):
            problem.hint = f'beside its category it needs quotes: "{dotted[1]}"'
        raise
    try:
        policy = Policy.model_validate(settings)
    except ValidationError as error:
        raise _joined(_invalid(error), path, text) from None
    known = read_taxonomy(path.parent / policy.taxonomy if policy.taxonomy else None)
    problems = [*_unknown_names(policy, list(known))]
    subjects: dict[Direction, list[Subject]] = {direction: [] for direction in Direction}
    for name, rules in policy.subcategories.items():
        for kind in ("both", *Direction):
            for pattern in getattr(rules, kind):
                try:
                    subject = Subject(name, parse_pattern(pattern))
                except RecipeError as error:
                    keys = ["rules", *name.split("."), str(kind)]
                    said = f"pattern '{pattern}': {error}"
                    problems.append(_Problem(keys, said, error.hint, item=pattern))
                    continue
                for direction in Direction:
                    if kind in ("both", direction):
                        subjects[direction].append(subject)
    if not problems and not any(subjects.values()) and policy.classifier is None:
        # Also what a file looks like for a moment while some editors write it.
        problems.append(_Problem([], "no rule and no classifier: everything would pass"))
    if problems:
        raise _joined(problems, path, text)
    return ReadPolicy(policy, path, subjects)


@dataclass(frozen=True)
class _Problem:
    """Something wrong in a policy."""

    keys: list[str]
    said: str
    hint: str = ""
    item: str = ""
    """An entry of the list at `keys`, whose own line is looked for."""


def _joined(problems: list[_Problem], path: Path, text: str) -> RecipeError:
    """Problems as one error: the first two spelled out, each with file and line."""
    lines = []
    for problem in problems[:MOST_SHOWN]:
        line = _line(text, problem)
        lines.append(f"{path}{f', line {line}' if line else ''}: {problem.said}")
    if len(problems) > len(lines):
        lines[-1] += f" (and {len(problems) - len(lines)} more)"
    return RecipeError("\n".join(lines), hint=next((one.hint for one in problems if one.hint), ""))


def _line(text: str, problem: _Problem) -> int:
    """Line, from 1, of a problem: of its entry in a list, its key, or its table; 0 for neither."""
    line = line_of(text, problem.keys)
    if problem.item:
        spellings = (f"'{problem.item}'", json.dumps(problem.item, ensure_ascii=False))
        for number, written in enumerate(text.splitlines(), start=1):
            if number >= line and any(spelled in written for spelled in spellings):
                return number
    return line


def _invalid(error: ValidationError) -> list[_Problem]:
    """What pydantic found, in our words."""
    problems = []
    for found in error.errors():
        keys = [part for each in found["loc"] for part in str(each).split(".") if part != "[key]"]
        name, value = ".".join(keys), found["input"]
        shown = f"'{value}'" if isinstance(value, str) else type(value).__name__
        item = value if isinstance(found["loc"][-1], int) and isinstance(value, str) else ""
        if found["type"] == "extra_forbidden":
            fields = _siblings(keys)
            near = nearest(keys[-1], fields)
            hint = f"did you mean '{near}'?" if near else f"there are {', '.join(fields)}"
            problems.append(_Problem(keys, f"no setting is called '{name}'", hint))
        elif found["type"] == "missing":
            problems.append(_Problem(keys, f"'{name}' is missing"))
        elif found["type"] == "value_error":
            problems.append(_Problem(keys, f"{name}: {found['ctx']['error']}"))
        elif found["type"] == "enum":
            options = found["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            near = nearest(str(value), options.split(", "))
            hint = f"did you mean '{near}'?" if near else ""
            problems.append(_Problem(keys, f"{name} is {shown}: expected one of {options}", hint))
        else:
            said = found["msg"][0].lower() + found["msg"][1:]
            problems.append(_Problem(keys, f"{name} is {shown}: {said}", item=item))
    return problems


def _siblings(keys: list[str]) -> list[str]:
    """Settings beside an unknown one."""
    if keys[0] == "classifier" and len(keys) > 1:
        return list(Questions.model_fields)
    if keys[0] == "rules" and len(keys) > 1:
        return list(Rules.model_fields)
    return list(Policy.model_fields)


def _unknown_names(policy: Policy, known: list[str]) -> Iterator[_Problem]:
    """Categories and subcategories that the taxonomy does not have."""
    categories = list(dict.fromkeys(name.partition(".")[0] for name in known))
    tables: list[tuple[list[str], Mapping[str, Any]]] = [
        (["messages"], policy.messages),
        *((["features", feature], table) for feature, table in policy.features.items()),
    ]
    if policy.classifier:
        tables.append((["classifier", "thresholds"], policy.classifier.thresholds))
        tables.append((["classifier", "questions"], policy.classifier.questions))
    for keys, table in tables:
        for name in table:
            allowed = [*known, *categories]
            if name not in allowed and (name != DEFAULT or keys[-1] == "questions"):
                yield _unknown(keys, name, allowed)
    for name in policy.subcategories:
        if name not in known:
            yield _unknown(["rules"], name, known)


def _unknown(keys: list[str], name: str, known: list[str]) -> _Problem:
    inside = [one for one in known if one.startswith(name.partition(".")[0] + ".")]
    near = nearest(name, known)
    hint = f"did you mean '{near}'?" if near else ""
    if not near and "." in name and inside:
        hint = f"there are {', '.join(inside)}"
    kind = "subcategory" if "." in name else "category"
    return _Problem([*keys, *name.split(".")], f"no {kind} is called '{name}'", hint)


def _caught(
    everything: Mapping[Direction, Patterns], directions: list[Direction], text: str
) -> tuple[str, ...]:
    """Subcategories with a pattern that matches a text, in the order of the file."""
    found = set()
    for direction in directions:
        patterns = everything[direction]
        scan = Scan(patterns.automaton)
        for match in (*scan.read(text), *scan.end()):
            found.add(patterns.names[match.pattern])
    order = dict.fromkeys(name for one in directions for name in everything[one].names)
    return tuple(name for name in order if name in found)
