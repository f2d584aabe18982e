"""A recipe: one model, from documents to finished weights, as typed settings.

A recipe is a TOML file. `load_recipe` reads it, applies `section.name=value` assignments, and
explains each mistake: file, line, key, value, what was expected, and the nearest key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from afm_mlx.errors import RecipeError
from afm_mlx.sections import (
    Optimizer,
    Pretraining,
    Section,
    Shape,
    Source,
    Tokenizer,
    Training,
    Watch,
)

PRETRAINING_STAGES = ("core", "continued", "context")


class Recipe(Section):
    """Everything that decides one model."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of the recipe, and of its folder of runs."""
    about: str = ""
    """One line for `afm models`."""
    shape: Shape
    """The network."""
    tokenizer: Tokenizer = Tokenizer()
    """The tokenizer."""
    data: dict[str, Source]
    """Sources of documents, by name."""
    optimizer: Optimizer = Optimizer()
    """The update rule."""
    training: Training = Training()
    """What every training stage shares."""
    watch: Watch = Watch()
    """Logs, validations, snapshots."""
    core: Pretraining
    """Stage 1: most tokens, mostly web."""
    continued: Pretraining | None = None
    """Stage 2: longer rows, more code and mathematics."""
    context: Pretraining | None = None
    """Stage 3: context lengthening."""

    def pretraining(self, stage: str) -> Pretraining:
        """Section of one pre-training stage; it must be in the recipe."""
        section: Pretraining | None = getattr(self, stage)
        if section is None:
            raise RecipeError(f"recipe '{self.name}' has no [{stage}]")
        return section

    def pretraining_stages(self) -> list[str]:
        """Names of the pre-training stages that this recipe has, in order."""
        return [name for name in PRETRAINING_STAGES if getattr(self, name) is not None]

    def shape_of(self, stage: str) -> Shape:
        """Shape of the model that a pre-training stage leaves: its RoPE base and its context."""
        shape = self.shape
        for name in self.pretraining_stages():
            section = self.pretraining(name)
            base = section.rope_base or shape.rope_base
            shape = shape.model_copy(update={"rope_base": base, "max_tokens": section.row_tokens})
            if name == stage:
                break
        return shape

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for stage in self.pretraining_stages():
            section = self.pretraining(stage)
            for name in section.mixture:
                if name not in self.data:
                    near = nearest(name, self.data)
                    raise ValueError(
                        f"{stage}.mixture names '{name}', and there is no [data.{name}]"
                        + (f"; did you mean '{near}'?" if near else "")
                    )
            if section.row_tokens > self.shape.max_tokens:
                raise ValueError(
                    f"{stage}.row_tokens ({section.row_tokens:,}) is above "
                    f"shape.max_tokens ({self.shape.max_tokens:,})"
                )
            micro_rows = self.training.micro_rows
            if micro_rows is not None and section.rows_per_step % micro_rows:
                raise ValueError(
                    f"{stage}.rows_per_step ({section.rows_per_step}) must be a multiple of "
                    f"training.micro_rows ({micro_rows})"
                )
        return self


def load_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe, then apply each `section.name=value`, left to right.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown, a value is not allowed, or
            two settings contradict each other; every such key is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {reason(error)}") from None
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {str(error).lower()}") from None
    settings.setdefault("name", path.stem)
    for assignment in assignments:
        _assign(settings, assignment)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        assigned = {assignment.partition("=")[0].strip() for assignment in assignments}
        raise _as_recipe_error(error, path, text, assigned) from None


def reason(error: OSError | UnicodeDecodeError) -> str:
    """What went wrong with a file, in words: `no such file or directory`."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start:,})"
    return (error.strerror or str(error)).lower()


def nearest(word: str, words: Any) -> str | None:
    """The closest of `words`, if any is close."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


def all_names(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings; a table of named parts shows as `data.NAME.path`."""
    for name, field in model.model_fields.items():
        yield prefix + name
        parts = (field.annotation, *get_args(field.annotation))
        named = any(getattr(part, "__origin__", part) is dict for part in parts)
        for part in parts:
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from all_names(part, f"{prefix}{name}." + ("NAME." if named else ""))


def _assign(settings: dict[str, Any], assignment: str) -> None:
    """Put `section.name=value` into `settings`. The value is TOML; a bare word is text."""
    name, equals, value = (part.strip() for part in assignment.partition("="))
    if not equals or not name:
        raise RecipeError(f"'{assignment}' is not NAME=VALUE", hint="try --set core.lr=0.02")
    *sections, key = name.split(".")
    table = settings
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"'{name}' goes through '{section}', which holds no settings")
    try:
        table[key] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[key] = value


def _as_recipe_error(
    error: ValidationError, path: Path, text: str, assigned: set[str]
) -> RecipeError:
    """Our words for what pydantic found."""
    lines, hint = [], ""
    for found in error.errors():
        keys = [str(part) for part in found["loc"]]
        name = ".".join(keys)
        where = "--set" if name in assigned else _place(path, text, keys)
        if found["type"] == "extra_forbidden":
            lines.append(f"{where}: no setting is called '{name}'")
            near = _nearest_setting(keys)
            hint = f"did you mean '{near}'?" if near else hint
        elif found["type"] == "missing":
            lines.append(f"{where}: '{name}' is missing")
        elif found["type"] == "value_error":  # raised by one of our own checks
            lines.append(f"{where}: {f'{name}: ' if name else ''}{found['ctx']['error']}")
        else:
            expected = found["msg"].removeprefix("Input ").lower()
            lines.append(f"{where}: {name} is {found['input']!r}: {expected}")
    return RecipeError("\n".join(lines), hint=hint)


def _nearest_setting(keys: list[str]) -> str | None:
    """The closest real setting, with the names of the user's own tables put back."""
    shown = list(keys)
    if len(keys) > 2 and keys[0] == "data":
        keys = ["data", "NAME", *keys[2:]]
    near = nearest(".".join(keys), all_names())
    return near.replace("NAME", shown[1]) if near and "NAME" in near else near


def _place(path: Path, text: str, keys: list[str]) -> str:
    """`file, line N` where the key stands (or its section, or the file): tomllib keeps no lines."""
    table: list[str] = []
    best, line_number = 0, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if head := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = [part.strip().strip("\"'") for part in head[1].split(".")]
            found = table
        elif key := re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line):
            found = table + [part.strip("\"'") for part in key[1].split(".")]
        else:
            continue
        if found == keys[: len(found)] and len(found) > best:
            best, line_number = len(found), number
    return f"{path}, line {line_number}" if line_number else str(path)
