"""Chats through the real `openai` client."""

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

from afm_mlx.inference.engine import Engine

from .conftest import HELLO, WAIT_SECONDS, with_adapters

GREEDY = {"model": "tiny", "messages": HELLO, "temperature": 0}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "maxLength": 8}, "days": {"enum": [1, 2]}},
            "required": ["town", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def alone(adapted_folder) -> Engine:
    """The same model, not served."""
    return with_adapters(adapted_folder)


def text_of(stream) -> str:
    return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices[:1])


def test_a_greedy_answer_is_the_engines_own(client, alone):
    answer = client.chat.completions.create(**GREEDY, max_tokens=12)
    (choice,) = answer.choices
    said = "".join(chunk.text for chunk in alone.stream(HELLO, max_tokens=12))
    assert choice.message.content == said != ""
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"


def test_usage_counts_prompt_answer_and_what_was_cached(client, alone):
    question = [{"role": "user", "content": "Where is the cat, and where is the dog? " * 4}]
    first, second = (
        client.chat.completions.create(model="tiny", messages=question, max_tokens=5).usage
        for _ in range(2)
    )
    assert first.prompt_tokens == second.prompt_tokens == len(alone.prompt_ids(question))
    assert first.completion_tokens == second.completion_tokens == 5
    assert first.total_tokens == first.prompt_tokens + 5
    assert second.prompt_tokens_details.cached_tokens > first.prompt_tokens_details.cached_tokens


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = client.chat.completions.create(**GREEDY, max_tokens=12)
    chunks = list(client.chat.completions.create(**GREEDY, max_tokens=12, stream=True))
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_begins_before_the_answer_ends(server, client):
    stream = client.chat.completions.create(**GREEDY, max_tokens=1_000, stream=True)
    first = next(chunk for chunk in stream if chunk.choices[0].delta.content)
    assert server.service.batcher.load.answering == 1
    assert first.choices[0].finish_reason is None
    stream.close()


def test_a_stream_ends_with_its_usage_where_that_is_asked_for(client):
    *chunks, last = client.chat.completions.create(
        **GREEDY, max_tokens=6, stream=True, stream_options={"include_usage": True}
    )
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == 6


def test_the_same_seed_gives_the_same_answer_and_several_answers_differ(client):
    def ask(seed, n=1):
        answer = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=10, temperature=1, seed=seed, n=n
        )
        assert [choice.index for choice in answer.choices] == list(range(n))
        return [choice.message.content for choice in answer.choices]

    three = ask(7, n=3)
    assert len(set(three)) == 3
    assert [*ask(7), *ask(8), *ask(9)] == three


def test_answers_without_a_seed_differ(client):
    said = {
        client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=10)
        .choices[0]
        .message.content
        for _ in range(6)
    }
    assert len(said) > 1


def test_several_answers_stream_side_by_side(client):
    said = {0: "", 1: ""}
    ends = {}
    for chunk in client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=10, seed=7, n=2, stream=True
    ):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    whole = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=10, seed=7, n=2)
    assert list(said.values()) == [choice.message.content for choice in whole.choices]
    assert ends == {0: "length", 1: "length"}


@pytest.mark.parametrize("one", [True, False])
def test_an_answer_ends_before_a_stop_text(client, one):
    whole = client.chat.completions.create(**GREEDY, max_tokens=20).choices[0].message.content
    stop = whole[5:8]
    stops = stop if one else ["\u2603 not said", stop]
    (choice,) = client.chat.completions.create(**GREEDY, max_tokens=20, stop=stops).choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == whole[: whole.index(stop)]


def test_logprobs_are_those_of_the_token_that_was_chosen(client, alone):
    (choice,) = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=8,
        temperature=2,
        seed=3,
        logprobs=True,
        top_logprobs=3,
    ).choices
    expected = list(alone.stream(HELLO, max_tokens=8, temperature=2, seed=3, top_logprobs=3))
    found = choice.logprobs.content
    assert [entry.logprob for entry in found] == pytest.approx(
        [chunk.logprob for chunk in expected], abs=1e-4
    )
    assert [len(entry.top_logprobs) for entry in found] == [3] * 8
    texts = [alone.tokenizer.decode([chunk.token]) for chunk in expected]
    assert [entry.token for entry in found] == texts
    tops = [[other.token for other in entry.top_logprobs] for entry in found]
    assert any(text not in top for text, top in zip(texts, tops, strict=True))  # at this heat
    whole = [entry for entry in found if "\ufffd" not in entry.token]
    assert all(bytes(entry.bytes).decode() == entry.token for entry in whole)
    assert whole


