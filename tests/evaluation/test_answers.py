import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.answers import Appending, read_answers

LINE = {"id": "a", "prompt": "Why?", "model": "m", "answer": "So."}
SETTINGS = {"temperature": 0.0}


def lines(path, *rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def add(file: Appending, id: str, answer: str) -> None:
    file.add(id, f"What is {id}?", answer, category="math", reference="", finished="stop")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**LINE, "id": None}, "no 'id'"),
        ({"id": "b", "prompt": "Why?", "model": "m"}, "no 'answer'"),
        ({**LINE, "id": "b", "answer": 3}, "'answer' is no text"),
        ({**LINE, "id": " "}, "'id' is empty"),
        ({**LINE, "id": "b", "settings": 3}, "'settings' is no table"),
        ({**LINE, "id": "b", "model": "n"}, "an answer of 'n', and those before are of 'm'"),
        (LINE, "prompt 'a' is answered in line 1 already"),
        ("text", "not an answer"),
    ],
)
def test_a_broken_line_is_named_with_its_file(tmp_path, row, said):
    lines(tmp_path / "a.jsonl", LINE, row)
    with pytest.raises(DataError, match=rf"^a\.jsonl, line 2: {said}"):
        read_answers(tmp_path / "a.jsonl")


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_named_with_its_line(tmp_path, raw):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(LINE).encode() + b"\n\n" + raw + b"\n")
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: not "):
        read_answers(tmp_path / "a.jsonl")


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read_answers(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*: no such file"):
        read_answers(tmp_path / "none.jsonl")


def test_the_fields_that_may_be_missing_have_values(tmp_path):
    lines(tmp_path / "a.jsonl", LINE, {**LINE, "id": "b", "category": None})
    found = read_answers(tmp_path / "a.jsonl")
    assert (found.model, list(found.answers)) == ("m", ["a", "b"])
    one = found.answers["b"]
    assert (one.category, one.reference, one.finished, one.settings) == ("", "", "stop", {})


def test_an_answer_is_in_the_file_before_the_next_one_is_asked_for(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    with Appending(path, "m", SETTINGS) as file:
        add(file, "a", "tab\tand\nline, \u00e9")
        assert read_answers(path).answers["a"].answer == "tab\tand\nline, \u00e9"
        add(file, "b", "")
    found = read_answers(path)
    assert list(found.answers) == ["a", "b"]
    assert found.settings == SETTINGS


@pytest.mark.parametrize("cut", range(1, 25))
def test_a_last_line_that_was_cut_off_is_taken_out_wherever_it_was_cut(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    with Appending(path, "m", SETTINGS) as file:
        add(file, "a", "one")
        whole = path.read_bytes()
        add(file, "b", "two \u00e9")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(whole) + (len(raw) - len(whole)) * cut // 25])
    with Appending(path, "m", SETTINGS) as file:
        assert file.was_cut
        assert list(file.there.answers) == ["a"]
        assert path.read_bytes() == whole
        add(file, "b", "two \u00e9")
    assert path.read_bytes() == raw


def test_a_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(LINE | {"settings": SETTINGS}))
    with Appending(path, "m", SETTINGS) as file:
        assert not file.was_cut
        add(file, "b", "two")
    assert list(read_answers(path).answers) == ["a", "b"]


def test_a_broken_line_elsewhere_stops_before_anything_is_changed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{\n" + json.dumps(LINE) + "\n{")
    with pytest.raises(DataError, match="line 1: not JSON"):
        Appending(path, "m", SETTINGS)
    assert path.read_text().endswith("\n{")


def test_answers_of_another_model_or_drawn_otherwise_are_not_mixed(tmp_path):
    path = tmp_path / "a.jsonl"
    with Appending(path, "m", SETTINGS) as file:
        add(file, "a", "one")
    with pytest.raises(DataError, match="has answers of 'm', and not of 'n'"):
        Appending(path, "n", SETTINGS)
    with pytest.raises(DataError, match=r"with temperature 0\.0, and not 0\.7"):
        Appending(path, "m", {"temperature": 0.7})
    with Appending(tmp_path / "b.jsonl", "m", {"model": "one"}) as file:
        add(file, "a", "one")
    with pytest.raises(DataError, match="'m' has changed since"):
        Appending(tmp_path / "b.jsonl", "m", {"model": "another"})
