"""A server of the tiny model on a free loopback port, and clients of it."""

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import openai
import pytest

from afm_mlx.decoder.adapters import find_adapters
from afm_mlx.inference.batches import Batcher
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.guardrails import Guardrails
from afm_mlx.inference.server.app import make_app
from afm_mlx.inference.server.limits import Limits
from afm_mlx.inference.server.names import Names
from afm_mlx.inference.server.run import Server, listen
from afm_mlx.inference.server.service import Service

WAIT_SECONDS = 60
HELLO = [{"role": "user", "content": "What is on the hill?"}]


@dataclass
class Running:
    """A server that runs."""

    service: Service
    port: int
    said: list[str]
    """Lines that it said about its own mistakes."""
    clients: list[openai.OpenAI] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self, **more) -> openai.OpenAI:
        settings = {"api_key": "none", "max_retries": 0, "timeout": WAIT_SECONDS} | more
        client = openai.OpenAI(base_url=f"{self.url}/v1", **settings)
        self.clients.append(client)
        return client

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS)

    def post(self, path: str, body: bytes | dict, **headers: str) -> tuple[int, dict, dict]:
        """Status, headers and JSON of an answer to a request that may be nonsense."""
        import http.client

        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        ) as line:
            line.request("POST", path, raw, {"Content-Type": "application/json"} | headers)
            answer = line.getresponse()
            return answer.status, dict(answer.getheaders()), json.loads(answer.read())


def eventually(true) -> bool:
    """Whether something is so, or soon comes to be."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        if true():
            return True
        threading.Event().wait(0.01)
    return False


def is_idle(server) -> bool:
    load = server.service.batcher.load
    return load.answering == load.waiting == 0


@contextlib.contextmanager
def running(
    engine: Engine,
    *,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    policy: Path | None = None,
    api_key: str | None = None,
    loopback: bool = True,
    default: str | None = None,
    send_bytes: int | None = None,
    **batcher,
) -> Iterator[Running]:
    """A server in a thread."""
    names = Names("tiny", engine.adapters.names, default=default)
    guardrails = Guardrails.open(policy) if policy else None
    service = Service(Batcher(engine, **batcher), names, limits, guardrails)
    said: list[str] = []
    app = make_app(service, loopback=loopback, api_key=api_key, say=said.append)
    sock = listen("127.0.0.1", 0)
    if send_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    server = Server(app, limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()  # the socket takes connections before the server does
    try:
        found = Running(service, sock.getsockname()[1], said)
        yield found
    finally:
        for client in found.clients:
            client.close()
        service.close()
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        sock.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def adapted_folder(tmp_path_factory, random_adapter, varied_folder) -> Path:
    """A model with two adapters in its folder; no answer of it ends by itself."""
    folder = shutil.copytree(varied_folder, tmp_path_factory.mktemp("adapted") / "tiny")
    for name, rank in (("a", 2), ("b", 4)):
        random_adapter(folder, folder / "adapters" / name, rank=rank)
    return folder


def with_adapters(folder: Path) -> Engine:
    """The model in a folder, with the adapters there."""
    engine = Engine.open(folder, dtype=mx.float32)
    for adapter in find_adapters(folder):
        engine.adapters.add(adapter)
    return engine


@pytest.fixture(scope="session")
def adapted(adapted_folder) -> Engine:
    return with_adapters(adapted_folder)


@pytest.fixture(scope="module")
def server(adapted) -> Iterator[Running]:
    with running(adapted) as found:
        yield found
        assert found.said == []


@pytest.fixture
def client(server) -> openai.OpenAI:
    return server.openai()
