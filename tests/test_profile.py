import io
import json
import re

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from afm_mlx import profile
from afm_mlx.progress import Progress
from afm_mlx.settings.sections import Optimizer, Watch
from afm_mlx.training.loop import Course, train
from afm_mlx.training.optimizer import UpdateRule


def run(work, *, steps=40, evaluate=None, every=10):
    """Train a small model; its weights, and what was said."""
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))

    def batches(step):
        half = mx.random.normal((3, 4), key=mx.random.key(step))
        return [(half, mx.argmax(half[:, :3], axis=1))] * 2

    def loss(model, x, targets):
        nll = nn.losses.cross_entropy(model(x), targets).sum()
        return nll, {"nll": nll, "tokens": mx.array(3.0)}

    said = io.StringIO()
    work.mkdir()
    train(
        model,
        loss,
        batches,
        UpdateRule(Optimizer(), hidden_size=4),
        Course(
            steps=steps,
            lr=0.05,
            warmup_steps=2,
            final_lr_fraction=0.1,
            weight_decay=0.0,
            most_skipped_steps=3,
        ),
        compute=mx.float32,
        work=work,
        watch=Watch(evaluate_every_steps=every),
        progress=Progress(stream=said),
        evaluate=evaluate,
    )
    return dict(tree_flatten(model.parameters())), said.getvalue()


@pytest.fixture
def trace(tmp_path):
    """The file of an open profile."""
    file = tmp_path / "trace.json"
    profile.open_profile(file)
    yield file
    profile.close_profile()


def events(file):
    return [e for e in json.loads(file.read_text())["traceEvents"] if e["ph"] == "X"]


def test_a_traced_run_has_the_same_bits(tmp_path, trace):
    traced, said = run(tmp_path / "core.part")
    profile.close_profile()
    usual, unsaid = run(tmp_path / "other.part")
    assert all(mx.array_equal(traced[name], usual[name]) for name in usual)
    assert "profile" in said
    assert "profile" not in unsaid


def test_twenty_steps_are_traced_after_the_first_seven(tmp_path, trace):
    run(tmp_path / "core.part")
    found = events(trace)
    assert {event["args"]["step"] for event in found} == set(range(8, 28))
    parts = [event["name"] for event in found if event["args"]["step"] == 9]
    assert sorted(parts) == ["batch", *["forward"] * 2, *["gradients"] * 2, "update"]


def test_the_trace_is_in_the_form_that_viewers_open(tmp_path, trace):
    run(tmp_path / "core.part")
    text = json.loads(trace.read_text())
    assert set(text) == {"traceEvents", "displayTimeUnit"}
    row = next(event for event in text["traceEvents"] if event["ph"] == "M")
    assert row["args"] == {"name": "core"}
    for event in events(trace):
        assert {"name", "ts", "dur", "pid", "tid"} <= set(event)
        assert event["dur"] >= 0
    times = [event["ts"] for event in events(trace) if event["name"] == "update"]
    assert times == sorted(times)


def test_spans_of_a_step_lie_one_after_the_other_or_inside(tmp_path, trace):
    run(tmp_path / "core.part")
    spans = sorted(events(trace), key=lambda event: (event["ts"], -event["dur"]))
    ends = []
    for span in spans:
        while ends and span["ts"] >= ends[-1] - 0.2:  # microseconds: they are rounded to 0.1
            ends.pop()
        assert not ends or span["ts"] + span["dur"] <= ends[-1] + 0.2
        ends.append(span["ts"] + span["dur"])


def test_parts_and_the_rest_add_up_to_a_step(tmp_path, trace):
    _, said = run(tmp_path / "core.part")
    parts = re.findall(r"^      (\w.*?)  .* ([\d.]+)%$", said, flags=re.MULTILINE)
    assert [name for name, _ in parts] == ["batch", "gradients", "update", "log, and the rest"]
    assert sum(float(share) for _, share in parts) == pytest.approx(100, abs=0.3)


def test_a_short_run_is_traced_to_its_end(tmp_path, trace):
    _, said = run(tmp_path / "core.part", steps=6)
    assert {event["args"]["step"] for event in events(trace)} == {5, 6}
    assert "profile of 2 steps of core" in said


def test_evaluations_are_in_the_trace_and_in_no_figure_of_a_step(tmp_path, trace):
    def slow(model):
        x = mx.random.normal((400, 400))
        for _ in range(20):
            x = mx.softmax(x @ x)
        return {"held_out": float(x.sum())}

    _, said = run(tmp_path / "core.part", evaluate=slow, every=5)
    aside = [event for event in events(trace) if event["name"] == "evaluation"]
    assert aside
    assert "  evaluation" not in said
    longest = max(event["dur"] for event in aside) / 1e3
    step = next(line for line in said.splitlines() if "one part after the other" in line)
    assert float(step.split()[-2]) < longest


def test_each_stage_has_a_row(tmp_path, trace):
    run(tmp_path / "core.part")
    run(tmp_path / "context.part")
    rows = {
        event["tid"]: event["args"]["name"]
        for event in json.loads(trace.read_text())["traceEvents"]
        if event["ph"] == "M"
    }
    assert rows == {0: "core", 1: "context"}
    assert {event["tid"] for event in events(trace)} == {0, 1}


def test_only_rank_0_writes(tmp_path):
    profile.open_profile(tmp_path / "trace.json", rank=1)
    try:
        run(tmp_path / "core.part")
    finally:
        profile.close_profile()
    assert not (tmp_path / "trace.json").exists()


def test_a_file_that_cannot_be_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(FileNotFoundError):
        profile.open_profile(tmp_path / "no folder" / "trace.json")
    with pytest.raises(IsADirectoryError):
        profile.open_profile(tmp_path)
    assert not list(tmp_path.iterdir())
