"""The server's process: its socket, its connections, and its end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from afm_mlx.errors import RunError
from afm_mlx.inference.server.limits import Limits
from afm_mlx.inference.server.problems import bad

GOODBYE_SECONDS = 2
"""For connections to end when the server does. Ours."""

IDLE_SECONDS = 5
"""After which an idle connection is closed; uvicorn's default."""

BACKLOG = 128
"""Connections that may wait to be taken. Ours."""

SPARE_CONNECTIONS = 32
"""Beyond the limit, that are told so before they are closed. Ours."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        RunError: the address is taken, or is none of this machine.
    """
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise RunError(f"'{host}' is no address: {(error.strerror or '').lower()}") from None
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(BACKLOG)  # from here on clients can connect, and wait
    except OSError as error:
        sock.close()
        raise RunError(
            f"cannot listen on {host}, port {port}: {(error.strerror or str(error)).lower()}",
            hint="--port 0 takes a free port",
        ) from None
    return sock


class Server(uvicorn.Server):
    """uvicorn, on a socket of ours. Nothing is logged."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        *,
        leaving: Callable[[], None] = lambda: None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """Serve `app`, while it is `alive`. `leaving` is called when a signal ends the server."""
        config = uvicorn.Config(
            app,
            http=_connection(limits),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",  # its errors quote requests
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )
        super().__init__(config)
        self._leaving, self._alive = leaving, alive

    async def on_tick(self, counter: int) -> bool:
        """Whether it is to end; asked ten times a second."""
        return await super().on_tick(counter) or not self._alive()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the answers, then the connections. uvicorn's own waits for answers."""
        self._leaving()
        super().handle_exit(sig, frame)


def _connection(limits: Limits) -> type[H11Protocol]:
    """A protocol for uvicorn, whose own has no limit for how long a request's head takes."""

    class Connection(H11Protocol):
        def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None):
            super().__init__(config, server_state, {**app_state, "cut": self.cut}, _loop)
            self._timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections + SPARE_CONNECTIONS:
                transport.abort()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def cut(self) -> None:
            """Close at once, whatever is unsent."""
            self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            """What is no HTTP: as JSON, too."""
            body = json.dumps(bad("this is not HTTP").body).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _watch(self) -> None:
            """Cut the connection if a request does not come, or its rest is not wanted."""
            if self.cycle is not None and not self.cycle.response_complete:
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            elif self._timer is None:
                self._timer = self.loop.call_later(limits.body_seconds, self.cut)

    return Connection