def test_logprobs_come_in_a_stream_too(client):
    options = GREEDY | {"max_tokens": 8, "logprobs": True}
    whole = client.chat.completions.create(**options).choices[0].logprobs.content
    chunks = client.chat.completions.create(**options, stream=True)
    found = [
        entry
        for chunk in chunks
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in found] == [entry.token for entry in whole]
    assert all(entry.top_logprobs == [] for entry in found)


def test_the_name_of_the_model_chooses_the_adapter(client, alone):
    said = {}
    for name in ("tiny", "tiny:a", "tiny:b", "tiny:a", "tiny"):
        answer = client.chat.completions.create(**GREEDY | {"model": name}, max_tokens=10)
        said.setdefault(name, set()).add(answer.choices[0].message.content)
    assert [len(texts) for texts in said.values()] == [1, 1, 1]
    assert len(set.union(*said.values())) == 3
    alone.use_adapter("b")
    expected = "".join(chunk.text for chunk in alone.stream(HELLO, max_tokens=10))
    alone.use_adapter(None)
    assert said["tiny:b"] == {expected}


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["tiny", "tiny:a", "tiny:b"]
    assert client.models.retrieve("tiny:a").id == "tiny:a"


@pytest.mark.parametrize("name", ["tiny:c", "gpt-4o", "../../etc/passwd", "tiny:../a", "x" * 500])
def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(client, name):
    with pytest.raises(openai.NotFoundError, match="there are tiny, tiny:a, tiny:b") as caught:
        client.chat.completions.create(**GREEDY | {"model": name})
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert len(caught.value.message) < 600
    with pytest.raises(openai.NotFoundError, match="there are tiny"):
        client.models.retrieve(name)


def test_a_conversation_with_parts_and_an_earlier_answer_is_read(client, alone):
    first = client.chat.completions.create(**GREEDY, max_tokens=4).choices[0].message
    parts = [{"type": "text", "text": "And the "}, {"type": "text", "text": "dog?"}]
    talk = [
        {"role": "system", "content": "Say little."},
        *HELLO,
        first,
        {"role": "user", "content": parts},
    ]
    answer = client.chat.completions.create(model="tiny", messages=talk, max_tokens=3)
    plain = [
        {"role": "system", "content": "Say little."},
        *HELLO,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "And the dog?"},
    ]
    assert answer.usage.prompt_tokens == len(alone.prompt_ids(plain))


class Animal(BaseModel):
    """What a schema describes."""

    name: str
    legs: int
    tame: bool


def test_a_json_schema_gives_the_answer_its_form(client):
    answer = client.chat.completions.parse(
        model="tiny", messages=HELLO, response_format=Animal, max_tokens=200, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Animal)
    assert answer.choices[0].finish_reason == "stop"


def test_a_json_schema_holds_in_a_stream(client):
    schema = {"type": "array", "items": {"enum": ["cat", "dog"]}, "minItems": 2, "maxItems": 4}
    stream = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        seed=1,
        max_tokens=200,
        stream=True,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "animals", "schema": schema, "strict": True},
        },
    )
    animals = json.loads(text_of(stream))
    assert 2 <= len(animals) <= 4
    assert set(animals) <= {"cat", "dog"}


def test_any_json_object_can_be_asked_for(client):
    (choice,) = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        seed=1,
        max_tokens=60,
        response_format={"type": "json_object"},
    ).choices
    assert isinstance(json.loads(choice.message.content), dict)


