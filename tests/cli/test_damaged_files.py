"""Files that were cut, changed or mixed up: named, with what to do, and left as they are."""

import json
import os
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from .conftest import interrupted

UP = "model.layers.1.mlp.up_proj.weight"


def flip(path: Path) -> None:
    """Change a byte, and not the size."""
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


def change_tensors(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    weights = dict(mx.load(str(file)))
    change(weights)
    mx.eval(list(weights.values()))
    mx.save_safetensors(str(file), weights)


def test_truncated_shard_stops_a_stage_before_it_begins(refused, recipe, runs):
    os.truncate(runs / "small/data/poems/train/00000.bin", 100)
    said = refused("run", recipe, "--runs", runs, "--from", "core")
    assert "train/00000.bin has 100 bytes, " in said
    assert "hint: build the shards again: afm run RECIPE --from data" in said
    refused("data", "inspect", runs / "small/data/poems")


@pytest.mark.parametrize("file", ["train/00000.bin", "train/documents.bin", "held_out/00000.bin"])
def test_changed_byte_in_a_shard_stops_a_stage_before_it_begins(refused, recipe, runs, file):
    flip(runs / "small/data/poems" / file)
    said = refused("run", recipe, "--runs", runs, "--from", "core")
    assert f"{file} changed since it was written: SHA-256 " in said


def test_shards_of_another_tokenizer_are_refused(refused, recipe, runs):
    file = runs / "small/data/poems/shards.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer": "0" * 64}))
    said = refused("run", recipe, "--runs", runs, "--from", "core")
    assert "was written with tokenizer 00000000, and this tokenizer is " in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop(UP), f"lacks {UP}"),
        (
            lambda weights: weights.update({UP: mx.zeros((3, 4))}),
            f"{UP} is [3, 4], must be [64, 32]",
        ),
        (
            lambda weights: weights.update(extra=mx.zeros((2,))),
            "has tensors that this decoder has not: extra",
        ),
    ],
    ids=["missing", "misshaped", "extra"],
)
def test_checkpoint_with_wrong_tensors_is_refused_by_name(refused, recipe, runs, change, words):
    for stage in ("core", "context"):
        change_tensors(runs / "small" / stage / "model", change)
    assert words in refused("generate", "small", "--runs", runs, "--prompt", "the")
    assert words in refused("run", recipe, "--runs", runs, "--from", "context")
    assert words in refused("import", runs / "small/core/model", "--out", "imported")


@pytest.mark.parametrize("size", [5_000, 5, 0])
def test_truncated_checkpoint_is_refused(refused, runs, size):
    os.truncate(runs / "small/context/model/model.safetensors", size)
    said = refused("generate", "small", "--runs", runs, "--prompt", "the")
    assert "model.safetensors" in said
    assert f"{size:,} bytes" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "{", "config.json is not JSON"),
        (lambda text: "[]", "config.json holds a list"),
        (lambda text: text.replace('"hidden_size"', '"q"'), "config.json lacks hidden_size"),
        (lambda text: text.replace('": 32', '": "x"', 1), "hidden_size: not of its kind"),
        (
            lambda text: text.replace('"torch_dtype"', '"layer_types": 5, "q"'),
            "layer_types is not a list of names",
        ),
    ],
)
def test_config_that_is_damaged_is_refused(refused, runs, change, words):
    file = runs / "small/context/model/config.json"
    file.write_text(change(file.read_text()))
    assert words in refused("generate", "small", "--runs", runs, "--prompt", "the")


def test_tokenizer_with_more_pieces_than_the_model_has_rows_is_refused(refused, runs):
    file = runs / "small/context/model/tokenizer.json"
    table = json.loads(file.read_text())
    table["added_tokens"].append(dict(table["added_tokens"][-1], id=344, content="<more>"))
    file.write_text(json.dumps(table))
    said = refused("generate", "small", "--runs", runs, "--prompt", "the")
    assert "has 345 pieces and the model 344 rows" in said
    assert "hint: take the tokenizer that the model was trained with" in said


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello", "is not a GGUF file"),
        (b"", "is not a GGUF file"),
        (b"GGUF\x03\0\0\0", "(8 bytes) is cut off or damaged"),
    ],
)
def test_damaged_gguf_file_is_refused(refused, tmp_path, data, words):
    (tmp_path / "model.gguf").write_bytes(data)
    assert words in refused("import", "model.gguf", "--out", "imported")
    assert words in refused("generate", "model.gguf", "--prompt", "the")


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": "data"}'])
def test_damaged_manifest_is_named_with_what_to_delete(refused, recipe, runs, text):
    (runs / "small/data/manifest.json").write_text(text)
    said = refused("run", recipe, "--runs", runs)
    assert "manifest.json is damaged\nhint: delete " in said


def test_damaged_snapshot_is_named_and_the_one_before_serves(refused, afm, recipe, tmp_path):
    command = ["run", recipe, "--runs", "runs", "--set", "watch.snapshot_every_seconds=0.001"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afm_mlx.stages.pretrain.save_checkpoint", interrupted)
        assert afm(*command).code == 130
    newest = max((tmp_path / "runs/small/core.part/snapshots").iterdir())
    os.truncate(newest / "state.safetensors", 1_000)
    said = refused(*command)
    assert f"snapshot {newest.relative_to(tmp_path)} is damaged" in said
    assert "the one before serves" in said
    shutil.rmtree(newest)
    assert afm(*command).code == 0
