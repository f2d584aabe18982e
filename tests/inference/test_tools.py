"""Tools: declared, rendered, parsed, checked, called; and guided, so that calls always pass."""

import json
import random
from datetime import date
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field

from afm_mlx.errors import DataError
from afm_mlx.inference.calls import (
    JSON_CALLS,
    Call,
    for_template,
    parse_answer,
    result_message,
    run_call,
    tool_format,
    tool_guide,
)
from afm_mlx.inference.guided import Guides
from afm_mlx.inference.tools import declared_tool, tool_of
from afm_mlx.text.chat import render_chat
from afm_mlx.text.tokenizer import Tokenizer


def tokens_in(bits: np.ndarray) -> list[int]:
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()


class Place(BaseModel):
    city: str
    country: str = "FR"


def weather(
    place: Place,
    day: date,
    unit: Literal["C", "F"] = "C",
    hours: Annotated[int, Field(ge=1, le=24)] = 3,
) -> dict[str, object]:
    """Weather forecast of a place.

    More for people than for models.

    Args:
        place: where, as precisely
            as it is known.
        day (date): of the forecast.
        unit: of temperatures.
    """
    return {"city": place.city, "weekday": day.isoweekday(), "unit": unit, "hours": hours}


def now() -> str:
    """The time of day."""
    return "12:30"


def broken(json: int) -> int:
    """Fails."""
    return 1 // (json - json)


TOOLS = [tool_of(weather), tool_of(now), tool_of(broken)]
DECLARED = declared_tool(
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search.",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "minLength": 1},
                    "limit": {"type": "integer", "maximum": 9},
                },
                "required": ["query"],
                "additionalProperties": False,
            },
        },
    }
)
GOOD = {"place": {"city": "Lyon"}, "day": "2025-03-02"}


def call_text(name, arguments):
    return f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(arguments)}}}</tool_call>'


def test_a_function_is_declared_by_its_hints_and_docstring():
    schema = TOOLS[0].schema
    assert schema["type"] == "function"
    assert schema["function"]["name"] == "weather"
    assert schema["function"]["description"] == "Weather forecast of a place."
    parameters = schema["function"]["parameters"]
    assert parameters["required"] == ["place", "day"]
    assert parameters["additionalProperties"] is False
    assert parameters["properties"]["day"] == {
        "description": "of the forecast.",
        "format": "date",
        "type": "string",
    }
    assert parameters["properties"]["unit"]["enum"] == ["C", "F"]
    assert parameters["properties"]["hours"]["maximum"] == 24
    assert parameters["properties"]["place"]["description"] == "where, as precisely as it is known."
    assert "title" not in json.dumps(schema)
    json.dumps(schema)


def test_a_function_without_parameters_is_a_tool():
    parameters = TOOLS[1].schema["function"]["parameters"]
    assert parameters["properties"] == {}
    assert TOOLS[1].call({}) == "12:30"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def f(x): pass", "'x' has no type hint"),
        ("def f(*x: int): pass", "'x' cannot be given by name"),
        ("def f(x: int, /): pass", "'x' cannot be given by name"),
        ("async def f(x: int): pass", "is a coroutine"),
        ("def f(x: object()): pass", "cannot be read|no JSON form"),
        ("def f(x: 'Place2'): pass", "cannot be read"),
        ("class Own: pass\ndef f(x: Own): pass", "no JSON form"),
        ("f = lambda x: x", "cannot be a tool's name"),
        ("def auto(): pass\nf = auto", "cannot be called 'auto'"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused(source, words):
    space: dict = {}
    exec(source, space)
    with pytest.raises(DataError, match=words):
        tool_of(space["f"])


@pytest.mark.parametrize(
    ("declaration", "words"),
    [
        ({}, "must be declared as a function"),
        ({"function": {"name": "a b"}}, "cannot be a tool's name"),
        ({"function": {"name": "a", "parameters": {"type": "strin"}}}, "schema at #/type"),
        ({"function": {"name": "a", "parameters": {"type": "string"}}}, "must be an object"),
    ],
)
def test_a_declaration_that_is_wrong_is_refused(declaration, words):
    with pytest.raises(DataError, match=words):
        declared_tool(declaration)


def test_a_call_gets_objects_and_its_result_is_text():
    result = json.loads(TOOLS[0].call({**GOOD, "hours": 5}))
    assert result == {"city": "Lyon", "weekday": 7, "unit": "C", "hours": 5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"place": {"city": "Lyon"}}, "day: field required"),
        ({**GOOD, "day": "tomorrow"}, "day: input should be a valid date"),
        ({**GOOD, "hours": 99}, "hours: input should be less than or equal to 24 (it is 99)"),
        ({**GOOD, "place": {}}, "place.city: field required"),
        ({**GOOD, "colour": 1}, "colour: extra inputs are not permitted"),
    ],
)
def test_problems_of_a_function_name_the_place(arguments, words):
    (problem,) = TOOLS[0].problems(arguments)
    assert words in problem
    with pytest.raises(DataError, match="tool 'weather': "):
        TOOLS[0].call(arguments)


def test_problems_of_a_declared_tool_name_the_place():
    assert DECLARED.problems({"query": "x"}) == []
    problems = DECLARED.problems({"query": "", "limit": 10, "x": 1})
    assert len(problems) == 3
    assert any(problem.startswith("limit: 10 is greater") for problem in problems)
    with pytest.raises(DataError, match="no function"):
        DECLARED.call({"query": "x"})


