"""A recipe: one model, from documents to finished weights, as typed settings.

A recipe is a TOML file. `load_recipe` reads it, applies `section.name=value` assignments, and
explains each mistake: file, line, key, value, what was expected, and the nearest key.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from afm_mlx.errors import RecipeError
from afm_mlx.settings.mistakes import Origin, invalid_settings, read_toml
from afm_mlx.settings.mistakes import all_names as all_names
from afm_mlx.settings.mistakes import nearest as nearest
from afm_mlx.settings.mistakes import reason as reason
from afm_mlx.settings.recipe import Recipe as Recipe
from afm_mlx.settings.sections import Section

AnySection = TypeVar("AnySection", bound=Section)


def recipe_files() -> dict[str, Path]:
    """The recipes that come with the toolkit, by name."""
    folder = Path(str(files("afm_models")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_named_recipe(name_or_path: str, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe of that name in the zoo, or of that `.toml` file, with `assignments` applied.

    Raises:
        RecipeError: no recipe has that name, or as `load_recipe`.
    """
    if name_or_path.endswith(".toml"):
        return load_recipe(Path(name_or_path), assignments)
    recipes = recipe_files()
    if name_or_path in recipes:
        return load_recipe(recipes[name_or_path], assignments)
    near = nearest(name_or_path, recipes)
    raise RecipeError(
        f"no recipe is called '{name_or_path}'",
        hint=f"did you mean '{near}'?"
        if near
        else f"there are {', '.join(recipes)}; a path must end in .toml",
    )


def load_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe, then apply each `section.name=value`, left to right.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown, a value is not allowed, or
            two settings contradict each other. The first two such keys are named.
    """
    text, settings = read_toml(path, "recipe")
    settings.setdefault("name", path.stem)
    assigned = tuple(_assign(settings, assignment) for assignment in assignments)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise invalid_settings(error, Recipe, Origin(path, text, assigned)) from None


def load_section(
    model: type[AnySection], settings: Mapping[str, Any], assignments: Sequence[str] = ()
) -> AnySection:
    """A section on its own: of `settings`, then with each `name=value` applied, left to right.

    Raises:
        RecipeError: as `load_recipe`.
    """
    given = copy.deepcopy(dict(settings))  # presets are everyone's
    assigned = tuple(_assign(given, assignment) for assignment in assignments)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid_settings(error, model, Origin(None, "", assigned)) from None


def read_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Settings by name, from `name=value` each, left to right.

    Raises:
        RecipeError: one is not of this form.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        _assign(settings, assignment)
    return settings


def _assign(settings: dict[str, Any], assignment: str) -> str:
    """Put `section.name=value` into `settings`, and give the name back.

    The value is TOML; what is not TOML is text.
    """
    name, equals, value = (part.strip() for part in assignment.partition("="))
    *sections, key = name.split(".")
    if not equals or not all([*sections, key]):
        raise RecipeError(f"--set: '{assignment}' is not NAME=VALUE", hint="try --set core.lr=0.02")
    table = settings
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set: '{name}' goes through '{section}', which holds no settings")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    table[key] = parsed["value"] if parsed.keys() == {"value"} else value
    return name
