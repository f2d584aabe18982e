"""Distillation in pre-training: the same from label files as from a teacher in memory."""

import json
import os

import mlx.core as mx
import pytest

from afm_mlx.errors import DataError, ModelError

BEFORE = "distill.labels=before"
PRUNED = ("tokenizer", "data", "teacher", "prune")


@pytest.mark.parametrize(
    "assignments",
    [[], ["distill.target=logits", "distill.candidates=8", "training.micro_rows=2"]],
    ids=["top", "logits"],
)
def test_labels_give_the_same_loss_curve_as_a_teacher_in_memory(copied, tmp_path, assignments):
    live, before = (copied(*PRUNED, name=name) for name in ("live", "before"))
    live(*assignments)
    assert list(before(*assignments, BEFORE))[-2:] == ["labels", "core"]
    assert before.log("core") == live.log("core")
    assert len(live.log("core")) == 8
    assert "held_out_nats" in live.log("core")[-1]
    with_teacher, with_labels = live.weights("core"), before.weights("core")
    assert all(mx.array_equal(with_teacher[name], with_labels[name]) for name in with_labels)


def test_the_label_file_costs_2_bytes_a_token(copied):
    runs = copied(*PRUNED)
    labels = runs(BEFORE, last="labels")["labels"]["metrics"]["core/poems"]
    files = list((runs.stage("labels") / "core" / "poems").glob("*.ids"))
    assert sum(path.stat().st_size for path in files) == labels["bytes"] == 2 * labels["tokens"]
    assert not list((runs.stage("labels") / "core" / "poems").glob("*.logps"))


def test_the_teacher_makes_a_difference(finished, copied):
    runs = copied(*PRUNED)
    runs("distill.teacher_weight=0")
    taught, alone = finished.log("core"), runs.log("core")
    assert taught[0]["loss"] != alone[0]["loss"]
    assert taught[0]["nll"] == alone[0]["nll"]  # of the text, before the first update
    assert alone[0]["loss"] == pytest.approx(alone[0]["nll"], rel=1e-3)  # but for the z-loss


def test_several_stages_have_labels_in_rows_of_their_own(copied):
    runs = copied(*PRUNED)
    context = "{tokens=512, row_tokens=64, rows_per_step=2, lr=0.003, warmup_steps=1, "
    context += "final_lr_fraction=0.1, weight_decay=0.0, mixture={poems=1.0}}"
    assigned = [f"context={context}", 'distill.stages=["core", "context"]', BEFORE]
    manifests = runs(*assigned)
    assert list(manifests)[-3:] == ["labels", "core", "context"]
    for stage, row_tokens in (("core", 32), ("context", 64)):
        index = json.loads((runs.stage("labels") / stage / "poems" / "labels.json").read_text())
        assert index["row_tokens"] == row_tokens
    assert "labels" not in runs.todo(*assigned, "context.lr=0.02", "distill.teacher_weight=0.5")
    assert runs.todo(*assigned, "context.row_tokens=32") == ["labels", "core", "context"]


def test_changed_label_file_stops_the_stage_before_it_begins(copied):
    runs = copied(*PRUNED)
    runs(BEFORE, last="labels")
    file = runs.stage("labels") / "core" / "poems" / "00000.ids"
    os.truncate(file, file.stat().st_size - 2)
    with pytest.raises(DataError, match=r"00000\.ids changed since it was written"):
        runs(BEFORE)


def test_base_of_another_shape_is_refused_by_the_name_of_a_tensor(runs, finished):
    text = runs.recipe.read_text().split("[teacher]")[0]
    runs.recipe = runs.folder / "small.toml"
    runs.recipe.write_text(text)
    base = f"base={finished.stage('teacher') / 'model'}"
    with pytest.raises(ModelError, match=r"down_proj.weight is \[32, 64\], must be \[32, 24\]"):
        runs(base)
    manifests = runs(base, "shape.intermediate_size=64")
    assert list(manifests) == ["base", "tokenizer", "data", "core"]


def test_shallower_teacher_is_refused_with_both_depths(runs, finished):
    text = runs.recipe.read_text()
    runs.recipe = runs.folder / "small.toml"
    runs.recipe.write_text(text.split("[teacher]")[0] + "[teacher]\n[distill]\n")
    teacher = f"teacher.model={finished.stage('teacher') / 'model'}"
    with pytest.raises(ModelError, match="the teacher has 2 layers, and the student 3"):
        runs(teacher, "shape.num_layers=3")