def test_an_answer_is_taken_apart_into_text_and_calls():
    text = f"Let me see. {call_text('weather', GOOD)}{call_text('now', {})}"
    reply = parse_answer(text, TOOLS)
    assert reply.text == "Let me see."
    assert [call.name for call in reply.calls] == ["weather", "now"]
    assert reply.calls[0].arguments == GOOD
    assert not any(call.problem for call in reply.calls)
    assert len({call.id for call in reply.calls}) == 2
    assert parse_answer("Hello <b>", TOOLS).calls == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<tool_call>{"name": "now", "argu', "not in the form"),
        ("<tool_call>[1]</tool_call>", "a call must be"),
        (call_text("wether", {}), "no tool 'wether'; there is weather, now, broken"),
        (call_text("weather", {"place": {"city": 3}}), "place.city"),
        ('<tool_call>{"name": "now", "arguments": [1]}</tool_call>', "must be an object"),
        ('<tool_call>{"name": "now", "arguments": "x"}</tool_call>', "not JSON"),
    ],
)
def test_what_a_model_got_wrong_is_a_problem_that_it_can_read(text, words):
    (call,) = parse_answer(text, TOOLS).calls
    assert words in call.problem
    assert run_call(call, TOOLS) == f"error: {call.problem}"


def test_a_tool_that_fails_says_so_to_the_model():
    (call,) = parse_answer(call_text("broken", {"json": 3}), TOOLS).calls
    assert run_call(call, TOOLS).startswith("error: broken failed: ZeroDivisionError: ")
    assert run_call(Call("1", "nothing", {}), TOOLS).startswith("error: there is no tool 'nothing'")


def test_a_conversation_with_calls_can_be_rendered(tokenizer_folder):
    tokenizer = Tokenizer.open(tokenizer_folder)
    reply = parse_answer(f"Wait. {call_text('weather', GOOD)}", TOOLS)
    (call,) = reply.calls
    messages = [
        {"role": "user", "content": "Weather?"},
        reply.message,
        result_message(call, run_call(call, TOOLS)),
    ]
    assert json.loads(reply.message["tool_calls"][0]["function"]["arguments"]) == GOOD
    ids = render_chat(tokenizer, for_template(messages), tools=[tool.schema for tool in TOOLS])
    text = tokenizer.decode(ids)
    assert call_text("weather", GOOD) in text
    assert '<turn:tool>{"city":"Lyon"' in text


def test_arguments_that_are_no_json_stay_text():
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}
    assert for_template([message]) == [message]


def test_the_format_of_our_template_is_json_calls(tokenizer_folder):
    found = tool_format(tokenizer_folder)
    assert (found.start, found.end, found.is_json) == (JSON_CALLS.start, JSON_CALLS.end, True)
    reply = parse_answer(call_text("now", {}), TOOLS, found)
    assert [call.name for call in reply.calls] == ["now"]


def test_a_model_without_tools_has_no_calls():
    assert parse_answer(call_text("now", {}), TOOLS, None).calls == ()


@pytest.fixture(scope="session")
def guides(tokenizer_folder) -> Guides:
    return Guides(Tokenizer.open(tokenizer_folder), 384)


def babble(guides, guide, seed, max_tokens):
    """Ids of an answer by a model that knows nothing, and begins a call one time in ten."""
    draw = random.Random(seed)
    state, said = guide.start(max_tokens), []
    begin = guides.tokenizer.piece_id("<tool_call>")
    for _ in range(max_tokens):
        allowed = tokens_in(state.allowed())
        chance = draw.random()
        token = begin if begin in allowed and chance < 0.1 else draw.choice(allowed)
        if chance > 0.95 and guides.tokenizer.eos_id in allowed:
            return said
        if token in guides.tokenizer.eos_ids:
            return said
        state.accept(token)
        said.append(token)
    raise AssertionError(guides.tokenizer.decode(said))


@pytest.mark.parametrize("choice", ["auto", "required", "weather", "now"])
def test_every_call_of_a_guided_babble_passes(guides, choice):
    tools = [*TOOLS, DECLARED]
    guide = tool_guide(guides, tools, choice)
    counts = []
    for seed in range(12):
        ids = babble(guides, guide, seed, guide.least_tokens + 400)
        reply = parse_answer(guides.tokenizer.decode(ids), tools)
        counts.append(len(reply.calls))
        assert not any(call.problem for call in reply.calls), reply
        if choice != "auto":
            assert reply.text == ""
        if choice in ("weather", "now"):
            assert [call.name for call in reply.calls] == [choice]
    assert max(counts) >= 1
    assert (min(counts) == 0) == (choice == "auto")
    if choice == "required":
        assert max(counts) > 1


def test_calls_are_one_at_a_time_if_asked(guides):
    guide = tool_guide(guides, TOOLS, "required", parallel=False)
    for seed in range(6):
        text = guides.tokenizer.decode(babble(guides, guide, seed, guide.least_tokens + 100))
        assert len(parse_answer(text, TOOLS).calls) == 1


def test_nothing_is_guided_where_there_is_nothing_to_guide(guides):
    assert tool_guide(guides, TOOLS, "none") is None
    assert tool_guide(guides, [], "auto") is None
    assert tool_guide(guides, TOOLS, "auto", format=None) is None
    with pytest.raises(DataError, match="cannot be guided"):
        tool_guide(guides, TOOLS, "required", format=None)
    with pytest.raises(DataError, match="there is no tool 'x'"):
        tool_guide(guides, TOOLS, "x")


def test_parameters_that_cannot_be_guided_are_named(guides):
    parameters = {"type": "object", "properties": {"a": {"not": {}}}}
    tool = declared_tool({"function": {"name": "odd", "parameters": parameters}})
    assert tool_guide(guides, [tool], "auto") is None
    with pytest.raises(DataError, match="tool 'odd': schema at #/properties/a/not"):
        tool_guide(guides, [tool], "required")
