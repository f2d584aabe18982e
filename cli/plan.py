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
    hosts: Annotated[
        str | None,
        typer.Option(
            "--hosts",
            metavar="N|FILE",
            help="Show also how N such machines, or those in a file, would share the work.",
            show_default=False,
        ),
    ] = None,
    set_: SetFlag = [],
    json_: JsonFlag = False,
) -> None:
    """Memory, operations, time and disk of each stage, without running it."""
    import json

    from afm_mlx.planning.hardware import find_hardware
    from afm_mlx.planning.machines import plan_machines
    from afm_mlx.planning.machines_text import machines_lines
    from afm_mlx.planning.plan import plan_recipe
    from afm_mlx.planning.text import format_plan
    from afm_mlx.recipe import load_named_recipe

    settings = load_named_recipe(recipe, set_)
    machine = find_hardware(hardware, settings.training.compute)
    planned = plan_recipe(settings, machine)
    several = None
    if hosts is not None:
        number, backend = _machines(hosts)
        several = plan_machines(settings, machine, number, backend=backend)
    if json_:
        beside = {} if several is None else {"machines": several.as_json()}
        typer.echo(json.dumps(planned.as_json() | beside, indent=2))
        return
    typer.echo(format_plan(planned))
    if several is not None:
        typer.echo("\n".join(["", *machines_lines(several)]))


def _machines(hosts: str) -> tuple[int, str]:
    """How many machines `--hosts` means, and who carries their messages; "" for any."""
    from afm_mlx.errors import RunError
    from afm_mlx.launch.hosts import read_hosts

    number, backend = hosts, ""
    if not hosts.isdigit():
        found = read_hosts(hosts)
        number, backend = str(len(found.hosts)), found.backend
    if int(number) < 2:
        raise RunError(f"--hosts {hosts}: one machine is what is planned anyway", hint="--hosts 2")
    return int(number), backend
