"""Abuse: a server gets 2,000 requests, a third of them wrong, from readers slow and gone.

Starts `afm serve` in a process of its own on a free loopback port, with a tiny random model.
Requests are of four sorts. Wrong ones must be refused with the status that their kind has, and a
JSON body that says why. Good ones must be answered. Some clients go away at any point of a request,
some never read what they asked for. In the end the server must answer as in the beginning, hold no
request, have stayed within its memory budget, and end with Ctrl-C. The table has the memory of the
process as the system counts it, after each tenth of the requests.

    python benchmarks/serve_abuse.py                        # about 2 minutes
    python benchmarks/serve_abuse.py --requests 200
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from afm_mlx import compat  # before MLX: it loads the BLAS  # isort: skip  # noqa: F401

from declared import Declaration

from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import train_tokenizer

BENCH = Declaration(
    seconds=30,
    figures={
        "a server treated badly, requests with a wrong outcome": "at most 0",
        "a server treated badly, memory / its budget": "at most 1",
    },
    small="--requests 600",
    needs=("starlette", "uvicorn"),
)

TINY = Shape(
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=384,
    rope_base=10_000,
    norm_eps=1e-5,
    max_tokens=2_048,
)
CLIENTS = 16
UNREAD = 12  # clients at once that do not read
WAIT_SECONDS = 120
HELLO = [{"role": "user", "content": "What is on the hill?"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
NAME = "tiny"

Request = tuple[str, bytes, dict[str, str]]
"""Path, body, headers."""


def chat(**fields: Any) -> Request:
    """A chat; good unless the fields make it a wrong one."""
    body = {"model": NAME, "messages": HELLO, "max_tokens": 8} | fields
    return CHAT, json.dumps(body).encode(), {}


def completion(**fields: Any) -> Request:
    """A completion."""
    body = {"model": NAME, "prompt": "The cat", "max_tokens": 8} | fields
    return COMPLETIONS, json.dumps(body).encode(), {}


def schema(schema: Any) -> dict[str, Any]:
    """A chat's field for the form of the answer."""
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}


def tool(**more: Any) -> dict[str, Any]:
    """A tool's declaration."""
    return {"type": "function", "function": {"name": "look", **more}}


GOOD: dict[str, list[Request]] = {
    "chat": [chat(), chat(n=2, temperature=0, seed=-1), chat(stop=["the", "."])],
    "stream": [chat(stream=True), completion(stream=True), chat(stream=True, n=2)],
    "completion": [
        completion(),
        completion(prompt=["a", "b"]),
        completion(prompt=[5, 6]),
        completion(prompt=[[5], [6, 7]], logprobs=2),
    ],
    "logprobs": [chat(logprobs=True, top_logprobs=20), chat(logprobs=True, stream=True)],
    "schema": [
        chat(response_format=schema({"enum": ["cat", "dog", "\u00fc\u2603"]}), max_tokens=40),
        chat(response_format={"type": "json_object"}, max_tokens=40),
    ],
    "tool": [
        chat(tools=[tool()], tool_choice="required", parallel_tool_calls=False, max_tokens=60)
    ],
}
"""Requests that must be answered, by kind."""

