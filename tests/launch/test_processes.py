"""Real processes: what the launcher does when they end well, fail, are killed or interrupted."""

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time

import mlx.core as mx
import pytest

from afm_mlx import pipeline
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_recipe
from tests.small_recipes import pretraining, shape

SECONDS = 150  # for all processes of a test; a busy machine starts them slowly

RECIPE = (
    'name = "two"\n'
    + shape(num_layers=1, vocab_size=512)
    + """\
[data.docs]
kind = "text"
path = "python:docs"
max_bytes = 30_000
held_out_fraction = 0.1
[watch]
log_every_steps = 1
evaluate_every_steps = 1_000
evaluation_tokens = 256
"""
    + pretraining("core", {"docs": 1.0}, row_tokens=64)
    + """\
[synthetic.tasks]
kind = "basics"
count = 20
[sft]
lr = 6e-3
final_lr_fraction = 0.1
row_tokens = 64
rows_per_step = 4
epochs = 1
dropout_fraction = 0.0
data.tasks = { path = "synthetic:tasks" }
"""
)

SSH = """#!/bin/sh
# Stands in for ssh: every host is this machine, but for one that nobody knows.
while [ "$1" = -T ] || [ "$1" = -o ]; do [ "$1" = -o ] && shift; shift; done
if [ "$1" = gone.local ]; then echo "ssh: Could not resolve hostname $1" >&2; exit 255; fi
exec sh -c "exec $2"
"""


