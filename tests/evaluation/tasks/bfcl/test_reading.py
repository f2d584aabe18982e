"""Calls are read however a model writes them, and words are no calls."""

import json

import pytest

from afm_mlx.evaluation.tasks.bfcl.matching import Called
from afm_mlx.evaluation.tasks.bfcl.reading import NoCallsError, read_calls
from afm_mlx.inference.calls import ToolFormat

F, G = Called("f", {"a": 1}), Called("m.g", {"b": "x", "c": [True, None]})
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {}}} for name in ("f", "m.g")
]
F_JSON = '{"name": "f", "arguments": {"a": 1}}'
G_JSON = '{"name": "m.g", "arguments": {"b": "x", "c": [true, null]}}'


@pytest.mark.parametrize(
    "answer",
    [
        f"<tool_call>{F_JSON}</tool_call>\n<tool_call>{G_JSON}</tool_call>",
        f"<tool_call>\n{F_JSON}\n</tool_call><tool_call>\n{G_JSON}",
        f"I will look.\n<tool_call>[{F_JSON}, {G_JSON}]</tool_call>",
        f"<think>Perhaps h(a=2)?</think>\n<tool_call>{F_JSON}\n{G_JSON}</tool_call>",
        "<tool_call>[f(a=1), m.g(b='x', c=[True, None])]</tool_call>",
        f"[{F_JSON}, {G_JSON}]",
        f"{F_JSON}\n{G_JSON}",
        f"{F_JSON}; {G_JSON}",
        f"```json\n[{F_JSON}, {G_JSON}]\n```",
        f"[{F_JSON}, {G_JSON}]".replace("arguments", "parameters"),
        f'[{{"function": {F_JSON}}}, {{"type": "function", "function": {G_JSON}}}]',
        '[{"f": {"a": 1}}, {"m.g": {"b": "x", "c": [true, null]}}]',
        json.dumps([
            {"name": "f", "arguments": '{"a": 1}'},
            {"name": "m.g", "arguments": json.dumps(G.arguments)},
        ]),
        "[f(a=1), m.g(b='x', c=[True, None])]",
        "f(a=1), m.g(b='x', c=[True, None])",
        "```python\n[f(a=1), m.g(b='x', c=[True, None])]\n```",
        "`f(a=1), m.g(b='x', c=[True, None])`",
        "[f(a=1), m.g(b='x', c=[True, None])",
    ],
)  # fmt: skip
def test_two_calls_are_read(answer):
    assert read_calls(answer, TOOLS) == [F, G]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "A",
        "[]",
        "I cannot do that.",
        "You could call f(a=1) for that.",
        "Sure: [f(a=1)]",
        '{"answer": 42}',
        '["f"]',
        "<tool_call></tool_call>",
        '<tool_call>{"name": "f", "arguments": {"a": </tool_call>',
        f"<tool_call>{F_JSON}</tool_call><tool_call>nonsense</tool_call>",
        '{"name": "f", "arguments": "a=1"}',
        '{"name": 5, "arguments": {}}',
        "f(**x)",
        "f(a=9**9**9)",
        "f(a=1/0)",
        "f(a=f'{x}')",
        "f()(a=1)",
        "[" * 5_000,
        "f(a=" + "(" * 5_000,
    ],
)
def test_what_is_no_call_is_said_to_be_none(answer):
    with pytest.raises(NoCallsError):
        read_calls(answer, TOOLS)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("-3", -3),
        ("+1.5", 1.5),
        ("2 * 3 + 1", 7),
        ("'a' + 'b'", "ab"),
        ("(1, [2])", (1, [2])),
        ("{'k': {'l': 1}}", {"k": {"l": 1}}),
        ("true", "true"),  # a name, and so a text, as on the leaderboard
        ("x[1]", "x[1]"),
        ("g(1)", "g(1)"),
        ("g(b=1)", {"g": {"b": 1}}),
        ("...", "..."),
        (r"'\d'", "\\d"),
    ],
)
def test_values_of_python_are_read(written, value):
    assert read_calls(f"[f(a={written})]") == [Called("f", {"a": value})]


def test_a_models_own_marks_are_read_by_its_own_parser():
    def parse(text, tools):
        name, _, value = text.partition("|")
        return {"name": name, "arguments": {"a": int(value)}}

    own = ToolFormat("[CALL]", "[END]", parse, is_json=False)
    assert read_calls("So: [CALL]f|1[END] [CALL]f|2[END]", TOOLS, own) == [
        F,
        Called("f", {"a": 2}),
    ]
    with pytest.raises(NoCallsError, match="cannot be read"):
        read_calls("[CALL]f|one[END]", TOOLS, own)
