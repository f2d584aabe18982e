"""A run killed at any instant goes on and ends with the same bits as an unbroken one."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.small_recipes import pretraining, shape

RECIPE = (
    'name = "killed"\n'
    + shape(hidden_size=64, head_dim=16, intermediate_size=128, vocab_size=512, max_tokens=128)
    + """\
[data.docs]
kind = "text"
path = "python:docs"
max_bytes = 400_000
held_out_fraction = 0.1
[watch]
snapshot_every_seconds = 0.3
evaluate_every_steps = 50
evaluation_tokens = 256
"""
    + pretraining(
        "core", {"docs": 1.0}, tokens=409_600, row_tokens=64, rows_per_step=16, warmup_steps=10
    )
    + pretraining(
        "context",
        {"docs": 1.0},
        tokens=204_800,
        row_tokens=128,
        rows_per_step=8,
        lr=0.003,
        warmup_steps=5,
        weight_decay=1e-5,
    )
)

SHRUNK = (
    'name = "killed"\n'
    + shape(intermediate_size=32, vocab_size=512, max_tokens=32)
    + """\
[data.docs]
kind = "text"
path = "python:docs"
max_bytes = 30_000
held_out_fraction = 0.1
[watch]
log_every_steps = 1
snapshot_every_seconds = 0.01
evaluate_every_steps = 50
evaluation_tokens = 256
"""
    + pretraining("core", {"docs": 1.0}, tokens=6_400, warmup_steps=10)
    + """\
[teacher]
intermediate_size = 96
tokens = 2_560
[prune]
tokens = 6_400
row_tokens = 32
rows_per_step = 4
lr = 2e-3
scoring_tokens = 1_280
[distill]
target = "logits"
candidates = 8
labels = "before"
"""
)


def start(recipe, runs):
    code = "import sys; from afm_cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", str(recipe), "--runs", str(runs)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def digests(runs):
    """Of the weights of each stage, and of all labels."""
    files = [*(runs / "killed").glob("*/model/*.safetensors"), *(runs / "killed").rglob("*.ids")]
    return {
        str(path.relative_to(runs)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def finish(recipe, runs):
    process = start(recipe, runs)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return errors


def killed_and_resumed(tmp_path, kills, text=RECIPE):
    """Digests of a run that was killed and of one that was not, and how often it went on."""
    recipe = tmp_path / "killed.toml"
    recipe.write_text(text)
    began = time.monotonic()
    finish(recipe, tmp_path / "whole")
    seconds = time.monotonic() - began
    chance = random.Random(2024)
    resumed = 0
    for number in range(kills):
        process = start(recipe, tmp_path / "cut")
        # Each attempt gets a little more time, so the kills fall all along the run.
        time.sleep(chance.uniform(0.2, 1.0) * seconds * (number + 1.5) / (kills + 1))
        os.kill(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        resumed += "going on from step" in errors
    finish(recipe, tmp_path / "cut")
    return digests(tmp_path / "cut"), digests(tmp_path / "whole"), resumed


def test_run_killed_three_times_ends_with_the_same_bits(tmp_path):
    cut, whole, _ = killed_and_resumed(tmp_path, kills=3)
    assert cut == whole != {}


@pytest.mark.slow
def test_run_killed_ten_times_ends_with_the_same_bits(tmp_path):
    cut, whole, resumed = killed_and_resumed(tmp_path, kills=10)
    assert cut == whole != {}
    assert resumed >= 3


@pytest.mark.parametrize("labels", ["before", pytest.param("live", marks=pytest.mark.slow)])
def test_masks_labels_and_distillation_killed_half_way_end_with_the_same_bits(tmp_path, labels):
    """One kill in each: while masks are learned, while labels are written, while core is taught."""
    recipe = tmp_path / "killed.toml"
    recipe.write_text(SHRUNK.replace('"before"', f'"{labels}"'))
    finish(recipe, tmp_path / "whole")
    work = tmp_path / "cut" / "killed"
    signs = {
        "prune.part/metrics.jsonl": '"step": 25,',
        "labels.part/core/docs/begun.json": "candidates",
        "core.part/metrics.jsonl": '"step": 25,',
    }
    if labels == "live":
        del signs["labels.part/core/docs/begun.json"]
    for name, sign in signs.items():
        process = start(recipe, tmp_path / "cut")
        limit = time.monotonic() + 120
        while not (work / name).exists() or sign not in (work / name).read_text():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < limit
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        stage = name.partition(".")[0]
        assert f"{stage}: done" not in errors
    last = finish(recipe, tmp_path / "cut")
    assert "going on from step" in last
    found, wanted = digests(tmp_path / "cut"), digests(tmp_path / "whole")
    assert found == wanted
    assert {f"killed/{stage}/model/model.safetensors" for stage in ("prune", "core")} <= set(found)
    assert any(name.endswith(".ids") for name in found) == (labels == "before")


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["live", "before"])
def test_pruned_and_distilled_run_killed_ten_times_ends_with_the_same_bits(tmp_path, labels):
    text = SHRUNK.replace('"before"', f'"{labels}"')
    cut, whole, _ = killed_and_resumed(tmp_path, kills=10, text=text)
    assert cut == whole != {}
