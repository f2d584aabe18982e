"""What judges say, as they say it: what is clear is read, and nothing else."""

import json

import pytest

from afm_mlx.evaluation.dimensions import DIMENSIONS
from afm_mlx.evaluation.judge.reading import read_grades, read_verdict

GOOD = {name: {"reason": "It is.", "grade": "good"} for name in DIMENSIONS} | {"score": 9}


def test_the_form_that_was_asked_for_is_read():
    found = read_grades(json.dumps(GOOD))
    assert (found.score, set(found.grades.values())) == (9, {"good"})
    assert found.good
    assert not found.poor
    assert read_verdict('{"reason": "It says more.", "verdict": "A"}') == "A"


def test_of_several_complete_grades_the_last_ones_count():
    first = json.dumps(GOOD | {"score": 2})
    assert read_grades(f"First {first}, but on reflection {json.dumps(GOOD)}.").score == 9


def test_one_poor_dimension_makes_an_answer_poor_and_one_fair_one_not_good():
    found = read_grades(json.dumps(GOOD | {"harmfulness": {"reason": "", "grade": "poor"}}))
    assert (found.good, found.poor) == (False, True)
    found = read_grades(json.dumps(GOOD | {"composition": {"reason": "", "grade": "fair"}}))
    assert (found.good, found.poor) == (False, False)


@pytest.mark.parametrize(
    "said",
    [
        "```json\n%s\n```",
        "Here are my grades:\n%s\nI hope this helps.",
        '<think>maybe {"score": 2}</think>%s',
        '{"score": 1} is too low. %s',
    ],
)
def test_grades_are_found_in_what_is_around_them(said):
    assert read_grades(said % json.dumps(GOOD)).score == 9


@pytest.mark.parametrize("score", ["9", "9/10", "9 out of 10", 9.0, {"reason": "", "score": 9}])
def test_scores_come_in_several_forms(score):
    assert read_grades(json.dumps(GOOD | {"score": score})).score == 9


def test_keys_and_grades_may_be_written_otherwise():
    names = [name.replace("_", " ").title() for name in DIMENSIONS]
    said = {name: "**Fair**" for name in names} | {"Score": 5}
    assert set(read_grades(json.dumps(said)).grades.values()) == {"fair"}


@pytest.mark.parametrize(
    "changed",
    [
        {"score": 0},
        {"score": 11},
        {"score": True},
        {"score": None},
        {"score": float("nan")},
        {"score": "high"},
        {"score": "7 or 8"},
        {"composition": "excellent"},
        {"composition": {"reason": "good"}},
        {"composition": {"grade": "good | fair | poor"}},
        {"composition": None},
    ],
)
def test_grades_with_one_part_that_is_none_are_unreadable(changed):
    assert read_grades(json.dumps(GOOD | changed)) is None


@pytest.mark.parametrize("said", ["", "Good.", "[]", "{", "{" * 5_000, json.dumps(GOOD)[:-1]])
def test_what_is_no_json_is_unreadable(said):
    assert read_grades(said) is None


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("A", "A"),
        ("**B**", "B"),
        ("Tie.", "tie"),
        ('{"verdict": "Answer B"}', "B"),
        ('{"Verdict": "TIE"}', "tie"),
        ('I think of {"verdict": "A"}, but no: {"verdict": "B"}', "B"),
        ('{"reason": "a } and a {", "verdict": "A"}', "A"),
        ("Both are fine. My final verdict is: [[B]]", "B"),
        ('{"reason": "cut", "verdict": "A"', "A"),
        ("Verdict: B", "B"),
        ("<think>A? B?</think>A", "A"),
    ],
)
def test_verdicts_come_in_several_forms(said, verdict):
    assert read_verdict(said) == verdict


@pytest.mark.parametrize(
    "said",
    [
        "",
        "A is better than B in some ways.",
        "Answer C",
        '{"verdict": "A | B | tie"}',
        '{"verdict": null}',
        '{"winner": "A"}',
        "[[A]] or [[B]]",
        "Verdict: A or B",
    ],
)
def test_a_verdict_that_is_not_clear_is_not_guessed(said):
    assert read_verdict(said) is None
