"""JSON over HTTP, with limits on time and size, and what servers say when they refuse."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from afm_mlx.corpus.crawl.fetch import tls_context
from afm_mlx.errors import RunError

CONNECT_SECONDS = 15.0
"""For a connection. Ours."""

MOST_BYTES = 2**24
"""Of an answer's body. Ours."""

SHOWN_CHARACTERS = 200
"""Of what a server says is wrong. Ours."""

CHAT = "/chat/completions"
"""What is asked, below the address of an API."""

_LOCAL = ("localhost", "127.0.0.1", "::1")


def chat_url(url: str) -> str:
    """Where to post, of what a person wrote.

    Raises:
        RunError: it is no URL, or holds a password.

    >>> chat_url("http://127.0.0.1:8080")
    'http://127.0.0.1:8080/v1/chat/completions'
    >>> chat_url("https://example.org/api/v2/")
    'https://example.org/api/v2/chat/completions'
    """
    hint = "give one such as http://127.0.0.1:8080 or https://api.openai.com/v1"
    url = url.strip()
    try:
        parts = urlsplit(url)
        parts.port, (parts.hostname or "").encode("idna")
    except ValueError:
        raise RunError(f"'{url}' is no URL", hint=hint) from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not all("!" <= letter <= "~" for letter in url)
    ):
        raise RunError(f"'{url}' is no URL of http or https", hint=hint)
    if parts.username is not None:
        raise RunError(
            "the URL holds a name or a password", hint="leave it away, and give the server's key"
        )
    path = parts.path.rstrip("/")
    if not path.endswith(CHAT):
        path = (path or "/v1") + CHAT
    return parts._replace(path=path, fragment="").geturl()


def sibling(url: str, path: str) -> str:
    """Another part of the API whose `chat_url` this is, such as `/models`."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path.removesuffix(CHAT) + path).geturl()


def shown(url: str) -> str:
    """A URL without its query, which may hold a key."""
    return urlsplit(url)._replace(query="").geturl()


def opener_for(host: str) -> urllib.request.OpenerDirector:
    """Opens requests. It knows the machine's proxies, and asks none for this machine itself."""
    local = [urllib.request.ProxyHandler({})] if host in _LOCAL else []
    return urllib.request.build_opener(_PlainHandler, _SecureHandler, _NoRedirects, *local)


def fetch_json(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, *, seconds: float
) -> Any:
    """The JSON that a server answers, within some seconds, however slowly it drips.

    Raises:
        urllib.error.HTTPError: it says that something is wrong.
        OSError: there is no connection, it broke, or the time is over: TimeoutError.
        http.client.HTTPException: it does not talk HTTP.
        ValueError: what came is no JSON.
    """
    until = time.monotonic() + seconds
    body = bytearray()
    with opener.open(request, timeout=seconds) as response:
        while piece := response.read1(2**16):
            body += piece
            if time.monotonic() > until:
                raise TimeoutError
            if len(body) > MOST_BYTES:
                raise ConnectionError(f"an answer of more than {MOST_BYTES:,} bytes")
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("too deep") from None


class Said:
    """What a server says is wrong: OpenAI's form, or what others make of it."""

    def __init__(self, error: urllib.error.HTTPError, *, hide: str) -> None:
        """Read it; `hide`, if not empty, is not to be shown."""
        text = _beginning(error).decode("utf-8", "replace")
        self.code = self.param = ""
        """What programs call it, and which field is to blame; empty where it is not said."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        wrong = found.get("error", found) if isinstance(found, dict) else None
        if isinstance(wrong, dict):
            self.code, self.param = str(wrong.get("code") or ""), str(wrong.get("param") or "")
            text = str(wrong.get("message") or wrong.get("detail") or "")
        elif isinstance(wrong, str):
            text = wrong
        elif text.lstrip().startswith("<"):  # a page of a proxy
            text = ""
        text = " ".join((text.replace(hide, "...") if hide else text).split())
        cut = text[:SHOWN_CHARACTERS] + ("..." if len(text) > SHOWN_CHARACTERS else "")
        self.text = f": {cut}" if cut else ""


def _beginning(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(2**16)
    except (OSError, http.client.HTTPException):
        return b""


class _Plain(http.client.HTTPConnection):
    """A connection is made soon or not at all; an answer may take long."""

    def connect(self) -> None:
        patience, self.timeout = self.timeout, CONNECT_SECONDS
        super().connect()
        self.timeout = patience
        self.sock.settimeout(patience)


class _Secure(_Plain, http.client.HTTPSConnection):
    pass


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Secure, req, context=tls_context())


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A POST that is sent on becomes a GET, and a key goes where nobody sent it."""

    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None