WRONG: dict[str, tuple[int, list[Request]]] = {
    "bad JSON": (
        400,
        [
            (path, body, {})
            for path in (CHAT, COMPLETIONS)
            for body in (
                b"",
                b"{",
                b"null",
                b"[]",
                b'{"messages": NaN}',
                b'{"a": 1}}',
                b"\xff\xfe\x00",
                b"[" * 50_000,
                b'{"a":' * 50_000,
                b'{"prompt": "\\ud800"}',
                b'{"max_tokens": ' + b"9" * 10_000 + b"}",
            )
        ],
    ),
    "huge body": (413, [(CHAT, b"{" + b" " * 5_000_000 + b"}", {})]),
    "unknown field": (
        400,
        [
            chat(temprature=1),
            chat(**{"x" * 10_000: 1}),
            chat(messages=[{"role": "user", "content": "x", "contnt": 1}]),
            completion(top_k=5),
            chat(logit_bias={"5": 100}),
        ],
    ),
    "out of range": (
        400,
        [
            chat(max_tokens=-1),
            chat(max_tokens=0),
            chat(max_tokens=10**9),
            chat(temperature=-0.1),
            chat(top_p=1.5),
            chat(n=0),
            chat(n=10**6),
            chat(seed=10**40),
            chat(stop=[""]),
            chat(stop=["x"] * 1_000),
            chat(logprobs=True, top_logprobs=500),
            completion(prompt=[]),
            completion(prompt=[-1]),
            completion(prompt=[10**12]),
            chat(messages=[]),
        ],
    ),
    "wrong type": (
        400,
        [
            chat(max_tokens="8"),
            chat(max_tokens=1.5),
            chat(max_tokens=True),
            chat(messages="hi"),
            chat(messages=[None]),
            chat(messages=[{"role": 5, "content": "x"}]),
            chat(messages=[{"role": "user", "content": {"a": 1}}]),
            chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            chat(stream="yes"),
            chat(model=5),
            chat(model=["tiny"]),
            chat(tools="look"),
            chat(tool_choice=[]),
            completion(prompt={"a": 1}),
            completion(prompt=[True]),
            completion(prompt=[[1], "a"]),
        ],
    ),
    "invalid schema": (
        400,
        [
            chat(response_format=schema({"type": "animal"})),
            chat(response_format=schema({"type": "string", "pattern": "(["})),
            chat(response_format=schema({"$ref": "http://127.0.0.1:9/x.json"})),
            chat(response_format=schema({"$ref": "#/nowhere"})),
            chat(response_format=schema([])),
            chat(response_format={"type": "yaml"}),
            chat(tools=[tool(parameters={"type": 5})], tool_choice="required"),
            chat(tools=[tool(name="../../x")]),
            chat(tools=[tool(), tool()]),
        ],
    ),
    "unknown adapter": (404, [chat(model="tiny:nobody"), completion(model="gpt-4o")]),
    "path in a name": (
        404,
        [
            chat(model="../../../etc/passwd"),
            chat(model="tiny:../../etc"),
            chat(model="/etc/passwd\x00"),
            chat(model="..\\..\\x"),
            ("/v1/../../etc/passwd", b"{}", {}),
            ("/v1/%2e%2e/%2e%2e/etc/passwd", b"{}", {}),
        ],
    ),
    "too long": (400, [completion(prompt=[5] * 5_000), chat(messages=HELLO * 2_000)]),
    "another site": (
        403,
        [(*chat()[:2], {"Host": "evil.example"}), (*chat()[:2], {"Origin": "http://evil.example"})],
    ),
    "wrong route": (405, [("/health", b"{}", {}), ("/v1/models", b"{}", {})]),
}
"""Requests that must be refused, by kind, and with which status."""

NO_HTTP = [
    b"\x16\x03\x01\x02\x00 hello\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"GET\r\n\r\n",
]


class Abuse:
    """Many clients of one server."""

    def __init__(self, port: int, *, seed: int, long_tokens: int = 400) -> None:
        """`long_tokens` are those of answers that nobody reads to their end."""
        self.port, self.seed, self.long_tokens = port, seed, long_tokens
        self.counts: collections.Counter[str] = collections.Counter()
        """Requests of each kind that came out as they must."""
        self.failures: list[str] = []
        """What came out otherwise."""
        self._lock = threading.Lock()
        self._unread: collections.deque[socket.socket] = collections.deque()

    def run(self, numbers: range) -> None:
        """Send requests; each number is always the same one."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(self._one, numbers))

    def close(self) -> None:
        """Close the connections of those who did not read."""
        while self._unread:
            self._unread.popleft().close()

    def ask(self, request: Request) -> tuple[int, bytes]:
        """Status and body of an answer."""
        path, body, headers = request
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        with contextlib.closing(line):
            line.request("POST", path, body, {"Content-Type": "application/json", **headers})
            answer = line.getresponse()
            return answer.status, answer.read()

    def health(self) -> dict[str, Any]:
        """What the server says about itself."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        with contextlib.closing(line):
            line.request("GET", "/health")
            return json.loads(line.getresponse().read())

    def _one(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        sort = number % 3
        try:
            if sort == 0:
                kind, why = self._wrong(rng)
            elif sort == 1 or rng.random() < 0.5:
                kind, why = self._good(rng)
            elif rng.random() < 0.6:
                kind, why = self._gone(rng)
            else:
                kind, why = self._not_reading()
        except Exception as error:
            kind, why = "client", f"{type(error).__name__}: {error}"
        with self._lock:
            if why:
                self.failures.append(f"request {number}, {kind}: {why}")
            else:
                self.counts[kind] += 1

    def _good(self, rng: random.Random) -> tuple[str, str]:
        kind = rng.choice(list(GOOD))
        request = rng.choice(GOOD[kind])
        status, body = self.ask(request)
        whole = status == 200 and (b'"stream": true' not in request[1] or b"[DONE]" in body)
        return kind, "" if whole else f"{request[1][:200]!r} got {status} {body[:300]!r}"

    def _wrong(self, rng: random.Random) -> tuple[str, str]:
        kind = rng.choice([*WRONG, "no HTTP"])
        if kind == "no HTTP":
            status, body = self._raw(rng.choice(NO_HTTP))
            expected, sent = 400, b"no HTTP"
        else:
            expected, requests = WRONG[kind]
            request = rng.choice(requests)
            sent = request[1][:200]
            status, body = self.ask(request)
        try:
            said = json.loads(body)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = ""
        fine = status == expected and len(said) > 10
        return kind, "" if fine else f"{sent!r} got {status} {body[:300]!r}"

    def _raw(self, data: bytes) -> tuple[int, bytes]:
        with self._connect() as line:
            line.sendall(data)
            got = b""
            with contextlib.suppress(ConnectionResetError):
                while part := line.recv(65_536):
                    got += part
        head, _, body = got.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def _gone(self, rng: random.Random) -> tuple[str, str]:
        data = self._long_request(stream=rng.random() < 0.5)
        with self._connect() as line:
            place = rng.choice(("head", "body", "sent", "reading"))
            if place == "head":
                line.sendall(data[: rng.randrange(1, 60)])
            elif place == "body":
                line.sendall(data[:-20])
            else:
                line.sendall(data)
                if place == "reading" and b'"stream": true' in data:
                    line.recv(300)
            if rng.random() < 0.5:  # a reset in place of a friendly end
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return "gone", ""

    def _not_reading(self) -> tuple[str, str]:
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        line.connect(("127.0.0.1", self.port))
        line.sendall(self._long_request(stream=True))
        with self._lock:
            self._unread.append(line)
            oldest = self._unread.popleft() if len(self._unread) > UNREAD else None
        if oldest is not None:
            oldest.close()
        return "not reading", ""

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS)

    def _long_request(self, *, stream: bool) -> bytes:
        path, body, _ = chat(
            max_tokens=self.long_tokens, stream=stream, logprobs=True, top_logprobs=5
        )
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def make_model(folder: Path) -> Path:
    """A tiny random model."""
    texts = ["The cat sat on the mat. What is on the hill? A house, and a dog in it.\n"] * 40
    train_tokenizer(
        iter(texts),
        folder / "tokenizer",
        vocab_size=340,
        reserved_pieces=16,
        character_coverage=1.0,
        max_sentence_bytes=4_096,
        training_bytes=100_000,
    )
    model = Decoder(TINY)
    initialize(model, seed=3)
    save_checkpoint(folder / NAME, model, folder / "tokenizer", facts={"stage": "sft"})
    return folder / NAME


