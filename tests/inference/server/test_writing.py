"""What may be told of an answer, piece by piece."""

import pytest

from afm_mlx.inference.calls import JSON_CALLS
from afm_mlx.inference.requests import Chunk
from afm_mlx.inference.server.writing import Piece, TokenTexts, Writing
from afm_mlx.inference.tools import declared_tool
from afm_mlx.text.tokenizer import Tokenizer

LOOK = declared_tool({"type": "function", "function": {"name": "look", "parameters": {}}})


@pytest.fixture
def texts(tokenizer_folder):
    return TokenTexts(Tokenizer.open(tokenizer_folder))


def chunks_of(text, size=1, finished="stop"):
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    return [Chunk(part, 5, None) for part in parts] + [Chunk("", 1, finished)]


def told(writing, chunks):
    pieces = [writing.add([chunk]) for chunk in chunks]
    assert writing.finished
    return "".join(piece.text for piece in pieces), pieces


@pytest.mark.parametrize("size", [1, 3, 100])
def test_text_before_a_call_is_told_and_the_call_is_not_told_as_text(texts, size):
    said = 'Let me see. <tool_call>{"name": "look", "arguments": {"at": "<b>"}}</tool_call>'
    writing = Writing(texts, tools=[LOOK], form=JSON_CALLS)
    text, pieces = told(writing, chunks_of(said, size))
    assert text.strip() == "Let me see."
    assert [call.name for call in pieces[-1].calls] == ["look"]
    assert pieces[-1].finish == "tool_calls"


def test_text_streams_while_it_begins_no_call(texts):
    writing = Writing(texts, tools=[LOOK], form=JSON_CALLS)
    assert writing.add([Chunk("a < b, <tool", 5, None)]).text == "a < b, "
    assert writing.add([Chunk("s> c", 5, None)]).text == "<tools> c"


def test_a_call_that_nobody_can_read_is_told_as_text(texts):
    said = "<tool_call>{look!}</tool_call>"
    text, pieces = told(Writing(texts, tools=[LOOK], form=JSON_CALLS), chunks_of(said))
    assert text == said
    assert (pieces[-1].calls, pieces[-1].finish) == ((), "stop")


def test_one_call_alone_is_told_where_one_is_wanted(texts):
    said = '<tool_call>{"name": "look", "arguments": {}}</tool_call>' * 2
    writing = Writing(texts, tools=[LOOK], form=JSON_CALLS, parallel=False)
    assert len(told(writing, chunks_of(said))[1][-1].calls) == 1


def test_without_tools_a_call_is_text(texts):
    said = '<tool_call>{"name": "look"}</tool_call>'
    assert told(Writing(texts, form=JSON_CALLS), chunks_of(said))[0] == said


@pytest.mark.parametrize(
    ("finished", "said"), [("stop", "stop"), ("length", "length"), ("context", "length")]
)
def test_ends_have_the_names_of_openai(texts, finished, said):
    assert Writing(texts).add(chunks_of("", finished=finished)) == Piece(finish=said)


def test_a_token_that_ends_the_answer_has_no_log_probability_in_it(texts):
    writing = Writing(texts)
    piece = writing.add([Chunk("a", 5, None, -0.5), Chunk("", 1, "stop", -0.1)])
    assert [token.logprob for token in piece.tokens] == [-0.5]


def test_a_token_that_cannot_be_has_a_number_that_json_has(texts):
    top = ((6, float("-inf")),)
    (token,) = Writing(texts).add([Chunk("a", 5, "length", -0.5, top)]).tokens
    assert token.top[0].logprob == -9_999
