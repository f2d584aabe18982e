"""afm data: documents to token shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import JsonFlag, LogJsonFlag, RunsFlag, SetFlag

app = typer.Typer(no_args_is_help=True, help="Documents to token shards.")


@app.command()
def build(
    recipe: Annotated[str, typer.Argument(help="Recipe name (see `afm models`), or a TOML file.")],
    set_: SetFlag = [],
    runs: RunsFlag = Path("runs"),
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Train the recipe's tokenizer and write the token shards of its sources."""
    from .run import run

    run(recipe, until="data", set_=set_, runs=runs, log_json=log_json, json_=json_)


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A folder of shards, such as runs/R/data/NAME.")],
    split: Annotated[
        Literal["train", "held_out"], typer.Option(help="Which part of the documents.")
    ] = "train",
    start: Annotated[int, typer.Option(min=0, help="First token to show.")] = 0,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to show.")] = 400,
    json_: JsonFlag = False,
) -> None:
    """Compare the shards' checksums, count what is in them, and show a piece of the text."""
    import json

    from afm_mlx.corpus.shards import Shards
    from afm_mlx.text.tokenizer import Tokenizer

    shards = Shards.open(folder, split)
    shards.verify()
    counts = {
        "tokens": shards.num_tokens,
        "documents": shards.documents,
        "text_bytes": shards.text_bytes,
    }
    if start >= shards.num_tokens:
        raise typer.BadParameter(f"{start:,} is past the last of {shards.num_tokens:,} tokens")
    ids = shards.read(start, min(start + tokens, shards.num_tokens)).tolist()
    tokenizer = folder.parent.parent / "tokenizer" / "tokenizer"  # where a run keeps it
    text = Tokenizer.open(tokenizer).decode(ids) if tokenizer.is_dir() else str(ids)
    if json_:
        typer.echo(json.dumps(counts | {"ids": ids, "text": text}))
        return
    for name, count in counts.items():
        typer.echo(f"{name:12}{count:>16,}")
    typer.echo(f"\n{text}")
