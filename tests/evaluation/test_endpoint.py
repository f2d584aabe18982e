"""What an endpoint does about a server that fails, is busy, gone, or not who it should be."""

import itertools
import shutil
import socket
import subprocess
import time

import pytest

from afm_mlx.errors import RunError
from afm_mlx.evaluation.endpoint_subject import PROBE, EndpointSubject
from tests.evaluation.failing_server import (
    WAIT_SECONDS,
    Server,
    ask,
    endpoint,
    failing,
    in_turn,
    questions,
    said,
    serving,
    wrong,
)


@pytest.mark.parametrize(
    "bad",
    [
        (500, wrong("out of order"), {}),
        (502, b"<html>Bad gateway</html>", {}),
        (503, {}, {}),
        (429, wrong("slowly"), {}),
        (0, b"", {}),
        (1, said("It is."), {}),
        (200, b"It is.", {}),
        (200, b"[" * 20_000, {}),
        (200, b"\xff", {}),
        (200, {}, {}),
        (200, [], {}),
        (200, {"choices": []}, {}),
        (200, {"choices": [{"text": "It is."}]}, {}),
        (200, {"choices": [{"message": "It is."}]}, {}),
    ],
)
def test_what_may_pass_is_tried_again(bad):
    found, server = ask(in_turn(bad, bad, None), "hello")
    assert found["hello"].text == "fine"
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ((500, wrong("out of order"), {}), "gives no answer: status 500: out of order"),
        ((502, b"<html>Bad gateway</html>", {}), "gives no answer: status 502"),
        ((429, wrong("slowly"), {}), "gives no answer: status 429: slowly"),
        ((0, b"", {}), "gives no answer: remote end closed"),
        ((200, b"It is.", {}), "gives no answer: what came back is no JSON"),
        ((200, {"choices": []}, {}), "gives no answer: what came back is no chat completion"),
    ],
)
def test_what_does_not_pass_ends_the_run_with_the_reason(bad, words):
    error = failing(lambda body: bad, tries=3)
    assert words in str(error)
    assert "run again then: what is done is kept" in error.hint


def test_each_wait_is_about_twice_the_one_before():
    times = []

    def reply(body):
        times.append(time.monotonic())
        return (200, said("fine"), {}) if len(times) == 4 else (500, {}, {})

    ask(reply, "hello", wait_seconds=0.1)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(wait >= 0.075 * 2**number for number, wait in enumerate(waits))


def test_a_server_is_waited_for_as_long_as_it_asks():
    busy = (429, wrong("slowly"), {"Retry-After": "1"})
    began = time.monotonic()
    found, server = ask(in_turn(busy), "a", "b", together=2)
    assert time.monotonic() - began >= 1
    assert all(answer.text == "fine" for answer in found.values())
    assert len(server.bodies) == 3


def test_a_server_that_asks_for_too_long_a_wait_ends_the_run_at_once():
    began = time.monotonic()
    error = failing(lambda body: (429, {}, {"Retry-After": "3600"}))
    assert "asks to wait 3,600 seconds" in str(error)
    assert time.monotonic() - began < WAIT_SECONDS


def test_an_account_without_credit_is_not_asked_again():
    server_said = wrong("You exceeded your quota", code="insufficient_quota")
    error = failing(in_turn((429, server_said, {})))
    assert "You exceeded your quota" in str(error)


def test_an_answer_that_is_late_is_not_asked_for_again():
    server = Server()
    server.reply = lambda body: (server.closing.wait(WAIT_SECONDS), (0, b"", {}))[1]
    with serving(server) as url, pytest.raises(RunError, match=r"no answer within 0\.2 seconds"):
        list(EndpointSubject(endpoint(url, timeout_seconds=0.2)).answer(questions("hello")))
    assert server.texts == ["hello", PROBE]


def test_an_answer_that_drips_is_late_too():
    class Dripping(Server):
        def send(self, request, status, body, headers):
            request.send_response(200)
            request.end_headers()
            while not self.closing.wait(0.05):
                request.wfile.write(b" ")

    with serving(Dripping()) as url, pytest.raises(RunError, match="no answer within"):
        list(EndpointSubject(endpoint(url, timeout_seconds=0.3)).answer(questions("hello")))


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_taken_is_told_once_and_not_shown(status):
    said_key = wrong("Incorrect API key provided: sk-secret.")
    asked = []
    error = failing(lambda body: (asked.append(1), (status, said_key, {}))[1], key="sk-secret")
    assert f"says {status}: Incorrect API key provided: ..." in str(error)
    assert "OPENAI_API_KEY" in error.hint
    assert len(asked) == 1


def test_an_unknown_model_is_answered_with_those_that_are_there():
    error = failing(lambda body: (404, wrong("no such model"), {}))
    assert "says 404: no such model; the model asked for is 'one'" in str(error)
    assert error.hint == "models there: one, two"


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_key_is_not_sent_to_where_a_server_points(status):
    visited = []
    server = Server()
    server.send = lambda *args: visited.append(args)
    with serving(server) as there:
        error = failing(lambda body: (status, b"", {"Location": f"{there}/v1"}), key="sk-1")
    assert f"has moved to {there}/v1" in str(error)
    assert visited == []


def test_a_server_that_is_not_there_is_told_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    who = EndpointSubject(endpoint(f"http://127.0.0.1:{port}", wait_seconds=WAIT_SECONDS))
    with pytest.raises(RunError, match=f"127.0.0.1:{port} gives no answer: connection refused"):
        list(who.answer(questions("a", "b")))


def test_a_plain_server_is_not_taken_for_one_of_https():
    with serving(Server()) as url, pytest.raises(RunError, match="does not talk TLS") as caught:
        list(EndpointSubject(endpoint(url.replace("http", "https"))).answer(questions("a")))
    assert caught.value.hint == "for a plain server, write http://"


def test_other_machines_are_asked_through_a_proxy_and_this_one_is_not(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Server()) as url:
        monkeypatch.setenv("http_proxy", url)
        far = EndpointSubject(endpoint("http://models.invalid"))
        assert [answer.text for _, answer in far.answer(questions("a"))] == ["To a"]
        monkeypatch.setenv("http_proxy", "http://proxy.invalid")
        near = EndpointSubject(endpoint(url))
        assert [answer.text for _, answer in near.answer(questions("a"))] == ["To a"]


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    pem = tmp_path / "own.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout - -out -"
    made = subprocess.run(["openssl", *words.split()], capture_output=True, check=True)
    pem.write_bytes(made.stdout)
    with serving(Server(), pem) as url, pytest.raises(RunError, match="cannot be verified"):
        list(EndpointSubject(endpoint(url)).answer(questions("a")))


def test_a_request_that_no_question_could_please_ends_the_run():
    error = failing(lambda body: (400, wrong("'response_format' is not supported"), {}), "a", "b")
    assert "says 400: 'response_format' is not supported" in str(error)
