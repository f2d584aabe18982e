"""Grades from people, from a seed list, and from a model."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from afm_mlx.corpus.filters.grades import (
    Graded,
    Seeds,
    grade_by_seeds,
    grade_documents,
    grade_to_file,
    parse_grade,
    prompt_for,
    read_grades,
)
from afm_mlx.corpus.filters.quality import train_classifier
from afm_mlx.corpus.record import Record
from afm_mlx.errors import DataError
from afm_mlx.settings.quality import Grading, Quality

RECORDS = [
    Record(str(n), f"text {n} {{braces}}", "web", url=f"https://s{n}.example/") for n in range(6)
]


class Model:
    """Answers with the grades given, in turn, and dies where there is none."""

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def __call__(self, prompt):
        self.prompts.append(prompt)
        if not self.answers:
            raise KeyboardInterrupt
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ("Grade: 3", 3),
        ("It explains 2 theorems well.\nGrade: 4", 4),
        ("**Grade:** 4/5", 4),
        ("grade - 0", 0),
        ("Rating of 2 out of 5 stars. Grade: 3", 3),
        ("Educational score is 4.5.", 4.5),
        ("Score: 1, no: Score: 2", 2),
        ("4 out of 5", 4),
        ("I would say 2", 2),
        ("5", 5),
        ("Grade\n\n2", 2),
        ("Grade: 7", None),
        ("Grade: 10", None),
        ("Grade: -1", None),
        ("Grade: 3-4", None),
        ("Grade: 0 to 5", None),
        ("from 0 to 5", None),
        ("Score: 8/10", None),
        ("8/10", None),
        ("Grade: N", None),
        ("The 3 reasons are 5", None),
        ("-1", None),
        ("", None),
        ("Grade: " + "9" * 5_000, None),
        ("grade " * 20_000, None),
    ],
)
def test_grades_are_found_in_answers_or_not_made_up(answer, grade):
    assert parse_grade(answer) == grade


def test_the_prompt_shows_the_start_of_a_text_and_asks_for_0_to_5():
    prompt = prompt_for("begin {x} " + "a" * 50 + "end", Grading(prompt_chars=20))
    assert "begin {x} " in prompt
    assert "end" not in prompt.partition("Text:")[2].partition("Answer")[0]
    assert prompt.endswith("a number from 0 to 5, and nothing else.")


def test_a_models_grades_are_shares_of_the_highest_and_unreadable_ones_are_counted():
    counts: Counter[str] = Counter()
    model = Model("Grade: 5", "I cannot say.", "Grade: 2")
    found = list(grade_documents(RECORDS[:3], model, Grading(), counts))
    assert found == [
        Graded(RECORDS[0].text, 1.0, "s0.example"),
        Graded(RECORDS[2].text, 0.4, "s2.example"),
    ]
    assert counts == {"graded": 2, "unparsable": 1}


def test_an_interrupted_file_is_finished_without_asking_twice(tmp_path):
    answers = ["Grade: 1", "no idea", "Grade: 3", "Grade: 4", "Grade: 5", "Grade: 0"]
    whole = tmp_path / "whole.jsonl"
    counts = grade_to_file(RECORDS, Model(*answers), whole, Grading(), grader="m")
    assert counts == {"graded": 5, "unparsable": 1, "known": 0}

    part = tmp_path / "part.jsonl"
    with pytest.raises(KeyboardInterrupt):  # in the third answer
        grade_to_file(RECORDS, Model(*answers[:2]), part, Grading(), grader="m")
    second = Model(*answers[2:])
    counts = grade_to_file(RECORDS, second, part, Grading(), grader="m")
    assert counts == {"graded": 5, "unparsable": 1, "known": 2}
    assert len(second.prompts) == 4
    assert part.read_bytes() == whole.read_bytes()


def test_a_line_cut_off_by_a_crash_is_made_again(tmp_path):
    path = tmp_path / "grades.jsonl"
    grade_to_file(RECORDS[:3], Model(*["Grade: 2"] * 3), path, Grading(), grader="m")
    whole = path.read_bytes()
    for size in range(len(whole) - 40, len(whole)):
        path.write_bytes(whole[:size])
        model = Model("Grade: 2")
        grade_to_file(RECORDS[:3], model, path, Grading(), grader="m")
        assert len(model.prompts) == 1
        assert path.read_bytes() == whole


def test_a_file_holds_grades_of_one_model_and_one_prompt(tmp_path):
    path = tmp_path / "grades.jsonl"
    grade_to_file(RECORDS[:1], Model("Grade: 2"), path, Grading(), grader="small")
    with pytest.raises(DataError, match="has grades of 'small"):
        grade_to_file(RECORDS, Model(), path, Grading(), grader="large")
    with pytest.raises(DataError, match="has grades of 'small"):
        grade_to_file(RECORDS, Model(), path, Grading(prompt_chars=9), grader="small")
    path.write_text("something else\n")
    with pytest.raises(DataError, match="line 1"):
        grade_to_file(RECORDS, Model(), path, Grading(), grader="small")
    assert path.read_text() == "something else\n"


def test_records_of_the_same_id_are_asked_about_once(tmp_path):
    model = Model("Grade: 2", "Grade: 3")
    records = [Record("1", "a", "x"), Record("1", "a", "x"), Record("1", "a", "y")]
    counts = grade_to_file(records, model, tmp_path / "g.jsonl", Grading(), grader="m")
    assert counts == {"graded": 2, "unparsable": 0, "known": 1}


def test_what_a_model_graded_is_read_back_with_any_text(tmp_path):
    path = tmp_path / "grades.jsonl"
    odd = Record("odd", "\ud800 \0 \u2028 line\nend", "web", url="http://[")
    model = Model("Grade: 4", "?", "Grade: 1")
    grade_to_file([odd, *RECORDS[:2]], model, path, Grading(), grader="m")
    assert list(read_grades(path)) == [
        Graded(odd.text, 0.8, ""),
        Graded(RECORDS[1].text, 0.2, "s1.example"),
    ]


def test_grades_of_people_train_a_classifier(tmp_path):
    path = tmp_path / "people.jsonl"
    lines = [{"text": f"good lesson {n}", "grade": 5} for n in range(60)]
    lines += [{"text": f"cheap offer {n}", "grade": 1, "group": "shop"} for n in range(60)]
    lines += [{"text": f"cheap watch {n}", "grade": 0} for n in range(60)]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    graded = list(read_grades(path, highest=5))
    assert graded[60] == ("cheap offer 0", 0.2, "shop")
    metrics = train_classifier(graded, tmp_path / "model.npz", Quality(hash_bits=12))
    assert metrics["auc"] > 0.95


@pytest.mark.parametrize(
    "line",
    ['{"text": "a"}', '{"text": 1, "grade": 1}', '{"text": "a", "grade": 2}', "[1]", "text", "1",
     '{"text": "a", "grade": "x"}', '{"text": "a", "grade": NaN}'],
)  # fmt: skip
def test_lines_that_are_no_grades_are_named(tmp_path, line):
    path = tmp_path / "grades.jsonl"
    path.write_text('{"text": "fine", "grade": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=r"line 2 of .* is no text with a grade from 0 to 1"):
        list(read_grades(path))


def test_files_that_are_not_text_or_absent_are_errors(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for reader in (lambda path: list(read_grades(path)), Seeds):
        with pytest.raises(DataError, match="UTF-8"):
            reader(tmp_path / "bytes")
        with pytest.raises(DataError, match="cannot be read"):
            reader(tmp_path / "absent")


def test_a_seed_list_grades_by_the_most_specific_domain_and_then_by_id(tmp_path):
    path = tmp_path / "seeds.txt"
    path.write_text(
        "# by hand\ngood example.org\nbad ads.Example.org # a shop\n0.5\tnotes/*.md\nbad *.tmp\n"
    )
    seeds = Seeds(path)
    records = [
        Record("1", "a", url="https://www.example.org/x"),
        Record("2", "b", url="https://x.ads.example.org/x"),
        Record("3", "c", url="https://other.org/"),
        Record("notes/a.md", "d"),
        Record("b.tmp", "e"),
        Record("b.txt", "f"),
    ]
    assert [seeds.grade(record) for record in records] == [1, 0, None, 0.5, 0, None]
    found = list(grade_by_seeds(records, seeds))
    assert found[0] == ("a", 1.0, "www.example.org")
    assert len(found) == 4


@pytest.mark.parametrize("line", ["good", "great example.org", "2 example.org", "nan example.org"])
def test_broken_lines_of_a_seed_list_are_named(tmp_path, line):
    (tmp_path / "seeds").write_text(f"good a.org\n{line}\n")
    with pytest.raises(DataError, match="line 2 of the seed list"):
        Seeds(tmp_path / "seeds")
