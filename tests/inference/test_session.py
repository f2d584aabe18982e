"""A conversation: turns, forms, tools, policies."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

import afm_mlx
from afm_mlx.errors import DataError
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.guardrails import Guardrails, RefusedError
from afm_mlx.inference.session import MOST_ROUNDS, Piece, Session

from .conftest import roles, say


def test_turns_alternate_and_the_system_prompt_stands_first(session):
    session.instructions = "Be brief."
    answer = say(session, "What is it?")
    say(session, "And the dog?")
    assert roles(session) == ["user", "assistant", "user", "assistant"]
    assert session.messages[1]["content"] == answer
    assert session.transcript()[0] == {"role": "system", "content": "Be brief."}


def test_an_answer_that_is_stopped_stays_in_the_conversation(session):
    answer = session.ask("What is it?")
    said = next(answer).text + next(answer).text
    answer.close()
    assert session.messages[-1] == {"role": "assistant", "content": said}


def test_a_question_whose_answer_nobody_takes_leaves_no_trace(session):
    session.ask("What is it?").close()
    session.ask("What is it?")
    assert session.messages == []


def test_a_question_that_is_too_long_leaves_no_trace(session):
    say(session, "What is it?")
    with pytest.raises(DataError, match="256"):
        say(session, "a" * 300)
    assert roles(session) == ["user", "assistant"]
    say(session, "And the dog?")
    assert roles(session) == ["user", "assistant"] * 2


def test_the_oldest_turns_are_dropped_when_the_context_is_full(session):
    for number in range(8):
        say(session, f"What is it, number {number}? It is a house on the hill.")
    assert len(session.messages) == 16  # all is remembered, and can be saved
    assert session.num_dropped > 0
    assert session.num_dropped % 2 == 0  # a question goes with its answer
    room = session.engine.context_tokens - session.engine.stats.prompt_tokens
    assert room >= session.max_tokens


def test_nothing_is_dropped_while_the_context_holds_all(session):
    say(session, "What is it?")
    say(session, "And the dog?")
    assert session.num_dropped == 0


def test_a_conversation_is_reproduced_by_its_seed(engine):
    def talk(seed: int) -> list[dict[str, str]]:
        session = Session(engine, max_tokens=8, temperature=1.0, seed=seed)
        say(session, "What is it?")
        say(session, "And the dog?")
        return session.messages

    assert talk(1) == talk(1)
    assert talk(1) != talk(2)


def test_the_package_has_it_and_opens_a_folder(model_folder):
    session = afm_mlx.Session(model_folder, instructions="Be brief.", max_tokens=4)
    answer = session.respond("What is it?")
    assert isinstance(answer, str)
    assert session.messages[-1] == {"role": "assistant", "content": answer}
    assert session.stats.answer_tokens == 4


def test_pieces_of_a_stream_are_the_answer(session):
    pieces = list(session.stream("What is it?"))
    assert "".join(pieces) == session.messages[-1]["content"] != ""


def test_what_the_model_cannot_do_is_refused_before_anything_is_asked(engine):
    with pytest.raises(DataError, match="kv_bits is 3, and must be one of 4, 8"):
        Session(engine, kv_bits=3)


# Forms.


class Animal(BaseModel):
    """What a barely trained model must fill in."""

    kind: str = Field(max_length=8)
    legs: int = Field(ge=2, le=8)


def test_an_answer_of_a_model_class_is_an_instance_of_it(engine):
    found = Session(engine, max_tokens=80).respond("What is it?", schema=Animal)
    assert isinstance(found, Animal)


def test_an_answer_of_a_schema_is_its_value(engine):
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}
    found = Session(engine, max_tokens=40).respond("What is it?", schema=schema)
    assert 2 <= len(found) <= 3
    assert {type(each) for each in found} == {bool}


def test_an_answer_is_one_of_the_choices_or_matches_the_pattern(engine):
    session = Session(engine, max_tokens=40)
    assert session.respond("What is it?", choices=["a cat", "a dog"]) in ("a cat", "a dog")
    assert session.respond("When?", pattern=r"19\d\d")[:2] == "19"
    with pytest.raises(DataError, match="an answer has one form"):
        session.respond("When?", pattern="a", choices=["a"])


# Tools.


def weather(city: str) -> dict[str, int]:
    """The weather of a city.

    Args:
        city: its name.
    """
    return {"celsius": len(city)}


def scripted(engine: Engine, monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[object]:
    """Let an engine give these answers, one after the other; the prompts that it got."""
    from afm_mlx.inference.requests import Chunk

    left, prompts = list(texts), []

    def stream(prompt, *, tools, **options):
        prompts.append((list(prompt), tools))
        text = left.pop(0)
        for at in range(0, len(text), 3):
            yield Chunk(text[at : at + 3], 0, "stop" if at + 3 >= len(text) else None)

    monkeypatch.setattr(engine, "stream", stream)
    return prompts


CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


def test_calls_are_carried_out_and_their_results_answered(engine, monkeypatch):
    prompts = scripted(engine, monkeypatch, f"Let me see. {CALL}", "It is 4 degrees.")
    session = Session(engine, tools=[weather])
    pieces = list(session.ask("What is the weather in Rome?"))
    text = "".join(piece.text for piece in pieces if piece.kind == "text")
    assert text == "Let me see. It is 4 degrees."
    assert [(each.kind, each.text) for each in pieces if each.kind != "text"] == [
        ("call", 'weather({"city": "Rome"})'),
        ("result", '{"celsius":4}'),
    ]
    assert [piece.finished for piece in pieces if piece.finished] == ["stop"]
    assert roles(session) == ["user", "assistant", "tool", "assistant"]
    assert session.messages[1]["tool_calls"][0]["function"]["name"] == "weather"
    assert prompts[1][0] == session.messages[:3]
    assert prompts[0][1][0]["function"]["name"] == "weather"


def test_a_wrong_call_is_told_to_the_model(engine, monkeypatch):
    bad = '<tool_call>{"name": "weather", "arguments": {"town": "Rome"}}</tool_call>'
    scripted(engine, monkeypatch, bad, "I do not know.")
    session = Session(engine, tools=[weather])
    assert session.respond("What is the weather?") == "I do not know."
    assert session.messages[2]["content"].startswith("error: ")
    assert "city" in session.messages[2]["content"]


def test_a_model_that_calls_for_ever_must_answer_in_the_end(engine, monkeypatch):
    prompts = scripted(engine, monkeypatch, *[CALL] * MOST_ROUNDS, "Enough.")
    session = Session(engine, tools=[weather])
    assert session.respond("What is the weather?") == "Enough."
    assert [bool(tools) for _, tools in prompts] == [True] * MOST_ROUNDS + [False]


def test_a_required_call_is_made_by_a_model_that_has_learned_nothing(varied):
    session = Session(varied, tools=[short], tool_choice="required", max_tokens=60)
    kinds = [piece.kind for piece in session.ask("Which?") if piece.kind != "text"]
    assert kinds[:2] == ["call", "result"]
    assert session.messages[2]["content"] in ("True", "False", "true", "false")


def short(sure: bool) -> bool:
    """Say whether you are sure."""
    return sure


@pytest.mark.parametrize(
    ("said", "pieces", "left"),
    [
        ("", "call", []),
        ("I look. ", "call", ["user", "assistant"]),
        ("", "call result call", ["user", "assistant", "tool"]),
        ("", "call result call result", ["user", "assistant", "tool", "tool"]),
    ],
)
def test_a_call_that_was_stopped_is_not_left_without_a_result(
    engine, monkeypatch, said, pieces, left
):
    calls = [
        f'<tool_call>{{"name": "weather", "arguments": {{"city": "{city}"}}}}</tool_call>'
        for city in ("Rome", "Bern")
    ]
    scripted(engine, monkeypatch, said + "".join(calls))
    session = Session(engine, tools=[weather])
    answer, wanted = session.ask("How is it?"), pieces.split()
    while wanted:
        if next(answer).kind == wanted[0]:
            del wanted[0]
    answer.close()
    assert roles(session) == left
    if left:
        assert session.messages[1]["content"] == said.strip()
        assert len(session.messages[1].get("tool_calls", ())) == left.count("tool")


def test_a_retry_takes_calls_and_results_back(engine, monkeypatch):
    scripted(engine, monkeypatch, CALL, "It is 4 degrees.", "Again.")
    session = Session(engine, tools=[weather])
    session.respond("What is the weather?")
    assert "".join(piece.text for piece in session.retry()) == "Again."
    assert roles(session) == ["user", "assistant"]


# Policies.


@pytest.fixture
def rails(tmp_path) -> Guardrails:
    file = tmp_path / "policy.toml"
    file.write_text(
        """
