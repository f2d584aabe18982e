"""Every stage that trains: two processes with cut weights learn what one process learns."""

import json
from pathlib import Path

import pytest

from .conftest import Runs, apart, finished_apart

FAST = ("watch.log_every_steps=1", "watch.evaluation_tokens=128")


def comparisons(path: Path) -> Path:
    """Answers with grades, in which the longer one is better."""
    lines = [
        {
            "prompt": f"say {word}",
            "chosen": f"{word} {word}.",
            "rejected": f"{word}.",
            "chosen_grades": {"truthfulness": number % 3},
        }
        for number, word in enumerate(f"{a}{b}" for a in "abcdef" for b in "abcd")
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def prompts(path: Path) -> Path:
    """Questions with a check."""
    lines = [
        {
            "messages": [{"role": "user", "content": f"say {word}"}],
            "check": {"kind": "contains", "texts": ["a"]},
        }
        for word in "abcdefgh"
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def texts(folder: Path) -> Path:
    folder.mkdir()
    for number in range(40):
        words = " ".join(["The cat", "sat on", "the mat.", "Where is"][number % 4 :])
        (folder / f"{number:02}.txt").write_text(f"{number} {words} In the house.\n" * 3)
    return folder


@pytest.fixture
def commands(base, chatty, chats, tmp_path):
    """Words and settings of each command that trains, but for where it writes."""
    pairs, asked, prose = (
        comparisons(tmp_path / "pairs.jsonl"),
        prompts(tmp_path / "prompts.jsonl"),
        texts(tmp_path / "texts"),
    )
    rows = ("row_tokens=32", "rows_per_step=4", "tokens=1280", "lr=0.003")
    tables = tmp_path / "tables"
    taught = ["--teacher", base, "--data", prose]
    shrunk = [f"recover.{each}" for each in (*rows, "candidates=8")]
    return {
        "sft": (["sft", base, "--data", chats], ["sft.rows_per_step=3", "sft.epochs=1"]),
        "adapt": (["adapt", base, "--data", chats, "--name", "short"], []),
        "reward": (["reward", base, "--data", pairs], ["reward.pairs_per_step=5"]),
        "prefer": (["prefer", base, "--data", pairs], ["prefer.pairs_per_step=4"]),
        "rl": (
            ["rl", chatty, "--data", asked],
            ["rl.rounds=2", "rl.prompts_per_step=2", "rl.max_tokens=6", "rl.lr=0.001"],
        ),
        "prune": (
            ["prune", base, "--data", prose, "--ffn", 32],
            [f"prune.{each}" for each in rows],
        ),
        "lora": (["recover", tables, *taught, "--rank", 2], shrunk),
        "tables": (["recover", tables, *taught, "--method", "tables"], shrunk),
        "qat": (["recover", base, "--data", prose, "--method", "qat"], shrunk),
    }


def losses(log: Path) -> dict[str, list[float]]:
    """Of all steps, by what was trained."""
    found: dict[str, list[float]] = {}
    for record in map(json.loads, log.read_text().splitlines()):
        if "step" in record and "loss" in record:
            found.setdefault(record["stage"], []).append(record["loss"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sft", "adapt", "reward", "prefer", "rl", "prune", "lora", "tables", "qat"]
)
def test_two_processes_learn_what_one_learns(commands, base, tmp_path, name):
    words, settings = commands[name]
    if tmp_path / "tables" in words:
        finished_apart(apart("quantize", base, "--out", tmp_path / "tables"))
    one = ("--out", tmp_path / "one", "--log-json", tmp_path / "one.jsonl")
    two = ("--out", tmp_path / "two", "--log-json", tmp_path / "two.jsonl")
    finished_apart(apart(*words, *one, settings=(*FAST, *settings)))
    cut = ("training.shard=full", "training.activation_checkpointing=true")
    finished_apart(apart(*words, *two, "--hosts", "local:2", settings=(*FAST, *settings, *cut)))
    alone, together = losses(tmp_path / "one.jsonl"), losses(tmp_path / "two.jsonl")
    assert alone.keys() == together.keys() != set()
    for what, found in together.items():
        assert len(found) > 3
        assert found == pytest.approx(alone[what], rel=0, abs=1e-5)


@pytest.mark.slow
def test_pre_training_with_parts_of_the_model_learns_what_one_process_learns(
    recipe_file, finished, tmp_path
):
    settings = ("training.shard=tensor", 'watch.sample_prompts=["the salt"]')
    words = ("run", recipe_file, "--runs", tmp_path, "--hosts", "local:2")
    finished_apart(apart(*words, settings=settings))
    together = Runs(recipe_file, tmp_path)
    for stage in ("teacher", "core"):
        alone, found = finished.log(stage), together.log(stage)
        assert [each.get("loss") for each in found] == pytest.approx(
            [each.get("loss") for each in alone], rel=0, abs=1e-5
        )
        assert found[-1]["held_out_nats"] == pytest.approx(alone[-1]["held_out_nats"], abs=1e-5)
        assert "the salt" in found[-1]["samples"]
        assert together.weights(stage).keys() == finished.weights(stage).keys()
        for name, weight in together.weights(stage).items():
            assert weight.shape == finished.weights(stage)[name].shape
