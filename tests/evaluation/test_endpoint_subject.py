"""Asking an endpoint: a server that fails on purpose, one that is gone, and our own."""

import contextlib
import itertools
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from afm_mlx.errors import RunError
from afm_mlx.evaluation.endpoint import Endpoint
from afm_mlx.evaluation.endpoint_subject import PROBE, EndpointSubject
from afm_mlx.evaluation.items import Answer, Choice, Mark, Option, Passage, Question, Refusal
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.subject import TOO_LONG
from afm_mlx.inference.calls import parse_answer
from afm_mlx.inference.tools import declared_tool

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


def test_answers_come_with_what_the_server_says_of_them():
    replies = {"a": said("It is."), "b": said("It", finish_reason="length"), "c": said(None or "")}
    found, server = ask(lambda body: (200, replies[asked_of(body)], {}), "a", "b", "c")
    assert found["a"] == Answer("It is.", "stop", 6)
    assert found["b"] == Answer("It", "length", 2)
    assert found["c"] == Answer("", "stop", 0)
    assert server.bodies[0] == {
        "model": "one",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 9,
        "temperature": 0.0,
    }
    assert "Authorization" not in server.headers[0]
    assert server.headers[0]["User-Agent"] == "afm-mlx"


def test_messages_stops_and_forms_are_sent_and_a_key_goes_with_them():
    server = Server(lambda body: (200, said("one two THREE four"), {}))
    schema = {"type": "object", "properties": {}}
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
    question = Question("k", messages, 9, stop=(*"56789", " THREE"), schema=schema)
    with serving(server) as url:
        who = EndpointSubject(endpoint(url, key="sk-1"), temperature=None)
        assert dict(who.answer([question])) == {0: Answer("one two", "stop", 18)}
    (body,) = server.bodies
    assert body["messages"] == list(messages)
    assert body["stop"] == list("5678")
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert "temperature" not in body
    assert server.headers[0]["Authorization"] == "Bearer sk-1"


def test_calls_of_tools_come_as_our_own_models_write_them():
    declared = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    call = {"id": "1", "type": "function", "function": {"name": "weather"}}
    call["function"]["arguments"] = '{"city": "Lyon"}'
    body = said("")
    body["choices"][0]["message"] = {"content": None, "tool_calls": [call, call]}
    server = Server(lambda body_: (200, body, {}))
    with serving(server) as url:
        question = Question("k", "u", 9, tools=(declared,))
        ((_, answer),) = EndpointSubject(endpoint(url)).answer([question])
    assert server.bodies[0]["tools"] == [declared]
    calls = parse_answer(answer.text, [declared_tool(declared)]).calls
    assert [(call.name, call.arguments, call.problem) for call in calls] == [
        ("weather", {"city": "Lyon"}, "")
    ] * 2


def test_several_are_asked_at_once():
    together = threading.Barrier(4, timeout=WAIT_SECONDS)

    def reply(body):
        together.wait()  # breaks unless four are here at once
        return 200, said(asked_of(body)), {}

    texts = [f"q{n}" for n in range(8)]
    found, _ = ask(reply, *texts, together=4)
    assert {key: answer.text for key, answer in found.items()} == {text: text for text in texts}


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


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((500, wrong("out of order"), {}), "status 500"),
        ((400, wrong("too long", code="context_length_exceeded"), {}), TOO_LONG),
        ((400, wrong("This model's maximum context length is 8"), {}), TOO_LONG),
        ((400, {"error": "exceeds the context size"}, {}), TOO_LONG),
        ((400, wrong("not nice"), {}), "status 400"),
        ((200, b"nonsense", {}), "no JSON came back"),
        ((0, b"", {}), "the connection broke"),
        ((200, said("", finish_reason="content_filter"), {}), "filtered by the endpoint"),
    ],
)
def test_one_question_that_a_server_cannot_answer_is_refused_and_the_others_answered(reply, reason):
    found, _ = ask(
        lambda body: reply if asked_of(body) == "bad" else (200, said("fine"), {}),
        *("a", "bad", "b"),
        tries=2,
    )
    assert found["bad"] == Refusal(reason)
    assert found["a"].text == found["b"].text == "fine"


def test_a_request_that_no_question_could_please_ends_the_run():
    error = failing(lambda body: (400, wrong("'response_format' is not supported"), {}), "a", "b")
    assert "says 400: 'response_format' is not supported" in str(error)


