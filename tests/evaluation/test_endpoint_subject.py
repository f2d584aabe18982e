"""Asking an endpoint: what is sent, what comes back, and what is refused."""

import threading

import pytest

from afm_mlx.errors import RunError
from afm_mlx.evaluation.endpoint import Endpoint
from afm_mlx.evaluation.endpoint_subject import EndpointSubject
from afm_mlx.evaluation.items import Answer, Choice, Option, Passage, Question, Refusal
from afm_mlx.evaluation.subject import TOO_LONG
from afm_mlx.inference.calls import parse_answer
from afm_mlx.inference.tools import declared_tool
from tests.evaluation.failing_server import (
    WAIT_SECONDS,
    Server,
    ask,
    asked_of,
    endpoint,
    failing,
    questions,
    said,
    serving,
    wrong,
)


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
