"""`afm import`, and how all commands turn a MODEL word into a folder."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import BUILT_IN, RUNS, JsonFlag, ModelArgument, RunsFlag
from .terminal import tell

if TYPE_CHECKING:
    from afm_mlx.inference.engine import Engine
    from afm_mlx.inference.guardrails import Guardrails


def find_model(word: str, runs: Path) -> Path:
    """Folder of the model that `word` stands for; says on stderr what was chosen."""
    from afm_mlx.zoo import resolve_model

    found = resolve_model(word, runs=runs, say=tell)
    if found.said:
        tell(found.said)
    return found.path


def follows(word: str, runs: Path, *, together: bool = False) -> bool:
    """On all ranks but the first: answer with it what it is asked, until it is done, and say so.

    Only the first one knows what is asked, and speaks. With `together`, it answers many at once.
    """
    from afm_mlx.ranks import joined

    ranks = joined()
    if ranks.rank == 0:
        return False
    from afm_mlx.inference.engine import Engine

    ranks.wait()  # the first one may have to make the folder
    engine = Engine.open(find_model(word, runs), ranks=ranks)
    if not together:
        engine.follow()
        return True
    from afm_mlx.inference.passes import follow

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first one gets it, too, and ends all
    follow(engine)
    return True


def open_engine(word: str, runs: Path, adapters: list[str], *, together: bool = False) -> Engine:
    """The model that `word` stands for, with adapters loaded, of which the first is in use.

    With `together`, ranks that `follows` answer with it, and are to be dismissed at the end.
    """
    from afm_mlx.decoder.adapters import NONE
    from afm_mlx.inference.engine import Engine
    from afm_mlx.ranks import ALONE, joined
    from afm_mlx.zoo import resolve_adapter

    folder = find_model(word, runs)
    found = [None if each == NONE else resolve_adapter(each, folder) for each in adapters]
    ranks = joined() if together else ALONE
    ranks.wait()
    engine = Engine.open(folder, ranks=ranks)
    names = [None if each is None else add_adapter(engine, each) for each in found]
    if names:
        engine.use_adapter(names[0])
    if engine.adapters.active:
        tell(f"adapter: {engine.adapters.active}")
    return engine


def add_adapter(engine: Engine, folder: Path) -> str:
    """Load the adapter in a folder beside a model; its name."""
    name = engine.adapters.add(folder)
    if not engine.adapters[name].facts.base:
        tell(f"adapter {name} is not ours: that it is for this model cannot be checked")
    return name


def open_guardrails(policy: str | None) -> Guardrails | None:
    """Guardrails by what --policy says; None where it says nothing."""
    from afm_mlx.inference.guardrails import Guardrails

    if policy is None:
        return None
    return Guardrails.open(None if policy == BUILT_IN else Path(policy), say=tell)


def import_(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to create.")],
    json_: JsonFlag = False,
    runs: RunsFlag = RUNS,
) -> None:
    """Turn a Qwen3- or Llama-class model, or a GGUF file, into an AFM checkpoint folder."""
    from afm_mlx.decoder.convert import import_model
    from afm_mlx.decoder.decoder import count_parameters
    from afm_mlx.zoo import find_source

    source = find_source(model, runs=runs, say=tell)
    if source.said:
        tell(source.said)
    shape = import_model(source.path, out)
    parameters = sum(count_parameters(shape).values())
    num_bytes = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    if json_:
        facts = {"folder": str(out), "parameters": parameters, "bytes": num_bytes}
        typer.echo(json.dumps({**facts, "shape": shape.model_dump(mode="json")}))
        return
    norm = "with QK-norm" if shape.qk_norm else "without QK-norm"
    tied = "tied embedding" if shape.tied else "untied embedding"
    typer.echo(f"model       {out}")
    typer.echo(f"parameters  {parameters:,}")
    typer.echo(
        f"shape       {shape.num_layers} layers, width {shape.hidden_size:,}, "
        f"{shape.num_heads} heads of {shape.head_dim} on {shape.num_kv_heads} key/value heads, "
        f"feed-forward {shape.intermediate_size:,}, {norm}"
    )
    typer.echo(f"vocabulary  {shape.vocab_size:,} rows, {tied}")
    typer.echo(f"context     {shape.max_tokens:,} tokens, RoPE base {shape.rope_base:,.0f}")
    typer.echo(f"size        {num_bytes / 1e6:,.1f} MB")