@contextlib.contextmanager
def serving(model: str, memory_gb: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`afm serve` in a process, and its port."""
    code = "import sys; from afm_cli import main; sys.exit(main())"
    words = ["serve", model, "--port", "0", "--memory-gb", str(memory_gb)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()
        assert address, "the server did not start"
        yield process, int(address[0].rsplit(":", 1)[1])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def resident_mb(pid: int) -> float:
    """Memory of a process, in 10^6 bytes, as the system counts it."""
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return int(found.stdout) * 1_024 / 1e6


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--memory-gb", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    fullest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        with serving(str(model), options.memory_gb) as (process, port):
            abuse = Abuse(port, seed=options.seed)
            greedy = chat(temperature=0, max_tokens=30)
            before = json.loads(abuse.ask(greedy)[1])["choices"]
            began = time.perf_counter()
            print("| requests | process MB | MLX MB | of budget MB |\n|---|---|---|---|")
            step = max(1, options.requests // 10)
            for start in range(0, options.requests, step):
                abuse.run(range(start, min(start + step, options.requests)))
                health = abuse.health()
                print(
                    f"| {start + step:,} | {resident_mb(process.pid):,.0f} "
                    f"| {health['memory_bytes'] / 1e6:,.1f} | {health['budget_bytes'] / 1e6:,.0f} |"
                )
                fullest = max(fullest, health["memory_bytes"] / health["budget_bytes"])
                if health["memory_bytes"] > health["budget_bytes"]:
                    abuse.failures.append("the memory budget was exceeded")
            seconds = time.perf_counter() - began
            abuse.close()
            while (health := abuse.health())["answering"] + health["waiting"]:
                time.sleep(0.1)
            if json.loads(abuse.ask(greedy)[1])["choices"] != before:
                abuse.failures.append("the server answers otherwise than before")
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
            if code != 0:
                abuse.failures.append(f"Ctrl-C ended it with code {code}")
    print(f"\n{options.requests:,} requests in {seconds:.0f} s, {os.cpu_count()} cores")
    print(", ".join(f"{kind} {count:,}" for kind, count in sorted(abuse.counts.items())))
    for failure in abuse.failures[:20]:
        print(f"FAILED {failure}")
    if options.json:
        values = [[len(abuse.failures)], [fullest]]
        figures = dict(zip(BENCH.figures, values, strict=True))
        options.json.write_text(json.dumps({"figures": figures}))
    sys.exit(1 if abuse.failures else 0)


if __name__ == "__main__":
    main()
