"""afm eval: scores of a model on tasks, and what is refused."""

import json
from pathlib import Path

import pytest

ROWS = [
    {
        "messages": [{"role": "user", "content": f"The cat {word}"}],
        "check": {"kind": "contains", "texts": []},
        "id": f"x/{word}.1/0",
    }
    for word in ("sat", "on")
]


@pytest.fixture
def exam(tmp_path):
    file = tmp_path / "exam.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def test_scores_are_told_and_samples_kept(afm, chat_model, exam):
    words = ["eval", chat_model, "--task", "checks", "--data", exam, "--set", "max_tokens=3"]
    made = afm(*words)
    assert made.code == 0, made.err
    first, second, last = made.out.splitlines()
    assert first.split()[:3] == ["checks", "accuracy", "1.000"]
    assert second.split()[:2] == ["checks", "parts"]
    assert last.startswith("checks        2 items in")
    folder = Path(made.err.splitlines()[-1].removeprefix("samples: "))
    assert folder.parent == Path("runs/evals") / chat_model.name
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {sample["key"] for sample in samples} == {"x/sat.1/0", "x/on.1/0"}
    assert all(sample["kept"]["tokens"] <= 3 for sample in samples)
    # Nothing is asked again, and another limit has a folder of its own.
    again = json.loads(afm(*words, "--json").out)
    assert again == [json.loads((folder / "result.json").read_text())]
    one = json.loads(afm(*words, "--limit", "1", "--json").out)
    assert one[0]["items"] == 1
    assert len(list(folder.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "check"], "did you mean 'checks'?"),
        (["--task", "checks"], "task checks needs data"),
        (["--task", "checks", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--task", "checks", "--data", "exam.jsonl", "--set", "tokens=3"], "no setting 'tokens'"),
        (["--task", "checks", "--task", "continuations", "--data", "x"], "--data and --out are of"),
    ],
)
def test_what_is_wrong_is_said_in_two_lines(afm, chat_model, exam, words, said):
    refused = afm("eval", chat_model, *words)
    assert refused.code == 2
    assert said in refused.err
    assert len(refused.err.splitlines()) <= 3
    assert not Path("runs").exists()


def test_tasks_are_listed(afm):
    listed = afm("eval", "--list")
    assert listed.code == 0
    assert "checks" in listed.out
