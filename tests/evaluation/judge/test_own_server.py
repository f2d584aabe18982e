"""Our own server as the judge's endpoint, from prompts to figures."""

import threading
from contextlib import contextmanager

import pytest

from afm_mlx.errors import RunError
from afm_mlx.evaluation.answers import Appending, read_answers
from afm_mlx.evaluation.endpoint import Endpoint
from afm_mlx.evaluation.endpoint_subject import EndpointSubject
from afm_mlx.evaluation.items import Question, Refusal
from afm_mlx.evaluation.judge.asking import Judge
from afm_mlx.evaluation.judge.comparing import Comparing
from afm_mlx.evaluation.judge.grading import Grading
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.subject import TOO_LONG
from afm_mlx.evaluation.writing import write_answers
from afm_mlx.inference.batches import Batcher
from afm_mlx.inference.server.app import make_app
from afm_mlx.inference.server.limits import Limits
from afm_mlx.inference.server.names import Names
from afm_mlx.inference.server.run import Server, listen
from afm_mlx.inference.server.service import Service

WAIT_SECONDS = 60
KEY = "a-key-of-the-server"


@contextmanager
def serving(engine):
    """A server in a thread; gives its URL."""
    service = Service(Batcher(engine), Names("tiny", []), Limits(), None)
    said: list[str] = []
    app = make_app(service, loopback=True, api_key=KEY, say=said.append)
    sock = listen("127.0.0.1", 0)
    server = Server(app, Limits())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        service.close()
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        sock.close()
    assert said == []


@pytest.fixture
def url(long_engine):
    with serving(long_engine) as found:
        yield found


def test_answers_grades_and_comparisons_come_from_a_server(url, prompts, quiet, tmp_path):
    who = EndpointSubject(Endpoint(url, "tiny", key=KEY), name="judge", together=2)
    for name, max_tokens in (("mine", 12), ("theirs", 5)):
        with Appending(tmp_path / f"{name}.jsonl", name, {}) as file:
            write_answers(who, prompts[:2], file, max_tokens=max_tokens)
    mine, theirs = (read_answers(tmp_path / f"{name}.jsonl") for name in ("mine", "theirs"))
    grading = Grading(prompts[:2], mine, max_tokens=300)
    graded = run_task(grading, Judge(who, of="mine"), tmp_path / "graded", quiet)
    assert graded.scores["unreadable"].value == 0
    comparing = Comparing(prompts[:2], mine, theirs, max_tokens=150)
    compared = run_task(comparing, Judge(who, of="mine"), tmp_path / "compared", quiet)
    assert compared.scores["unreadable"].value == 0
    assert compared.settings["judge_endpoint"] == "127.0.0.1"


def test_a_server_of_ours_says_what_is_wrong_in_words_that_are_passed_on(url):
    def ask(model="tiny", key=KEY, text="The cat", **more):
        asked = [Question("q", text, 4, **more)]
        return list(EndpointSubject(Endpoint(url, model, key=key)).answer(asked))

    with pytest.raises(RunError, match="says 401"):
        ask(key="")
    with pytest.raises(RunError, match="the model asked for is 'huge'") as caught:
        ask(model="huge")
    assert caught.value.hint == "models there: tiny"
    assert ask(text="cat " * 20_000) == [(0, Refusal(TOO_LONG))]
    with pytest.raises(RunError, match="tokens or more, and may have 4 here"):
        ask(
            schema={"type": "object", "properties": {"a": {"const": "long" * 9}}, "required": ["a"]}
        )


def test_a_server_that_was_shut_down_is_refused_with_the_reason(long_engine):
    with serving(long_engine) as url:
        port = int(url.rpartition(":")[2])
    who = EndpointSubject(Endpoint(url, "tiny", key=KEY))
    with pytest.raises(RunError, match=f"127.0.0.1:{port} gives no answer") as caught:
        list(who.answer([Question("q", "The cat", 4)]))
    assert "is a server at" in caught.value.hint
