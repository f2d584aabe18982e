"""afm models: the recipes that come with the toolkit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonFlag, SetFlag

if TYPE_CHECKING:
    from afm_mlx.recipe import Recipe

app = typer.Typer(help="The models that can be built: the zoo of recipes.")


@app.callback(invoke_without_command=True)
def models_list(context: typer.Context, json_: JsonFlag = False) -> None:
    """List the recipes, or show one."""
    import json

    from afm_mlx.recipe import load_recipe, recipe_files

    if context.invoked_subcommand is not None:
        return
    rows = [_summary(load_recipe(path)) for path in recipe_files().values()]
    rows.sort(key=lambda row: row["parameters"])
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    wide = max(len(row["name"]) for row in rows)
    for row in rows:
        typer.echo(f"{row['name']:{wide}}  {row['parameters']:>14,}  {row['about']}")


@app.command("show")
def models_show(
    recipe: Annotated[str, typer.Argument(help="Recipe name, or a TOML file.")],
    set_: SetFlag = [],
    json_: JsonFlag = False,
) -> None:
    """Show one recipe: its tensors with exact counts, its texts, its stages."""
    import json

    from afm_mlx.planning.cost import tensors
    from afm_mlx.recipe import load_named_recipe

    settings = load_named_recipe(recipe, set_)
    rows = tensors(settings.shape)
    if json_:
        found = _summary(settings) | {
            "tensors": [
                {
                    "name": row.name,
                    "count": row.count,
                    "size": row.size,
                    "parameters": row.parameters,
                }
                for row in rows
            ],
            "recipe": settings.model_dump(mode="json"),
        }
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{settings.name}: {settings.about}" if settings.about else settings.name)
    typer.echo("\ntensors")
    wide = max(len(row.name) for row in rows)
    for row in rows:
        size = " x ".join(f"{side:,}" for side in row.size)
        typer.echo(f"  {row.name:{wide}}  {row.count:>3} x [{size}]".ljust(wide + 30), nl=False)
        typer.echo(f"{row.parameters:>16,}")
    total = sum(row.parameters for row in rows)
    typer.echo(f"  {'total':{wide + 28}}{total:>16,}")
    typer.echo("\ntexts")
    for name, source in settings.data.items():
        license_ = f", {source.license}" if source.license else ""
        typer.echo(f"  {name}: {source.kind} in {source.path}{license_}")
    typer.echo("\nstages")
    if settings.teacher and settings.teacher.model:
        typer.echo(f"  teacher: {settings.teacher.model}, a finished model")
    for stage in settings.trained_stages():
        section = settings.prune if stage == "prune" else settings.pretraining(stage)
        assert section is not None
        taught = ", from the teacher" if stage in settings.distilled_stages() else ""
        typer.echo(
            f"  {stage}: {section.tokens:,} tokens in rows of {section.row_tokens:,}, "
            f"{section.steps:,} steps{taught}"
        )
    if later := [*settings.post_training_stages(), *settings.finishing_stages()]:
        typer.echo(f"  then: {', '.join(later)}")


def _summary(recipe: Recipe) -> dict[str, Any]:
    from afm_mlx.planning.cost import count_by_part

    return {
        "name": recipe.name,
        "about": recipe.about,
        "parameters": count_by_part(recipe.shape)["total"],
        "stages": [
            *recipe.trained_stages(),
            *recipe.post_training_stages(),
            *recipe.finishing_stages(),
        ],
    }