@pytest.fixture
def start(tmp_path):
    """Function that starts `afm` in the test's folder; what still runs at the end is ended."""
    started = []

    def run(*words, **variables):
        process = subprocess.Popen(
            [sys.executable, "-m", "afm_cli", *map(str, words)],
            cwd=tmp_path,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    (tmp_path / "two.toml").write_text(RECIPE)
    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def finish(process):
    """Exit code, stdout and stderr of a process."""
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def children(process):
    """Processes that it has started, in their order; in every system's words."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
    pairs = (line.split() for line in listed.stdout.splitlines())
    return sorted(int(pid) for pid, parent in pairs if int(parent) == process.pid)


def wait_for(process, what):
    """Wait until `what()` is so, while the process runs."""
    until = time.monotonic() + SECONDS
    while not what():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < until
        time.sleep(0.05)


def weights(folder, stage):
    return mx.load(str(folder / "runs" / "two" / stage / "model" / "model.safetensors"))


def test_two_local_ranks_run_a_recipe_from_texts_to_a_model_that_answers(start, tmp_path):
    code, out, err = finish(start("run", "two.toml", "--hosts", "local:2", "--log-json", "log"))
    assert code == 0, err
    table = [line.split()[0] for line in out.splitlines()[1:] if line]
    assert table == ["tokenizer", "data", "core", "synthetic", "sft"]
    assert err.startswith("2 ranks on this machine\n")
    assert err.count("core: new") == 1  # rank 0 alone speaks
    assert "report: runs/two/report.html" in err
    finished = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    stages = [record["stage"] for record in finished if record.get("finished")]
    assert stages == table
    manifest = json.loads((tmp_path / "runs/two/sft/manifest.json").read_text())
    assert manifest["ranks"] == 2
    names = {path.name for path in (tmp_path / "runs/two").rglob("*")}
    assert not any(name.startswith((".rank-", ".done-")) for name in names)
    quiet = Progress(stream=io.StringIO())
    alone = pipeline.run(load_recipe(tmp_path / "two.toml"), tmp_path / "alone", quiet, last="core")
    together = json.loads((tmp_path / "runs/two/core/manifest.json").read_text())
    nats = [each["metrics"]["held_out_nats"] for each in (alone[-1], together)]
    assert nats[0] == pytest.approx(nats[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_rank_ends_all_with_one_message_and_resumes_to_the_same_bits(
    victim, start, tmp_path
):
    words = ("run", "two.toml", "--until", "core", "--hosts", "local:2")
    steps = ("--set", "core.tokens=51_200", "--set", "watch.snapshot_every_seconds=0.01")
    process = start(*words, *steps)
    snapshots = tmp_path / "runs/two/core.part/snapshots"
    wait_for(process, lambda: any(snapshots.glob("step-*[0-9]")))
    ranks = children(process)
    os.kill(ranks[victim], signal.SIGKILL)
    killed = time.monotonic()
    code, _, err = finish(process)
    assert time.monotonic() - killed < 30
    assert code == 2
    lines = err.splitlines()
    [at] = [number for number, line in enumerate(lines) if "error" in line]
    assert lines[at:] == [
        f"error: rank {victim} (this machine) was lost: killed by SIGKILL; "
        "the other ranks were ended",
        "hint: type the same command again: a run goes on where it was saved last",
    ]
    code, _, err = finish(start(*words, *steps))
    assert code == 0, err
    assert "going on from step" in err
    resumed = weights(tmp_path, "core")
    shutil.rmtree(tmp_path / "runs")
    code, _, err = finish(start(*words, *steps))
    assert code == 0, err
    whole = weights(tmp_path, "core")
    assert all(mx.array_equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_ranks_save_and_end_together(number, start, tmp_path):
    process = start("run", "two.toml", "--hosts", "local:2", "--set", "core.tokens=512_000")
    log = tmp_path / "runs/two/core.part/metrics.jsonl"
    wait_for(process, log.exists)
    ranks = children(process)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 130
    assert err.count("interrupted") == 1
    assert "saved at step" in err.splitlines()[-1]
    assert not set(ranks) & set(children(process))


@pytest.mark.slow
def test_ranks_save_and_end_when_their_launcher_is_killed(start, tmp_path):
    process = start("run", "two.toml", "--hosts", "local:2", "--set", "core.tokens=512_000")
    log = tmp_path / "runs/two/core.part/metrics.jsonl"
    wait_for(process, log.exists)
    process.kill()
    _, _, err = finish(process)  # whose pipe is rank 0's, too
    assert "saved at step" in err


def test_mistake_that_all_ranks_meet_is_told_once(start):
    code, out, err = finish(start("run", "two.toml", "--until", "cor", "--hosts", "local:2"))
    assert code == 2
    assert out == ""
    assert err.splitlines() == [
        "error: recipe 'two' has no stage 'cor': it has tokenizer, data, core, synthetic, sft",
        "hint: did you mean 'core'?",
    ]


@pytest.fixture
def two_machines(tmp_path):
    """A file of two hosts with folders of their own, and variables under which `ssh` finds them."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    hosts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "two.toml").write_text(RECIPE)
        place = str(tmp_path / name)
        hosts.append({"ssh": f"{name}.local", "ips": ["127.0.0.1"], "cwd": place})
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.slow
def test_machines_with_folders_of_their_own_make_the_same_in_each(start, tmp_path, two_machines):
    words = ("run", "two.toml", "--hosts", "hosts.json")
    code, out, err = finish(start(*words, **two_machines))
    assert code == 0, err
    assert "sft" in out
    for stage in ("core", "sft"):
        there = weights(tmp_path / "b", stage)
        for name, array in weights(tmp_path / "a", stage).items():
            assert mx.array_equal(array, there[name])

    shutil.rmtree(tmp_path / "b/runs/two/sft")
    code, _, err = finish(start(*words, **two_machines))
    assert code == 2
    assert "stage sft is done on rank 0 (a.local), and not done on rank 1 (b.local)" in err

    shutil.rmtree(tmp_path / "a/runs/two/sft")
    with (tmp_path / "b/runs/two/synthetic/tasks.jsonl").open("a") as file:
        file.write("\n")
    code, _, err = finish(start(*words, **two_machines))
    assert code == 2
    assert "the contents of synthetic" in err.splitlines()[-2]

    recipe = tmp_path / "b" / "two.toml"
    recipe.write_text(RECIPE.replace("lr = 0.01", "lr = 0.02"))
    code, _, err = finish(start(*words, **two_machines))
    assert code == 2
    assert err.splitlines() == [
        "error: setting core.lr is 0.01 on rank 0 (a.local), and 0.02 on rank 1 (b.local)"
    ]


def test_host_that_cannot_be_reached_is_named_in_one_line(start, tmp_path, two_machines):
    file = tmp_path / "hosts.json"
    hosts = json.loads(file.read_text())
    hosts[0] |= {"ssh": "127.0.0.1"}
    file.write_text(json.dumps([hosts[0], hosts[1] | {"ssh": "gone.local"}]))
    code, _, err = finish(start("run", "two.toml", "--hosts", "hosts.json", **two_machines))
    assert code == 2
    assert err.splitlines() == [
        "error: rank 1 (gone.local) cannot be reached: ssh: Could not resolve hostname gone.local",
        "hint: try: ssh gone.local true",
    ]


def test_folder_that_a_host_has_not_is_told(start, tmp_path, two_machines):
    shutil.rmtree(tmp_path / "b")
    hosts = json.loads((tmp_path / "hosts.json").read_text())
    hosts[0] |= {"ssh": "127.0.0.1"}
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    code, _, err = finish(start("run", "two.toml", "--hosts", "hosts.json", **two_machines))
    assert code == 2
    assert err.startswith("error: rank 1 (b.local): /bin/sh:")
    assert 'hint: every host needs the same folder and Python, or "cwd"' in err
