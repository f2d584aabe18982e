"""A small web site on this machine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Site:
    """Pages by path: (status, headers, body) or text; notes who asked for what, and when.

    `raw` has answers that no honest server gives: pieces of bytes, sent as they are.
    """

    def __init__(self) -> None:
        self.raw: dict[str, Callable[[], Iterable[bytes]]] = {}
        self.pages: dict[str, tuple[int, dict[str, str], bytes] | str] = {}
        self.failures: dict[str, list[int]] = {}
        self.slow: dict[str, float] = {}
        self.asked: list[tuple[str, float, str]] = []
        self.closing = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append((self.path, time.monotonic(), self.headers["User-Agent"]))
                if self.path in site.raw:
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        for piece in site.raw[self.path]():
                            self.wfile.write(piece)
                            if site.closing.is_set():
                                break
                    return
                page = site.pages.get(self.path, (404, {}, b"no such page"))
                status, headers, body = (200, {}, page.encode()) if isinstance(page, str) else page
                if site.failures.get(self.path):
                    status = site.failures[self.path].pop()
                site.closing.wait(site.slow.get(self.path, 0))
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "text/html", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [path for path, _, _ in self.asked]


@pytest.fixture
def make_site() -> Iterator[type[Site]]:
    """Makes sites, and closes them in the end."""
    sites: list[Site] = []

    def make() -> Site:
        sites.append(Site())
        return sites[-1]

    yield make  # type: ignore[misc]
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site) -> Site:
    return make_site()
