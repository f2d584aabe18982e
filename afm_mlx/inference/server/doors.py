"""Who may come in, and what every answer says: the outermost layer of the server."""

from __future__ import annotations

import hmac
import sys
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from afm_mlx.inference.server.problems import Problem, internal
from afm_mlx.inference.server.responses import problem_response
from afm_mlx.inference.server.start import is_loopback

OPEN_PATHS = frozenset({"/", "/health"})
"""What needs no key: the page, which holds no secret, and whether the server is up."""

HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Of every response: nothing is kept on a disk, and nobody is told what was asked."""


class Doors:
    """Checks host, origin and key before a request comes in, and catches what goes wrong behind.

    There are no CORS headers, so a browser lets no page but ours read an answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        loopback: bool,
        api_key: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Put doors before `app`.

        Args:
            app: what lies behind.
            loopback: the server listens on this machine only. Without a key, it then answers to
                names of this machine alone.
            api_key: that requests must bring; None for none.
            say: takes a line about a mistake of ours; stderr if not given.
        """
        self._app = app
        self._is_open = loopback and api_key is None
        self._key = None if api_key is None else api_key.encode()
        self._say = say or _to_stderr

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, send_with_headers)
            return
        except Problem as found:
            problem = found
        except Exception as error:
            self._say(f"internal error: {_place(error)}")
            problem = internal()
        if begun:
            scope["state"]["cut"]()
        else:
            await problem_response(problem)(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # A page of another site can have its name point to this machine (DNS rebinding); it still
        # sends that name.
        if self._is_open and not is_loopback(_name(f"//{host}")):
            raise Problem(
                403,
                "this server answers to localhost and 127.0.0.1 alone, whatever the Host header "
                "of a request points to",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise Problem(403, "pages of other sites may not use this server", code="wrong_origin")
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            kind, _, key = headers.get("authorization", "").partition(" ")
            given = key.strip().encode("latin-1") if kind.lower() == "bearer" else b""
            if not hmac.compare_digest(given, self._key):
                raise Problem(
                    401,
                    "the API key is wrong" if given else "this server needs an API key",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _place(error: Exception) -> str:
    """Kind and place of an error, without its text: that may quote a prompt."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.name}, {last.filename}:{last.lineno}"


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
