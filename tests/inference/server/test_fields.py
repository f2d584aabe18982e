"""Fields of requests: what is known, and what is said about mistakes."""

import json

import pytest

from afm_mlx.inference.server.api import Chat, Completion
from afm_mlx.inference.server.fields import NOT_HERE, WITHOUT_EFFECT, read_body
from afm_mlx.inference.server.problems import Problem

ASK = {"messages": [{"role": "user", "content": "x"}]}


def refused(kind, body) -> Problem:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Problem) as caught:
        read_body(kind, raw)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_field_without_effect_may_have_any_value(name):
    for value in ("x", {"a": [1]}, None):
        assert read_body(Chat, json.dumps(ASK | {name: value}).encode()) == Chat(**ASK)


@pytest.mark.parametrize("name", NOT_HERE)
def test_a_field_that_cannot_be_obeyed_is_refused_unless_it_asks_for_nothing(name):
    harmless, reason = NOT_HERE[name]
    for value in (None, *harmless):
        read_body(Chat, json.dumps(ASK | {name: value}).encode())
    problem = refused(Chat, ASK | {name: "something else"})
    assert problem.code == "unsupported"
    assert problem.param == name
    assert reason in str(problem)


def test_null_is_what_is_not_there():
    fields = [name for name in Chat.model_fields if name not in ("messages",)]
    assert read_body(Chat, json.dumps(ASK | dict.fromkeys(fields)).encode()) == Chat(**ASK)


def test_a_text_is_no_number_and_true_is_no_one():
    assert refused(Chat, ASK | {"max_tokens": "8"}).param == "max_tokens"
    assert refused(Chat, ASK | {"n": True}).param == "n"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"a": NaN}', b"\xff", b"[" * 10_000, b'{"a": "\\ud800"}']
)
def test_what_is_no_json_is_said_to_be_none(body):
    assert refused(Chat, body).code == "invalid_json"


def test_a_mistake_deep_inside_has_its_place():
    turns = [{"role": "user", "content": [{"type": "text", "txt": "x"}]}]
    assert refused(Chat, {"messages": turns}).param == "messages[0].content[0].txt"


def test_both_forms_of_one_prompt_and_of_several_are_told_apart():
    for prompt, read in (
        ("a", ["a"]),
        ([1, 2], [[1, 2]]),
        (["a"], ["a"]),
        ([[1], [2]], [[1], [2]]),
    ):
        assert read_body(Completion, json.dumps({"prompt": prompt}).encode()).prompt == read
