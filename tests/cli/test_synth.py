"""`afm synth`."""

import json

import pytest


def test_records_are_written_and_counted(afm, tmp_path):
    answer = afm("synth", "math", "--count", 25, "--seed", 2, "--out", "math.jsonl", "--json")
    assert answer.code == 0, answer.err
    counts = json.loads(answer.out)
    lines = (tmp_path / "math.jsonl").read_text().splitlines()
    assert counts["kept"] == len(lines) == 25
    assert json.loads(lines[0])["check"]["kind"] == "number"


def test_counts_are_printed(afm):
    answer = afm("synth", "safety", "--count", 300, "--out", "x/safety.jsonl", "--split", "train")
    first, *rest = answer.out.splitlines()
    assert first.startswith("       300 records in x/safety.jsonl, of ")
    assert any(line.endswith("dropped: equal prompt") for line in rest)


def test_a_models_answers_are_judged(afm, chat_model):
    words = ["--count", 1, "--samples", 2, "--out", "x.jsonl", "--set", "give_up_after=3"]
    answer = afm("synth", "safety", *words, "--model", chat_model, "--set", "max_tokens=8")
    assert answer.code == 2
    assert "safety: 0 of 1 records, and the last 3 candidates were all dropped" in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "deepest=9"], "deepest"),
        (["--set", "deapest=1"], "did you mean 'deepest'?"),
        (["--against", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--split", "test"], "'--split'"),
        (["--count", "0"], "'--count'"),
    ],
)
def test_mistakes_are_two_lines(afm, words, said):
    count = [] if "--count" in words else ["--count", 5]
    answer = afm("synth", "math", *count, "--out", "out.jsonl", *words)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) <= 3


def test_a_file_that_is_there_is_not_touched(afm, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine")
    answer = afm("synth", "math", "--count", 5, "--out", "out.jsonl")
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error: out.jsonl is there already")
    assert (tmp_path / "out.jsonl").read_text() == "mine"
