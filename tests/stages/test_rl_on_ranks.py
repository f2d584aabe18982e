"""Ranks that share a round: its answers are those of one process, and cut runs end the same."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from .conftest import apart, finished_apart

SETTINGS = (
    "rl.rounds=3",
    "rl.prompts_per_step=3",
    "rl.responses_per_prompt=4",
    "rl.updates_per_batch=4",
    "rl.max_tokens=8",
    "rl.lr=0.001",
    "rl.length_penalty=0.5",
    "watch.log_every_steps=1",
    "watch.evaluate_every_steps=4",
)
CLOCK = ("answers_per_second", "peak_gb")


@pytest.fixture
def run(chatty, tmp_path):
    """Starts an `afm rl` of 60 prompts, of which 6 are held out; its log is NAME.jsonl."""
    lines = [
        {
            "messages": [{"role": "user", "content": f"say {a}{b}"}],
            "check": {"kind": "contains", "texts": ["a"]},
        }
        for a in "abcdef"
        for b in "abcdefghij"
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def start(name: str, ranks: int, *settings: str) -> subprocess.Popen[str]:
        words = ["rl", chatty, "--data", file, "--out", tmp_path / name]
        words += ["--log-json", tmp_path / f"{name}.jsonl"]
        words += ["--hosts", f"local:{ranks}"] if ranks > 1 else []
        return apart(*words, settings=(*SETTINGS, *settings))

    return start


def steps(log: Path) -> dict[int, dict[str, Any]]:
    """What was said of each step, but for what a clock says."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return {
        each["step"]: {key: each[key] for key in each if key not in CLOCK}
        for each in records
        if "step" in each
    }


def assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        told = one[name]
        assert other[name] == (
            pytest.approx(told, rel=1e-4, abs=1e-5) if isinstance(told, float) else told
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "ranks", "lag"),
    [("sequence", 2, 0), ("token", 4, 0), ("sequence", 2, 1), ("token", 3, 1)],
)
def test_answers_do_not_depend_on_the_number_of_ranks(run, tmp_path, ratio, ranks, lag):
    for name, size in (("alone", 1), ("together", ranks)):  # of four, one has no prompt
        finished_apart(run(name, size, f"rl.ratio={ratio}", f"rl.sampling_lag={lag}"))
    alone, together = (steps(tmp_path / f"{name}.jsonl") for name in ("alone", "together"))
    assert [*alone] == [*together] == [*range(1, 13)]
    assert [step for step in alone if "samples" in alone[step]] == [4, 8, 12]
    assert alone[1]["answer_tokens"] != alone[5]["answer_tokens"]
    for step in alone:
        assert_alike(together[step], alone[step])
    if lag:  # a round is off its policy from the first step on
        assert together[5]["kl_step"] > 1e-6
    else:
        assert abs(together[5]["kl_step"]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 1])
def test_run_interrupted_in_a_round_ends_with_the_same_bits_and_goes_on_alone(run, tmp_path, lag):
    lagging = f"rl.sampling_lag={lag}"
    finished_apart(run("whole", 2, lagging))
    process, work = run("cut", 2, lagging), tmp_path / "cut.work"
    until = time.monotonic() + 60
    while not any(work.rglob("rounds/round-000002.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    shutil.copytree(work, tmp_path / "alone.work")
    for name, ranks in (("cut", 2), ("alone", 1)):
        _, errors = finished_apart(run(name, ranks, lagging))
        assert "going on from step" in errors
    weights = [mx.load(str(tmp_path / name / "model.safetensors")) for name in ("whole", "cut")]
    assert all(mx.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    whole = steps(tmp_path / "whole.jsonl")
    for step, found in steps(tmp_path / "alone.jsonl").items():
        assert_alike(found, whole[step])
