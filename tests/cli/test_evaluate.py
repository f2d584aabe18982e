"""afm eval: scores of a model on tasks, and what is refused."""

import json
import socket
from pathlib import Path

import pytest
from afm_cli.subjects import folder_name

from afm_mlx.decoder.adapters import base_name
from afm_mlx.evaluation.registry import KINDS

from .conftest import write_lines

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
    return write_lines(tmp_path / "exam.jsonl", ROWS)


def test_scores_are_told_and_samples_kept(afm, chat_model, exam):
    words = ["eval", chat_model, "--task", "checks", "--data", exam, "--set", "max_tokens=3"]
    made = afm(*words)
    assert made.code == 0, made.err
    first, second, last = made.out.splitlines()
    assert first.split()[:3] == ["checks", "accuracy", "1.000"]
    assert second.split()[:2] == ["checks", "parts"]
    assert last.startswith("checks        2 items in")
    folder = Path(made.err.splitlines()[-1].removeprefix("samples: "))
    assert folder.parent == Path("runs/evals") / folder_name(base_name(chat_model))
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
    names = [line.split()[0] for line in listed.out.splitlines()]
    assert names == [*KINDS, "judge", "harness:NAME"]


def test_a_model_behind_an_endpoint_is_asked_questions_and_nothing_else(
    afm, refused, serving, chat_model, exam, texts
):
    _, line = serving("serve", chat_model)
    url, _, name = line.partition("  serves ")
    words = ["--task", "checks", "--data", exam, "--set", "max_tokens=3", "--json"]
    theirs = json.loads(afm("eval", name, *words, "--endpoint", url).out)[0]
    ours = json.loads(afm("eval", chat_model, *words).out)[0]
    said = refused(
        *("eval", name, "--task", "perplexity", "--data", texts, "--endpoint", url), changes=True
    )
    assert theirs["settings"]["endpoint"] == "127.0.0.1"
    assert theirs["scores"] == ours["scores"]
    assert "does not tell" in said
    assert "name a model on this machine" in said


def test_flags_for_a_model_on_this_machine_are_refused_at_an_endpoint(refused, exam):
    command = ("eval", "tiny", "--task", "checks", "--data", exam)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    said = refused(*command, "--endpoint", url, "--adapter", "poet")
    assert "--adapter is for a model on this machine" in said
    assert "is no URL" in refused(*command, "--endpoint", "nowhere")
    assert "connection refused" in refused(*command, "--endpoint", url, changes=True)