def test_fields_that_a_model_does_not_take_are_left_away_or_renamed():
    def reply(body):
        for name in ("max_tokens", "stop"):
            if name in body:
                return 400, wrong("Unsupported", param=name, code="unsupported_parameter"), {}
        return 200, said("It is. Q: and"), {}

    server = Server(reply)
    asked = [Question(f"q{n}", "hello", 9, stop=(" Q:",)) for n in range(6)]
    with serving(server) as url:
        found = dict(EndpointSubject(endpoint(url), together=3).answer(asked))
    assert {answer.text for answer in found.values()} == {"It is."}
    assert server.bodies[-1]["max_completion_tokens"] == 9
    error = failing(
        lambda body: (400, wrong("No.", param="temperature", code="unsupported_value"), {})
    )
    assert "says 400: No." in str(error)


def test_likelihoods_are_not_to_be_had():
    who = EndpointSubject(Endpoint("http://127.0.0.1:1", "one", key=""))
    choice = Choice("c", (Option("It is", " a cat"), Option("It is", " a dog")), 0)
    for asking in (lambda: who.choose([choice]), lambda: who.read([Passage("p", "It is.")])):
        with pytest.raises(RunError, match=r"127\.0\.0\.1 does not tell") as caught:
            asking()
        assert caught.value.hint == "name a model on this machine instead of an endpoint"
    assert list(who.choose([])) == list(who.read([])) == []


def test_a_task_that_needs_likelihoods_leaves_nothing_behind(quiet, tmp_path):
    class Texts(Letters):
        def items(self):
            return [*super().items(), Passage("p", "It is.")]

    who = EndpointSubject(Endpoint("http://127.0.0.1:1", "one", key=""))
    with pytest.raises(RunError, match="compares how likely texts are"):
        run_task(Texts(), who, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_who_has_heard_enough_leaves_no_thread_behind():
    def threads():
        return [each for each in threading.enumerate() if each.name == "afm-endpoint"]

    with serving(Server()) as url:
        answers = EndpointSubject(endpoint(url), together=2).answer(questions(*"abcdefgh"))
        next(answers)
        answers.close()
        for thread in threads():
            thread.join(WAIT_SECONDS)
        assert threads() == []


class Letters:
    """A task: say a letter back."""

    name = "letters"
    settings: dict = {}  # noqa: RUF012
    figures = {"right": "share"}  # noqa: RUF012

    def items(self):
        return questions(*"abcdefgh")

    def mark(self, item, reply):
        return {"right": Mark(float(isinstance(reply, Answer) and reply.text == item.key))}

    def kept(self, item, reply):
        return {}


def test_a_run_goes_on_after_the_server_came_back(quiet, tmp_path):
    good = Server(lambda body: (200, said(asked_of(body)), {}))
    dying = Server()
    answered = itertools.count()
    dying.reply = lambda body: good.reply(body) if next(answered) < 3 else (500, {}, {})
    with serving(dying) as url:
        who = EndpointSubject(endpoint(url, tries=2), together=1)
        with pytest.raises(RunError, match="gives no answer: status 500"):
            run_task(Letters(), who, tmp_path / "run", quiet)
    with pytest.raises(RunError, match="gives no answer: connection refused"):
        run_task(Letters(), EndpointSubject(endpoint(url)), tmp_path / "run", quiet)
    with serving(good) as url:  # at another port
        result = run_task(Letters(), EndpointSubject(endpoint(url)), tmp_path / "run", quiet)
    assert sorted(good.texts) == list("defgh")
    assert (result.scores["right"].value, result.refused) == (1, {})


def test_what_came_before_a_failure_is_kept_though_others_were_under_way(quiet, tmp_path):
    under_way, failed = threading.Barrier(3, timeout=WAIT_SECONDS), threading.Event()

    def reply(body):
        if asked_of(body) in ("a", "b", "c"):
            under_way.wait()
        if asked_of(body) == "a":
            failed.set()
            return 401, wrong("no"), {}
        failed.wait(WAIT_SECONDS)
        return 200, said(asked_of(body)), {}

    with serving(Server(reply)) as url, pytest.raises(RunError, match="says 401"):
        run_task(Letters(), EndpointSubject(endpoint(url), together=3), tmp_path / "run", quiet)
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} >= {"b", "c"}


def test_a_bad_hour_of_a_server_costs_no_answer(quiet, tmp_path):
    bad = [(500, {}, {}), (0, b"", {}), (200, b"<html>", {}), (429, {}, {})]
    times = Counter()

    def reply(body):
        text = asked_of(body)
        times[text] += 1
        return bad[times[text] - 1] if times[text] <= 4 else (200, said(text), {})

    with serving(Server(reply)) as url:
        who = EndpointSubject(endpoint(url), together=4)
        result = run_task(Letters(), who, tmp_path / "run", quiet)
    assert result.scores["right"].value == 1
    assert set(times.values()) == {5}
