"""A server that answers as it is told to, wrongly too, and ways to ask it."""

import contextlib
import itertools
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from afm_mlx.errors import RunError
from afm_mlx.evaluation.endpoint import Endpoint
from afm_mlx.evaluation.endpoint_subject import EndpointSubject
from afm_mlx.evaluation.items import Question

WAIT_SECONDS = 30


def said(text, **choice):
    """The body of a completion."""
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"completion_tokens": len(text)},
    }


def wrong(message, **more):
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


def asked_of(body):
    return body["messages"][-1]["content"]


class Server:
    """Answers what `reply` gives for a request's body: a status, a body and headers.

    The status 0 closes the connection without a word, and 1 after half of the answer.
    """

    def __init__(self, reply=lambda body: (200, said(f"To {asked_of(body)}"), {})):
        self.reply, self.bodies, self.headers = reply, [], []
        self.models = (200, {"data": [{"id": "one"}, {"id": "two"}]}, {})
        self.closing = threading.Event()

    def handle(self, request):
        if request.command == "GET":
            return self.send(request, *self.models)
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.send(request, *self.reply(body))

    def send(self, request, status, body, headers):
        if status == 0:
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.send_response(max(status, 200))
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(raw[: len(raw) // 2] if status == 1 else raw)

    @property
    def texts(self):
        """What was asked, in order."""
        return [asked_of(body) for body in self.bodies]


@contextlib.contextmanager
def serving(server, certificate=None):
    """Run a server; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            with contextlib.suppress(OSError):  # whoever asked is gone
                server.handle(self)

        do_GET = do_POST

        def log_message(self, *args):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, address):
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{http.server_port}"
    finally:
        server.closing.set()
        http.shutdown()
        http.server_close()
        thread.join(WAIT_SECONDS)


def endpoint(url, **more):
    return Endpoint(url, "one", **{"key": "", "wait_seconds": 0.01} | more)


def questions(*texts, **more):
    return [Question(text, text, 9, **more) for text in texts]


def ask(reply, *texts, together=1, temperature=0.0, **more):
    """Replies by what was asked, of a server that replies so; and the server."""
    server = Server(reply) if callable(reply) else Server()
    asked = questions(*texts or ("hello",))
    with serving(server) as url:
        who = EndpointSubject(endpoint(url, **more), together=together, temperature=temperature)
        return {asked[place].key: reply for place, reply in who.answer(asked)}, server


def in_turn(*replies):
    """Reply by reply, and well from then on."""
    left = itertools.chain(replies, itertools.repeat(None))

    def reply(body):
        return next(left) or (200, said("fine"), {})

    return reply


def failing(reply, *texts, **more):
    """The error of asking a server that replies so."""
    with pytest.raises(RunError) as caught:
        ask(reply, *texts, **more)
    assert len(str(caught.value).splitlines()) == 1
    assert len(caught.value.hint.splitlines()) <= 1
    return caught.value
