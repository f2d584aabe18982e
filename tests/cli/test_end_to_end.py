"""A user's path with a recipe of their own, from the first look at it to the first answer."""

import json
from pathlib import Path

import pytest

from .conftest import RECIPE


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("path")
    (folder / "poems").mkdir()
    for i in range(60):
        text = f"the salt of the sea {i} is old\nthe wind of the sea {i + 1} is old\n"
        (folder / "poems" / f"{i:02}.txt").write_text(text * 4)
    (folder / "small.toml").write_text(RECIPE.replace("FOLDER", str(folder)))
    return folder


def test_a_recipe_of_ones_own_from_the_first_look_to_an_answer(afm, folder, tmp_path):
    recipe = folder / "small.toml"

    def parsed(*words: object) -> dict | list:
        answer = afm(*words, "--json")
        assert answer.code == 0, answer.err
        return json.loads(answer.out)

    assert "afm-tiny" in [row["name"] for row in parsed("models")]
    shown = parsed("models", "show", recipe)
    assert (shown["name"], shown["stages"]) == ("small", ["core", "context"])
    assert sum(row["parameters"] for row in shown["tensors"]) == shown["parameters"]
    assert "core" in json.dumps(parsed("plan", recipe))

    # What would be done; nothing is.
    stages = ["tokenizer", "data", "core", "context"]
    planned = afm("run", recipe, "--runs", "runs", "--dry-run")
    assert [line.split() for line in planned.out.splitlines()] == [[name, "new"] for name in stages]
    assert not (tmp_path / "runs").exists()
    longer = afm("run", "afm-tiny", "--runs", "runs", "--dry-run")  # it has adapter-summaries
    assert {line.split()[1] for line in longer.out.splitlines()} == {"new"}

    # The run, its table, and its log.
    ran = afm("run", recipe, "--runs", "runs", "--log-json", "log.jsonl")
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.out.splitlines()] == ["stage", *stages]
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["stage"] for r in records if r.get("finished")] == stages
    losses = [r["held_out_nats"] for r in records if "held_out_nats" in r]
    assert losses[0] > losses[-1] > 0

    # Again: nothing is left to do, and the numbers are the same.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    manifests = parsed("run", recipe, "--runs", "runs")
    assert [manifest["stage"] for manifest in manifests] == stages
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert manifests[-1]["metrics"]["held_out_nats"] == losses[-1]

    # The model, by the recipe's name and by its folder.
    question = ["--prompt", "the salt", "--max-tokens", "8"]
    by_name = afm("generate", "small", "--runs", "runs", *question)
    assert by_name.code == 0, by_name.err
    assert "small: stage context" in by_name.err
    answer = parsed("generate", tmp_path / "runs/small/context/model", *question)
    assert answer["text"] + "\n" == by_name.out
    assert (answer["answer_tokens"], answer["finished"]) == (8, "length")

    # What is inside.
    tokenizer = parsed("tokenizer", "show", tmp_path / "runs/small/tokenizer/tokenizer")
    assert tokenizer["vocab_size"] == 344
    assert manifests[0]["metrics"]["fingerprint"] == tokenizer["fingerprint"]
    data = parsed("data", "inspect", tmp_path / "runs/small/data/poems", "--tokens", "40")
    assert data["tokens"] == manifests[1]["metrics"]["poems"]["train_tokens"]
    assert data["text"].startswith("the salt of the sea")
    imported = parsed("import", "small", "--runs", "runs", "--out", tmp_path / "copy")
    assert imported["parameters"] == shown["parameters"]
    assert parsed("generate", tmp_path / "copy", *question)["text"] == answer["text"]


def test_profile_traces_the_stages_that_train_and_ends_with_the_command(afm, folder, tmp_path):
    words = ["run", folder / "small.toml", "--until", "core"]
    ran = afm(*words, "--runs", "runs", "--profile", "trace.json")
    assert ran.code == 0, ran.err
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events} >= {"batch", "gradients", "update"}
    assert events[0]["args"] == {"name": "core"}
    assert "profile of " in ran.err
    assert "profile of " not in afm(*words, "--runs", "others").err
