from fractions import Fraction

import pytest

from afm_mlx.errors import DataError
from afm_mlx.settings.synthetic import Sandbox
from afm_mlx.synthetic.checks import as_number, final_number, passes, score, written_calls
from afm_mlx.synthetic.sandbox import layers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7\n#### 7", 7),
        ("#### 5 no, wait. #### 1,234", 1_234),
        ("#### $18", 18),
        ("#### -3.50", Fraction(-7, 2)),
        ("####12.", 12),
        ("The answer is 42.", 42),
        ("First 10, then 1,000,000 people", 1_000_000),
        ("It costs $2.50 each", Fraction(5, 2)),
        ("between 3-5", 5),
        ("x = -4", -4),
        ("a half is 1/2", Fraction(1, 2)),
        ("none here", None),
    ],
)
def test_the_number_is_that_of_the_last_mark_or_else_the_last(text, number):
    assert final_number(text) == number


def test_gsm8k_answers_give_their_own_numbers(real_data):
    import json

    lines = (real_data / "gsm8k" / "test.jsonl").read_text().splitlines()
    for line in lines:
        answer = json.loads(line)["answer"]
        assert final_number(answer) == as_number(answer.rpartition("####")[2])


def test_numbers_are_compared_by_value():
    check = {"kind": "number", "answer": "1250.5"}
    assert passes(check, "#### 1,250.50")
    assert not passes(check, "#### 1250")
    assert not passes(check, "")


CALL = {"name": "book", "arguments": {"city": "Oslo", "nights": 2}}


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ([CALL], True),
        ([{"name": "book", "arguments": {"nights": 2.0, "city": "Oslo"}}], True),
        ([{"name": "book", "arguments": '{"city": "Oslo", "nights": 2}'}], True),
        ([{"name": "book", "arguments": {"city": "Oslo", "nights": 2, "pool": False}}], True),
        ([{"name": "book", "arguments": {"city": "Oslo", "nights": 2, "pool": True}}], False),
        ([{"name": "book", "arguments": {"city": "Oslo", "nights": 2, "pool": 0}}], False),
        ([{"name": "book", "arguments": {"city": "Oslo", "nights": 2, "bar": 1}}], False),
        ([{"name": "book", "arguments": {"city": "Oslo", "nights": True}}], False),
        ([{"name": "book", "arguments": {"city": "Oslo"}}], False),
        ([{"name": "Book", "arguments": CALL["arguments"]}], False),
        ([CALL, CALL], False),
        ([], False),
    ],
)
def test_calls_are_compared_as_values(given, right):
    check = {"kind": "tool_calls", "calls": [CALL | {"optional": {"pool": [False]}}]}
    assert passes(check, "", given) is right


def test_parallel_calls_have_no_order_and_each_counts_once():
    other = {"name": "book", "arguments": {"city": "Rome", "nights": 2}}
    check = {"kind": "tool_calls", "calls": [CALL, other]}
    assert passes(check, "", [other, CALL])
    assert score(check, "", [CALL, CALL]) == 0.5
    assert score(check, "", [CALL]) == 0.5
    assert score(check, "", [CALL, other, CALL]) == pytest.approx(2 / 3)


def test_a_call_that_fits_two_is_given_to_the_one_that_has_no_other():
    loose = {"name": "f", "arguments": {}, "optional": {"x": [1, 2]}}
    strict = {"name": "f", "arguments": {"x": 1}}
    calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {"x": 2}}]
    assert passes({"kind": "tool_calls", "calls": [loose, strict]}, "", calls)


def test_calls_in_the_text_count_where_there_are_no_others():
    text = (
        'Sure.<tool_call>{"name": "book", "arguments": {"city": "Oslo", "nights": 2}}</tool_call>'
    )
    assert passes({"kind": "tool_calls", "calls": [CALL]}, text)
    assert written_calls("<tool_call>{broken</tool_call>") == [{"name": ""}]
    assert written_calls("[]") == written_calls("I can't do that.") == []


def test_no_call_is_right_where_none_is_wanted():
    check = {"kind": "tool_calls", "calls": []}
    assert passes(check, "Canberra.")
    assert not passes(check, "", [CALL])
    assert not passes(check, '<tool_call>{"name": "book", "arguments": {}}</tool_call>')


@pytest.mark.skipif(not layers(), reason="no sandbox here")
def test_the_score_of_tests_is_the_share_that_passes():
    code = "assert f(1) == 2\nassert f(2) == 3\ndef test_zero():\n    assert f(0) == 0"
    check = {"kind": "tests", "code": code}
    limits = Sandbox(cpu_seconds=2, wall_seconds=4.0)
    fenced = "Here:\n```python\ndef f(n):\n    return n + 1\n```\nDone."
    assert score(check, fenced, limits=limits) == pytest.approx(2 / 3)
    assert passes(check, "def f(n):\n    return n + (n > 0)", limits=limits)
    assert score(check, "no code at all", limits=limits) == 0
    assert score(check, "import os\nos._exit(0)", limits=limits) == 0


def test_constraints_texts_and_exact_answers():
    rules = [{"name": "at_most_words", "count": 3}, {"name": "lower_case"}]
    assert score({"kind": "constraints", "list": rules}, "One two") == 0.5
    assert passes({"kind": "exact", "answer": "a b"}, " a  b\n")
    assert not passes({"kind": "exact", "answer": "a b"}, "a B")
    check = {"kind": "contains", "texts": ["room 12", "Anna Moss"]}
    assert passes(check, "anna moss is in Room 12.")
    assert score(check, "Anna Moss is in room 123.") == 0.5


@pytest.mark.parametrize(
    "check",
    [
        {},
        {"kind": "vibes"},
        {"kind": "number"},
        {"kind": "number", "answer": "many"},
        {"kind": "tests", "code": "x = 1"},
        {"kind": "tests", "code": "assert ("},
        {"kind": "constraints", "list": [{"name": "rhymes"}]},
        {"kind": "constraints", "list": [{"name": "at_most_words", "words": 3}]},
        {"kind": "tool_calls"},
    ],
)
def test_a_check_that_cannot_be_read_is_an_error(check):
    with pytest.raises(DataError):
        passes(check, "some answer")
