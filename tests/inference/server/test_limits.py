"""Limits, and clients that go away or do not read."""

import json
import socket

import openai
import pytest

from afm_mlx.inference.server.limits import Limits

from .conftest import HELLO, eventually, is_idle, running

LONG = {"model": "tiny", "messages": HELLO, "max_tokens": 1_900, "temperature": 0}


def raw(body: dict, path: str = "/v1/chat/completions") -> bytes:
    """A request as it is sent."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(adapted):
    with running(adapted, limits=Limits(body_bytes=10_000)) as server:
        long = b"{" + b" " * 1_000_000 + b"}"
        status, _, body = server.post("/v1/chat/completions", long)
        assert (status, body["error"]["code"]) == (413, "body_too_large")
        assert "10,000 bytes" in body["error"]["message"]
        with server.connect() as line:
            line.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            line.sendall((b"3e8\r\n" + b" " * 1_000 + b"\r\n") * 20 + b"0\r\n\r\n")
            assert line.recv(4_096).startswith(b"HTTP/1.1 413 ")
        assert server.post("/v1/chat/completions", LONG | {"max_tokens": 2})[0] == 200


def test_a_request_that_does_not_arrive_is_cut(adapted):
    with running(adapted, limits=Limits(body_seconds=0.2)) as server:
        for begin in (b"", b"POST /v1/chat", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"):
            with server.connect() as line:
                line.sendall(begin)
                assert line.recv(4_096) == b""
        with server.connect() as line:
            line.sendall(raw(LONG)[:-5])
            assert line.recv(4_096).startswith(b"HTTP/1.1 408 ")


def test_what_is_no_http_is_answered_with_json(server):
    with server.connect() as line:
        line.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = b""
        while part := line.recv(4_096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["message"] == "this is not HTTP"


def test_a_prompt_has_a_limit_of_its_own(adapted):
    with running(adapted, limits=Limits(prompt_tokens=20)) as server:
        with pytest.raises(openai.BadRequestError, match="20 is the most here") as caught:
            server.openai().completions.create(model="tiny", prompt=[5] * 21, max_tokens=1)
        assert caught.value.code == "context_length_exceeded"
        server.openai().completions.create(model="tiny", prompt=[5] * 20, max_tokens=1)


def test_an_answer_without_a_limit_gets_what_the_server_gives(adapted):
    with running(adapted, limits=Limits(max_tokens=7)) as server:
        answer = server.openai().chat.completions.create(model="tiny", messages=HELLO)
        assert answer.usage.completion_tokens == 7


def test_what_does_not_fit_the_memory_is_a_bad_request(adapted):
    with running(adapted, memory_gb=0.03) as server:
        client = server.openai()
        with pytest.raises(openai.BadRequestError, match="memory budget") as caught:
            client.completions.create(model="tiny", prompt=[5] * 1_000, max_tokens=1_000)
        assert caught.value.code == "memory_budget"
        client.completions.create(model="tiny", prompt=[5] * 10, max_tokens=2)


def test_a_full_queue_says_when_to_come_again(adapted):
    with running(adapted, max_together=1, max_waiting=1) as server:
        client = server.openai()
        streams = [client.chat.completions.create(**LONG, stream=True) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**LONG)
        assert caught.value.response.headers["retry-after"] == "1"
        assert caught.value.code == "busy"
        with pytest.raises(openai.RateLimitError):  # and none of its answers is left behind
            client.chat.completions.create(**LONG, n=2)
        for stream in streams:
            stream.close()
        assert eventually(lambda: is_idle(server))
        client.chat.completions.create(**LONG | {"max_tokens": 2})


def test_an_answer_that_takes_too_long_is_ended(adapted):
    with running(adapted, limits=Limits(seconds=0.3)) as server:
        client = server.openai(max_retries=2)  # told not to try again
        with pytest.raises(openai.APIStatusError, match=r"0\.3 seconds") as caught:
            client.chat.completions.create(**LONG)
        assert caught.value.status_code == 408
        with (
            client.chat.completions.create(**LONG, stream=True) as stream,
            pytest.raises(openai.APIError, match=r"0\.3 seconds"),
        ):
            list(stream)
        assert eventually(lambda: is_idle(server))


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_computed_for_a_client_that_went_away(server, stream):
    with server.connect() as line:
        line.sendall(raw(LONG | {"stream": stream, "n": 2}))
        assert eventually(lambda: server.service.batcher.load.answering == 2)
    assert eventually(lambda: is_idle(server))


def test_a_reader_that_stops_reading_holds_up_nobody_and_is_cut(adapted):
    limits = Limits(unsent_chunks=50)
    many = {"max_tokens": 1_900, "logprobs": True, "top_logprobs": 20, "n": 8, "stream": True}
    with running(adapted, limits=limits, send_bytes=8_192) as server, socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)  # small, to be full soon
        line.connect(("127.0.0.1", server.port))
        line.sendall(raw(LONG | many))
        assert eventually(lambda: server.service.batcher.load.answering == 8)
        assert eventually(lambda: is_idle(server))
        quick = server.openai().chat.completions.create(**LONG | {"max_tokens": 2})
        assert quick.usage.completion_tokens == 2
        got = b""
        while part := line.recv(1_000_000):
            got += part
        assert got.startswith(b"HTTP/1.1 200 ")
        assert b"[DONE]" not in got
        assert server.said == []


def test_answers_in_work_end_with_an_error_when_the_server_is_closed(adapted):
    with running(adapted) as server:
        with server.openai().chat.completions.create(**LONG, stream=True) as stream:
            next(stream)
            server.service.close()
            with pytest.raises(openai.APIError, match="shutting down"):
                list(stream)
        with pytest.raises(openai.InternalServerError) as caught:
            server.openai().chat.completions.create(**LONG)
        assert caught.value.status_code == 503
