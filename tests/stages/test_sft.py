"""Supervised fine-tuning: it learns, counts what it leaves out, and depends on nothing else."""

import hashlib
import io
import json

import mlx.core as mx
import pytest

from afm_mlx import own_model, pipeline
from afm_mlx.decoder.checkpoint import read_facts
from afm_mlx.errors import DataError, ModelError
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_recipe

from .conftest import ON_BASE, apart, finished_apart, killed_when

RECIPE = (
    'name = "taught"\n'
    + ON_BASE
    + """
[optimizer]
name = "adamw"
eps = 1e-8
[watch]
evaluate_every_steps = 20
[sft]
lr = 0.01
row_tokens = 64
rows_per_step = 4
epochs = 4
held_out_fraction = 0.1
[sft.data.chats]
path = "{chats}"
"""
)


@pytest.fixture
def recipe(base, chats, tmp_path):
    path = tmp_path / "taught.toml"
    path.write_text(RECIPE.format(base=base, chats=chats, context=64))
    return path


def run(path, tmp_path, *assignments):
    told = io.StringIO()
    manifests = pipeline.run(
        load_recipe(path, assignments), tmp_path / "runs", Progress(stream=told)
    )
    return manifests[-1]["metrics"], told.getvalue()


def weights(tmp_path):
    return mx.load(str(tmp_path / "runs" / "taught" / "sft" / "model" / "model.safetensors"))


def test_a_finished_model_is_taught_without_any_texts(recipe, tmp_path):
    metrics, told = run(recipe, tmp_path)
    assert metrics["held_out_nats"] < 0.7 * metrics["start_held_out_nats"]
    assert metrics["conversations"] == 60
    assert metrics["held_out_examples"] + metrics["examples"]["chats"] == 60
    assert 0.8 < metrics["filled"] <= 1
    assert "rows are " in told
    model = tmp_path / "runs" / "taught" / "sft" / "model"
    assert read_facts(model)["stage"] == "sft"
    answer = Engine.open(model).stream([{"role": "user", "content": "say ab"}], max_tokens=8)
    assert "".join(chunk.text for chunk in answer)


def test_micro_batches_and_recomputing_change_rounding_only(recipe, tmp_path):
    run(recipe, tmp_path, "sft.epochs=1")
    whole = weights(tmp_path)
    less = ["training.micro_rows=1", "training.activation_checkpointing=true"]
    steps = pipeline.plan_steps(
        load_recipe(recipe, ["sft.epochs=1", *less]), tmp_path / "runs", first="sft"
    )
    assert steps[-1].todo.startswith("again, as asked")
    recipe_again = load_recipe(recipe, ["sft.epochs=1", *less])
    pipeline.run(recipe_again, tmp_path / "runs", Progress(stream=io.StringIO()), first="sft")
    parts = weights(tmp_path)
    assert all(mx.allclose(whole[name], parts[name], atol=2e-3) for name in whole)


def test_dropout_changes_training_and_no_dropout_is_allowed(recipe, tmp_path):
    run(recipe, tmp_path, "sft.epochs=1")
    with_dropout = weights(tmp_path)
    run(recipe, tmp_path, "sft.epochs=1", "sft.dropout_fraction=0")
    name = "model.layers.0.mlp.up_proj.weight"
    assert not mx.allclose(with_dropout[name], weights(tmp_path)[name], atol=1e-4)


def test_a_changed_file_of_conversations_is_noticed(recipe, chats, tmp_path):
    run(recipe, tmp_path, "sft.epochs=1")
    settings = load_recipe(recipe, ["sft.epochs=1"])
    assert not [step for step in pipeline.plan_steps(settings, tmp_path / "runs") if step.todo]
    chats.write_text(chats.read_text().replace("say", "SAY"))
    todo = [
        step.stage.name for step in pipeline.plan_steps(settings, tmp_path / "runs") if step.todo
    ]
    assert todo == ["sft"]


def test_bad_lines_stop_the_run_or_are_counted_as_asked(recipe, chats, tmp_path):
    chats.write_text(chats.read_text() + '{"messages": [{"role": "wizard", "content": "x"}]}\n')
    with pytest.raises(DataError, match=r"chats.jsonl, line 61: message 1 has the unknown role"):
        run(recipe, tmp_path, "sft.epochs=1")
    metrics, told = run(recipe, tmp_path, "sft.epochs=1", "sft.skip_bad=true")
    assert (metrics["skipped"], metrics["conversations"]) == (1, 60)
    assert "  left out: chats.jsonl, line 61: message 1 has the unknown role 'wizard'" in told
    assert "wizard" in (tmp_path / "runs/taught/sft/skipped.txt").read_text()


def test_conversations_longer_than_a_row_are_counted(recipe, chats, tmp_path):
    long = [{"role": "user", "content": "x" * 70}, {"role": "assistant", "content": "y"}]
    chats.write_text(chats.read_text() + json.dumps(long) + "\n")
    metrics, told = run(recipe, tmp_path, "sft.epochs=1")
    assert metrics["too_long"] == 1
    assert "1 dropped, longer than 64 tokens" in told
    with pytest.raises(DataError, match=r"no conversation to learn from .*longer than 8 tokens"):
        run(recipe, tmp_path, "sft.row_tokens=8")


def test_a_row_is_no_longer_than_the_models_context(recipe, base, chats, tmp_path):
    recipe.write_text(RECIPE.format(base=base, chats=chats, context=128))
    with pytest.raises(ModelError, match=r"sft.row_tokens is 128, and the model's context 64"):
        run(recipe, tmp_path, "sft.row_tokens=128")


def test_two_files_are_mixed_by_their_weights(recipe, tmp_path, chats):
    other = tmp_path / "other.jsonl"
    other.write_text(chats.read_text().replace("say", "repeat"))
    added = [f"sft.data.other.path={other}", "sft.data.other.weight=0.5"]
    once, _ = run(recipe, tmp_path, "sft.epochs=2", "sft.held_out_fraction=0", *added)
    assert once["examples"] == {"chats": 60, "other": 60}
    assert "held_out_nats" not in once
    assert once["seen"] == {"chats": 120, "other": 60}


SHORT = ["sft.row_tokens=64", "sft.epochs=8", "watch.snapshot_every_seconds=0.001"]


def fine_tune(base, chats, out):
    return apart("sft", base, "--data", chats, "--out", out, settings=SHORT)


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_fine_tuning_killed_in_its_middle_ends_with_the_same_bits(tmp_path, base, chats):
    whole = own_model.sft_recipe(base, chats, assignments=SHORT)
    own_model.run(whole, "sft", tmp_path / "whole", Progress(stream=io.StringIO()))
    cut = fine_tune(base, chats, tmp_path / "cut")
    snapshots = tmp_path / "cut.work" / "own" / "sft.part" / "snapshots"
    killed_when(cut, lambda: any(snapshots.glob("step-*1[0-9]")))
    assert not (tmp_path / "cut").exists()
    _, errors = finished_apart(fine_tune(base, chats, tmp_path / "cut"))
    assert "going on from step" in errors
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
