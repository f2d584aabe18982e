"""`afm serve`: a model behind OpenAI's API, and a page to chat with it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .models_io import add_adapter, find_model, follows, open_guardrails
from .options import (
    HOST,
    KEY_VARIABLE,
    RUNS,
    ApiKeyFlag,
    HostFlag,
    ModelArgument,
    PolicyFlag,
    PortFlag,
    RunsFlag,
    ServeHostsFlag,
)
from .terminal import tell

if TYPE_CHECKING:
    import socket

    from afm_mlx.inference.engine import Engine
    from afm_mlx.inference.server.names import Names

PORT = 8_080
"""As mlx-lm's own server has it."""


def serve(
    model: ModelArgument,
    adapter: Annotated[
        list[str],
        typer.Option(
            "--adapter",
            metavar="ADAPTER",
            help="Folder or name of an adapter to serve beside those in the model's folder. Can be "
            "repeated.",
            show_default=False,
        ),
    ] = [],
    host: HostFlag = HOST,
    port: PortFlag = PORT,
    api_key: ApiKeyFlag = None,
    policy: PolicyFlag = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            metavar="GB",
            min=0.0,
            help="Memory that the model and all answers may take, in 10^9 bytes.",
            show_default="what the machine gives",
        ),
    ] = None,
    max_together: Annotated[
        int, typer.Option(metavar="N", min=1, help="Answers that are written at once.")
    ] = 8,
    max_waiting: Annotated[
        int, typer.Option(metavar="N", min=0, help="Requests that may wait beside those.")
    ] = 64,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Longest answer, in tokens.")
    ] = 4_096,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Longest prompt, in tokens.", show_default="the context"
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Longest time for a request.")
    ] = 600,
    hosts: ServeHostsFlag = None,
    runs: RunsFlag = RUNS,
) -> None:
    """Serve a model with OpenAI's API, and a page to chat with it."""
    if follows(model, runs, together=True):
        return
    check_server(host, api_key)
    from afm_mlx.inference.batches import Batcher
    from afm_mlx.inference.server.limits import Limits
    from afm_mlx.inference.server.names import Names
    from afm_mlx.inference.server.run import listen
    from afm_mlx.inference.server.service import Service
    from afm_mlx.inference.server.start import serve, service_name

    guardrails = open_guardrails(policy)
    with listen(host, port) as sock:
        engine, default = _open(find_model(model, runs), adapter, memory_gb)
        batcher = Batcher(engine, max_waiting=max_waiting, max_together=max_together)
        names = Names(service_name(model), engine.adapters.names, default=default)
        limits = Limits(prompt_tokens=max_prompt_tokens, max_tokens=max_tokens, seconds=timeout)
        service = Service(batcher, names, limits, guardrails)
        _introduce(names, url_of(host, sock), needs_key=api_key is not None)
        serve(service, sock, host=host, api_key=api_key, say=tell)
    tell("stopped")


def check_server(host: str, api_key: str | None) -> None:
    """Look whether a server can be started here, and may be.

    Raises:
        RunError: its packages are missing; or other machines could reach it without a key.
    """
    from afm_mlx.inference.server.start import check_access, check_packages

    check_packages()
    check_access(host, api_key, hint=f"--api-key KEY, or {KEY_VARIABLE}=KEY before the command")


def url_of(host: str, sock: socket.socket) -> str:
    """Where a server is that listens on `host`."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{sock.getsockname()[1]}"


def _open(folder: Path, words: list[str], memory_gb: float | None) -> tuple[Engine, str | None]:
    """The model with its adapters, and the one that its folder wants."""
    from afm_mlx.decoder.adapters import find_adapters
    from afm_mlx.errors import ModelError
    from afm_mlx.inference.engine import Engine
    from afm_mlx.ranks import joined
    from afm_mlx.zoo import resolve_adapter

    named = [resolve_adapter(word, folder) for word in words]
    ranks = joined()
    ranks.wait()
    engine = Engine.open(folder, memory_gb=memory_gb, ranks=ranks)
    default = engine.adapters.active
    for found in find_adapters(folder):
        try:
            engine.adapters.add(found)
        except ModelError as error:  # nobody asked for it
            tell(f"not served: {error}")
    for found in named:
        add_adapter(engine, found)
    return engine, default


def _introduce(names: Names, url: str, *, needs_key: bool) -> None:
    """Print where the server is, and a line to try it."""
    message = {"role": "user", "content": "Hello"}
    body = json.dumps({"model": names.base, "messages": [message]}, ensure_ascii=False)
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if needs_key else ""
    typer.echo(f"{url}  serves {', '.join(names.all)}")
    typer.echo(
        f"curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' "
        f"-d {shlex.quote(body)}"
    )
    tell("Ctrl-C ends it")