def test_a_tool_that_must_be_called_is_called_with_arguments_of_its_schema(client):
    (choice,) = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        seed=1,
        max_tokens=200,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    ).choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert (call.type, call.function.name) == ("function", "weather")
    arguments = json.loads(call.function.arguments)
    assert arguments.keys() == {"town", "days"}
    assert arguments["days"] in (1, 2)
    assert len(arguments["town"]) <= 8


def test_calls_come_in_a_stream_and_results_go_back(client):
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            seed=2,
            max_tokens=200,
            tools=[WEATHER],
            tool_choice="required",
            parallel_tool_calls=False,
            stream=True,
        )
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert len(calls) == 1
    assert json.loads(calls[0].function.arguments)["days"] in (1, 2)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    said = {"name": calls[0].function.name, "arguments": calls[0].function.arguments}
    talk = [
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": calls[0].id, "type": "function", "function": said}],
        },
        {"role": "tool", "tool_call_id": calls[0].id, "content": '{"celsius": 21}'},
    ]
    answer = client.chat.completions.create(
        model="tiny", messages=talk, tools=[WEATHER], tool_choice="none", max_tokens=4
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content


def test_tools_that_may_be_called_leave_text_alone(client):
    for seed in range(3):
        (choice,) = client.chat.completions.create(
            model="tiny", messages=HELLO, seed=seed, max_tokens=40, tools=[WEATHER]
        ).choices
        for call in choice.message.tool_calls or ():
            assert json.loads(call.function.arguments).keys() == {"town", "days"}
        assert choice.message.tool_calls or choice.message.content


def wrong(**fields):
    return GREEDY | {"max_tokens": 4} | fields


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        (wrong(messages=[]), "messages", "at least 1 item"),
        (wrong(messages=[{"role": "bob", "content": "x"}]), "messages[0].role", "'user'"),
        (wrong(messages=[{"role": "user"}]), "messages[0]", "needs content"),
        (wrong(max_tokens=-1), "max_tokens", "greater than or equal to 1"),
        (wrong(max_tokens=10**6), "max_tokens", "this server writes 4,096 at most"),
        (wrong(temperature=-1), "temperature", "greater than or equal to 0"),
        (wrong(temperature="warm"), "temperature", "valid number"),
        (wrong(n=1_000), "n", "at most"),
        (wrong(stop=["x"] * 99), "stop", "16 texts at most"),
        (wrong(top_logprobs=3), None, "needs logprobs"),
        (wrong(logit_bias={"3": 1}), "logit_bias", "not supported"),
        (wrong(frequency_penalty=0.5), "frequency_penalty", "no penalties"),
        (wrong(extra_body={"temprature": 1}), "temprature", "did you mean 'temperature'?"),
        (wrong(tools=[WEATHER, WEATHER]), None, "same name"),
        (wrong(tool_choice="required"), None, "needs tools"),
        (
            wrong(response_format={"type": "json_schema", "json_schema": {"name": "a"}}),
            "response_format.json_schema.schema",
            "missing",
        ),
        (
            wrong(
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "animal"}},
                }
            ),
            "response_format",
            "schema",
        ),
        (wrong(messages=[{"role": "user", "content": "cat " * 3_000}]), "messages", "tokens"),
    ],
)
def test_a_mistake_is_a_bad_request_that_names_the_field(client, options, param, said):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**options)
    assert said in caught.value.message
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_fields_that_change_nothing_here_are_taken(client):
    answer = client.chat.completions.create(
        **GREEDY,
        max_completion_tokens=3,
        user="me",
        store=False,
        metadata={"a": "b"},
        presence_penalty=0,
        service_tier="auto",
    )
    assert answer.usage.completion_tokens == 3


def test_sixteen_streams_at_once_say_what_each_would_say_alone(server, client, alone):
    questions = [f"What is {number} and the cat?" for number in range(16)]

    async def ask(asking, question):
        stream = await asking.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": question}],
            max_tokens=24,
            temperature=0,
            stream=True,
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all():
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=WAIT_SECONDS
        ) as asking:
            return await asyncio.gather(*(ask(asking, question) for question in questions))

    said = asyncio.run(ask_all())
    expected = ["".join(c.text for c in alone.stream(q, max_tokens=24)) for q in questions]
    assert said == expected
