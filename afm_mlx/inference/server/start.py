"""Starting a server: what must be there, who may reach it, and how it ends."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from afm_mlx.errors import RunError

if TYPE_CHECKING:
    from afm_mlx.inference.server.service import Service

PACKAGES = ("starlette", "uvicorn")
"""What the extra `serve` brings."""


def check_packages() -> None:
    """Look whether the server's packages are installed.

    Raises:
        RunError: they are not.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(
            f"the server needs {' and '.join(missing)}", hint="pip install 'afm-mlx[serve]'"
        )


def is_loopback(host: str | None) -> bool:
    """Whether a name or address is this machine's own, which others cannot reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def check_access(host: str, api_key: str | None, *, hint: str = "") -> None:
    """Refuse an open server that other machines could reach.

    Raises:
        RunError: the host is none of this machine alone, and there is no key; or the key is empty.
    """
    if api_key is not None and not api_key.strip():
        raise RunError("the API key is empty", hint=hint)
    if api_key is None and not is_loopback(host):
        raise RunError(f"other machines can reach {host}, so it needs an API key", hint=hint)


def service_name(word: str) -> str:
    """What clients call the model that a MODEL word stands for."""
    from afm_mlx.decoder.adapters import base_name

    place = Path(word).expanduser()
    if place.is_dir():
        return base_name(place)
    return place.stem if place.is_file() else word


def serve(
    service: Service,
    sock: socket.socket,
    *,
    host: str,
    api_key: str | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Serve until Ctrl-C, which ends answers in work with an error.

    Args:
        service: the model; it is closed in the end.
        sock: listens, on `host`.
        host: decides which names the server answers to.
        api_key: that requests must bring.
        say: takes a line about a mistake of ours; stderr if not given.

    Raises:
        Exception: what ended the model, where other ranks compute with it.
    """
    from afm_mlx.inference.server.app import make_app
    from afm_mlx.inference.server.run import Server

    app = make_app(service, loopback=is_loopback(host), api_key=api_key, say=say)

    def end_answers() -> None:  # off the loop, which tells the clients
        threading.Thread(target=service.close, name="afm-closing").start()

    batcher = service.batcher
    server = Server(app, service.limits, leaving=end_answers, alive=lambda: batcher.is_alive)
    try:
        server.run(sockets=[sock])
    except KeyboardInterrupt:  # uvicorn raises it again when all is done
        pass
    finally:
        service.close()
    if batcher.failure is not None:
        raise batcher.failure