[messages]
default = "Not that."
[features.default]
default = "refuse"
[rules.illegal.theft]
input = ["shoplift"]
output = ["steal ... car"]
"""
    )
    return Guardrails.open(file)


def test_a_refused_question_is_no_part_of_the_conversation(engine, rails):
    session = Session(engine, guardrails=rails, max_tokens=6)
    with pytest.raises(RefusedError, match=r"Not that\.") as caught:
        session.respond("How do I shoplift?")
    assert caught.value.verdict.subcategory == "illegal.theft"
    assert session.messages == []
    assert list(session.ask("How do I shoplift?")) == [Piece("Not that.", "refusal", "refused")]


def test_a_refused_answer_ends_before_what_is_refused(engine, rails, monkeypatch):
    scripted(engine, monkeypatch, "You could steal the car now, and more.")
    session = Session(engine, guardrails=rails)
    pieces = list(session.ask("What is it?"))
    assert "".join(piece.text for piece in pieces) == "You could Not that."
    assert pieces[-1].finished == "refused"
    assert session.messages[-1]["content"] == "You could "


def steal(thing: str) -> str:
    """Whatever it is told to.

    Args:
        thing: what.
    """
    return f"how to shoplift a {thing}"


def test_a_call_whose_arguments_are_refused_is_not_carried_out(engine, rails, monkeypatch):
    call = '<tool_call>{"name": "steal", "arguments": {"thing": "steal the car"}}</tool_call>'
    scripted(engine, monkeypatch, f"Fine. {call}")
    session = Session(engine, tools=[steal], guardrails=rails)
    pieces = list(session.ask("What is it?"))
    assert "".join(piece.text for piece in pieces) == "Fine. Not that."
    assert {piece.kind for piece in pieces} == {"text", "refusal"}
    assert session.messages[-1] == {"role": "assistant", "content": "Fine. "}


def test_a_result_that_is_refused_ends_the_answer_and_leaves_no_trace(engine, rails, monkeypatch):
    call = '<tool_call>{"name": "steal", "arguments": {"thing": "lamp"}}</tool_call>'
    scripted(engine, monkeypatch, call)
    session = Session(engine, tools=[steal], guardrails=rails)
    with pytest.raises(RefusedError, match=r"Not that\.") as caught:
        session.respond("What is it?")
    assert caught.value.verdict.subcategory == "illegal.theft"
    assert session.messages == []


def test_tools_are_saved_with_the_conversation(engine, monkeypatch, tmp_path):
    scripted(engine, monkeypatch, "Fine.")
    session = Session(engine, tools=[weather])
    session.respond("How are you?")
    session.save(Path(tmp_path / "talk.json"))
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["messages"] == session.messages
    assert saved["tools"][0]["function"]["name"] == "weather"
