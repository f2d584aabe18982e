"""One GET over HTTP, with limits on its time and its size."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from urllib.parse import urlsplit

from afm_mlx.corpus.web.response import Unusable, media_type, values

_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE_BYTES = 2**16  # read at once from a connection; ours


@dataclass(frozen=True)
class Answer:
    """What a host said."""

    status: int
    line: str
    """The first line of its head."""
    headers: list[tuple[str, str]]
    body: bytes
    """As it came, perhaps packed; empty unless the status is 200 and the type is wanted."""
    too_long: bool = False
    """Whether the body is cut at the most that was asked for."""

    @property
    def is_redirect(self) -> bool:
        """Whether the answer is somewhere else."""
        return self.status in _REDIRECTS

    @property
    def retry_after(self) -> float:
        """Seconds after which the host wants to be asked again; 0 when it does not say."""
        return seconds_of(next(iter(values(self.headers, "retry-after")), ""))


@dataclass
class Request:
    """One GET, which blocks its thread; any other thread can end it."""

    url: str
    user_agent: str
    wanted: Sequence[str]
    """Media types; another one's body is not read. Empty: all."""
    max_bytes: int
    """Of the body, as it comes."""
    timeout_seconds: float
    """Of silence; who wants a limit for the whole calls `end`."""
    private: bool
    """Whether the host may be in this machine's own network."""
    ended: bool = False
    _socket: socket.socket | None = None

    def run(self) -> Answer:
        """The host's answer, without following redirects.

        Raises:
            OSError: no connection, or it broke or was ended.
            http.client.HTTPException: the answer is no HTTP.
            Unusable: the host is inside this machine's own network, and no seed is.
        """
        parts = urlsplit(self.url)
        host, seconds = parts.hostname or "", self.timeout_seconds
        connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=seconds, context=tls_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=seconds)
        )
        with closing(connection):
            connection.connect()
            self._socket = connection.sock
            if self.ended:
                raise TimeoutError
            address = connection.sock.getpeername()[0].partition("%")[0]
            if not self.private and not ipaddress.ip_address(address).is_global:
                raise Unusable("private address")
            connection.request("GET", self.url.split(parts.netloc, 1)[1], headers=self._headers())
            with connection.getresponse() as response:
                return self._read(response)

    def end(self) -> None:
        """Make a blocked `run` fail now; after its end, nothing."""
        self.ended = True
        if self._socket is not None:
            # The plain socket's shutdown: an encrypted one would wait to say goodbye.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _headers(self) -> dict[str, str]:
        return {
            "User-Agent": self.user_agent,
            "Accept": ", ".join(self.wanted) or "*/*",
            "Accept-Encoding": "gzip",
            "Connection": "close",
        }

    def _read(self, response: http.client.HTTPResponse) -> Answer:
        headers = response.getheaders()
        version = "1.0" if response.version == 10 else "1.1"
        line = f"HTTP/{version} {response.status} {response.reason}"
        kind = media_type(headers)
        if response.status != 200 or (self.wanted and kind and kind not in self.wanted):
            return Answer(response.status, line, headers, b"")
        body = bytearray()
        while piece := response.read(_PIECE_BYTES):  # read1 counts no bytes before Python 3.12
            body += piece
            if len(body) > self.max_bytes:
                return Answer(200, line, headers, bytes(body[: self.max_bytes]), too_long=True)
        if response.length or self.ended:
            raise ConnectionError("the answer was cut")
        return Answer(200, line, headers, bytes(body))


def seconds_of(retry_after: str) -> float:
    """Seconds from now that a header Retry-After asks to wait; 0 where it says nothing."""
    if re.fullmatch(r"\d{1,9}", retry_after):
        return float(retry_after)
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max((when.astimezone(UTC) - datetime.now(UTC)).total_seconds(), 0.0)


@cache
def tls_context() -> ssl.SSLContext:
    """Verifies certificates; Pythons from python.org know none on macOS until someone helps."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        try:
            import certifi
        except ImportError:
            with suppress(ImportError):
                import truststore  # asks the system; comes with huggingface_hub

                return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        else:
            context.load_verify_locations(certifi.where())
    return context
