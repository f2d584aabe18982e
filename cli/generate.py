"""`afm generate`: one prompt, one answer."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from .models_io import follows, open_engine
from .options import (
    MAX_TOKENS,
    RUNS,
    AdapterFlag,
    AnswerHostsFlag,
    JsonFlag,
    MaxTokensFlag,
    ModelArgument,
    RunsFlag,
    SchemaFlag,
    SeedFlag,
    SystemFlag,
    TemperatureFlag,
    TopPFlag,
)
from .terminal import tell


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help="What to answer; - reads it from stdin.")],
    system: SystemFlag = "",
    adapter: AdapterFlag = None,
    schema: SchemaFlag = None,
    max_tokens: MaxTokensFlag = MAX_TOKENS,
    temperature: TemperatureFlag = 0.0,
    top_p: TopPFlag = 1.0,
    seed: SeedFlag = 0,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text, without the chat template.")
    ] = False,
    json_: JsonFlag = False,
    hosts: AnswerHostsFlag = None,
    runs: RunsFlag = RUNS,
) -> None:
    """Answer one prompt, or continue it, with any model."""
    from afm_mlx.inference.schema_files import read_schema

    if follows(model, runs):
        return
    form: Any = None if schema is None else read_schema(schema)
    text = sys.stdin.read() if prompt == "-" else prompt
    engine = open_engine(model, runs, [adapter] if adapter else [], together=True)
    first = [{"role": "system", "content": system}] if system else []
    messages = [*first, {"role": "user", "content": text}]
    pieces, finished = [], None
    guide = None if schema is None else engine.guides.json_schema(form)
    for chunk in engine.stream(
        messages,
        raw=raw,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        guide=guide,
    ):
        pieces.append(chunk.text)
        finished = chunk.finished
        if not json_:
            typer.echo(chunk.text, nl=False)
            sys.stdout.flush()
    engine.dismiss()
    stats = engine.stats
    if json_:
        speed = {"tokens_per_second": stats.tokens_per_second}
        result = {"text": "".join(pieces), "finished": finished, **asdict(stats), **speed}
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    typer.echo()
    tell(str(stats))
