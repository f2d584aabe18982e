"""Reinforcement learning as a stage: it learns what a program checks, and a killed run ends with
the same bits."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map

from afm_mlx import own_model
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.errors import DataError, RecipeError
from afm_mlx.progress import Progress
from afm_mlx.text.chat import render_chat
from afm_mlx.text.tokenizer import Tokenizer

WORDS = ["cat", "mat", "dog", "hill"]


@pytest.fixture(scope="module")
def speaker(base, tmp_path_factory):
    """A model that answers any question with one of four words, each as often."""
    tokenizer = Tokenizer.open(base)
    model = open_checkpoint(base)
    heads = [
        render_chat(tokenizer, [{"role": "user", "content": f"Where is the {word}?"}])
        for word in WORDS
    ]
    end = tokenizer.piece_id("<turn:end>")
    rows = [[*head, *tokenizer.encode(word), end] for head in heads for word in WORDS]
    width = max(map(len, rows))
    ids = mx.array([row + [0] * (width - len(row)) for row in rows])
    starts = [len(head) for head in heads for _ in WORDS]
    weights = mx.array(
        [
            [start <= at < len(row) for at in range(width)]
            for row, start in zip(rows, starts, strict=True)
        ]
    ).astype(mx.float32)

    def loss(model):
        ce = nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
        return (ce * weights[:, 1:]).sum() / weights.sum()

    step = nn.value_and_grad(model, loss)
    momentum = None
    for _ in range(60):
        _, grads = step(model)
        momentum = (
            grads if momentum is None else tree_map(lambda m, g: 0.9 * m + g, momentum, grads)
        )
        model.update(tree_map(lambda p, m: p - 0.03 * m, model.parameters(), momentum))
        mx.eval(model.parameters(), momentum)
    folder = tmp_path_factory.mktemp("speaker") / "model"
    save_checkpoint(folder, model, base, facts={"stage": "sft"})
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Questions whose right answer is always the same word."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [
        {
            "messages": [{"role": "user", "content": f"Where is the {WORDS[number % 4]}?"}],
            "check": {"kind": "exact", "answer": "hill"},
        }
        for number in range(160)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


FAST = [
    "rl.lr=0.003",
    "rl.max_tokens=8",
    "rl.prompts_per_step=4",
    "training.micro_rows=16",
    "watch.evaluate_every_steps=100",
]


def train(speaker, prompts, out, *assignments):
    recipe = own_model.rl_recipe(speaker, prompts, assignments=[*FAST, *assignments])
    return own_model.run(recipe, "rl", out, Progress())["metrics"]


@pytest.mark.parametrize("mode", ["sequence", "token"])
def test_answers_that_pass_their_check_get_likelier(speaker, prompts, tmp_path, mode):
    metrics = train(speaker, prompts, tmp_path / "out", "rl.rounds=12", f"rl.ratio={mode}")
    assert metrics["start_held_out_right"] <= 0.5
    assert metrics["held_out_right"] >= 0.75


def test_log_has_both_divergences_and_what_the_answers_were(speaker, prompts, tmp_path):
    log = tmp_path / "log.jsonl"
    recipe = own_model.rl_recipe(speaker, prompts, assignments=[*FAST, "rl.rounds=2"])
    with closing(Progress(log_json=log)) as progress:
        own_model.run(recipe, "rl", tmp_path / "out", progress)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if "kl_step" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    first, second, third, _ = steps
    assert (first["kl_reference"], first["kl_step"]) == pytest.approx((0, 0), abs=1e-5)
    assert second["kl_step"] > 0
    assert third["kl_reference"] != 0
    assert first["reward"] == second["reward"]  # of the same answers
    assert 0 <= first["reward"] <= 1
    assert first["answer_tokens"] > 1
    (samples,) = [record["samples"] for record in records if "samples" in record]
    assert set(samples.values()) & set(WORDS)


class Stopping(Progress):
    """Stops a run when it tells of a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def status(self, line, *, last=False):
        if f"step {self.step}/" in line:
            raise ZeroDivisionError


@pytest.mark.parametrize("mode", ["sequence", "token"])
def test_run_cut_in_the_middle_of_a_round_ends_with_the_same_bits(speaker, prompts, tmp_path, mode):
    settings = ["rl.rounds=3", "rl.updates_per_batch=3", f"rl.ratio={mode}"]
    settings.append("watch.snapshot_every_seconds=1e-6")
    train(speaker, prompts, tmp_path / "whole", *settings)
    recipe = own_model.rl_recipe(speaker, prompts, assignments=[*FAST, *settings])
    for step in (6, 8):  # the first step of the next process is in a round, or begins one
        with pytest.raises(ZeroDivisionError):
            own_model.run(recipe, "rl", tmp_path / "cut", Stopping(step))
    own_model.run(recipe, "rl", tmp_path / "cut", Progress())
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


@pytest.mark.slow
def test_run_killed_three_times_ends_with_the_same_bits(speaker, prompts, tmp_path):
    began = time.monotonic()
    finish(speaker, prompts, tmp_path / "whole")
    seconds = time.monotonic() - began
    chance, resumed = random.Random(3), 0
    for number in range(3):
        process = start(speaker, prompts, tmp_path / "cut")
        time.sleep(chance.uniform(0.5, 1.0) * seconds * (number + 1.5) / 5)
        os.kill(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        resumed += "going on from step" in errors
        if (tmp_path / "cut").exists():  # it was faster this time
            break
    else:
        resumed += "going on from step" in finish(speaker, prompts, tmp_path / "cut")
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    assert resumed


def start(speaker, prompts, out):
    code = "import sys; from afm_cli import main; sys.exit(main())"
    words = ["rl", speaker, "--data", prompts, "--out", out]
    for each in [*FAST, "rl.rounds=20", "rl.updates_per_batch=3"]:
        words += ["--set", each]
    words += ["--set", "watch.snapshot_every_seconds=0.01"]
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(*words):
    process = start(*words)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return errors


def digest(out):
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def test_prompts_without_a_check_are_refused(speaker, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    with pytest.raises(DataError, match="no prompt has a 'check'"):
        train(speaker, file, tmp_path / "out", "rl.rounds=1")


def test_penalty_that_can_do_nothing_is_refused(speaker, prompts):
    with pytest.raises(RecipeError, match=r"truncation_penalty \(0.5\) needs mask_truncated"):
        own_model.rl_recipe(speaker, prompts, assignments=["rl.truncation_penalty=0.5"])
