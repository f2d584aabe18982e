"""afm plan: what a recipe costs, before spending any of it."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import JsonFlag, SetFlag


def plan(
    recipe: Annotated[str, typer.Argument(help="Recipe name (see `afm models`), or a TOML file.")],
    hardware: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="this: measured now; or a Mac's chip and memory in GB, as in m4-max-64.",
        ),
    ] = "this",
    set_: SetFlag = [],
    json_: JsonFlag = False,
) -> None:
    """Memory, operations, time and disk of each stage, without running it."""
    import json

    from afm_mlx.planning.hardware import find_hardware
    from afm_mlx.planning.plan import plan_recipe
    from afm_mlx.planning.text import format_plan
    from afm_mlx.recipe import load_named_recipe

    settings = load_named_recipe(recipe, set_)
    planned = plan_recipe(settings, find_hardware(hardware, settings.training.compute))
    typer.echo(json.dumps(planned.as_json(), indent=2) if json_ else format_plan(planned))
