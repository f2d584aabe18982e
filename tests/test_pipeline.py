import io
import json
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx import artifact, pipeline
from afm_mlx.errors import DataError, RunError
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_recipe
from tests.small_recipes import pretraining, shape, write_poems

RECIPE = (
    'name = "small"\n'
    + shape()
    + """\
[data.poems]
kind = "text"
path = "{folder}/poems"
held_out_fraction = 0.2
[data.code]
kind = "code"
path = "{folder}/code"
held_out_fraction = 0.2
[tokenizer]
reserved_pieces = 16
[watch]
evaluation_tokens = 256
sample_prompts = ["the "]
sample_tokens = 4
"""
    + pretraining("core", {"poems": 0.7, "code": 0.3})
    + pretraining(
        "context",
        {"poems": 0.5, "code": 0.5},
        tokens=1_024,
        row_tokens=64,
        rows_per_step=2,
        lr=0.003,
        weight_decay=1e-5,
    )
)


@pytest.fixture
def recipe(tmp_path):
    for kind in ("poems", "code"):
        (tmp_path / kind).mkdir()
    write_poems(tmp_path / "poems")
    for i in range(40):
        text = f"def f{i}(x):\n    return x + {i}\n\n\n" * 5
        (tmp_path / "code" / f"{i:02}.py").write_text(text)
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def run(path, tmp_path, *assignments, **options):
    quiet = Progress(stream=io.StringIO())
    return pipeline.run(load_recipe(path, assignments), tmp_path / "runs", quiet, **options)


def weights(tmp_path, stage):
    return mx.load(str(tmp_path / "runs" / "small" / stage / "model" / "model.safetensors"))


def todo(path, tmp_path, *assignments, **options):
    steps = pipeline.plan_steps(load_recipe(path, assignments), tmp_path / "runs", **options)
    return [step.stage.name for step in steps if step.todo]


def test_recipe_runs_from_documents_to_a_checkpoint_of_each_stage(recipe, tmp_path):
    manifests = run(recipe, tmp_path)
    assert [m["stage"] for m in manifests] == ["tokenizer", "data", "core", "context"]
    core, context = manifests[2:]
    assert core["metrics"]["bits_per_byte"] > context["metrics"]["bits_per_byte"] > 0
    assert set(context["metrics"]["bits_per_byte_by_source"]) == {"poems", "code"}
    assert context["parents"]["core"] == core["fingerprint"]
    config = json.loads((tmp_path / "runs/small/context/model/config.json").read_text())
    assert config["max_position_embeddings"] == 64
    assert config["rope_theta"] > 10_000  # grown by the rule: longer rows, larger base
    assert not (tmp_path / "runs/small/context/snapshots").exists()


def test_second_run_does_nothing_and_gives_the_same_manifests(recipe, tmp_path):
    first = run(recipe, tmp_path)
    assert todo(recipe, tmp_path) == []
    assert run(recipe, tmp_path) == first


def test_only_what_depends_on_a_changed_setting_runs_again(recipe, tmp_path):
    run(recipe, tmp_path)
    assert todo(recipe, tmp_path, "context.lr=0.001") == ["context"]
    assert todo(recipe, tmp_path, "optimizer.name=adamw") == ["core", "context"]
    assert todo(recipe, tmp_path, "watch.log_every_steps=3") == []
    assert todo(recipe, tmp_path, "data.code.max_bytes=500") == [
        "tokenizer",
        "data",
        "core",
        "context",
    ]
    assert todo(recipe, tmp_path, first="core", last="core") == ["core"]


def test_result_that_is_made_again_keeps_the_old_one_aside(recipe, tmp_path):
    run(recipe, tmp_path, last="core")
    before = weights(tmp_path, "core")
    run(recipe, tmp_path, first="core", last="core")
    aside = tmp_path / "runs/small/set-aside/core-1/model/model.safetensors"
    after = weights(tmp_path, "core")
    old = mx.load(str(aside))
    assert all(mx.array_equal(before[name], after[name]) for name in before)
    assert all(mx.array_equal(before[name], old[name]) for name in before)


def test_fine_tuning_follows_pre_training(recipe, tmp_path):
    chats = tmp_path / "chats.jsonl"
    said = [{"role": "user", "content": "the sea"}, {"role": "assistant", "content": "is old"}]
    chats.write_text("".join(json.dumps(said).replace("sea", f"sea {n}") + "\n" for n in range(9)))
    with recipe.open("a") as file:
        file.write(
            "[sft]\nlr = 1e-3\nrow_tokens = 64\nrows_per_step = 2\nepochs = 1\n"
            f"[sft.data.chats]\npath = '{chats}'\n"
        )
    chats.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"cannot read .*chats.jsonl: no such file"):
        run(recipe, tmp_path)  # at once, and not after hours of pre-training
    assert not (tmp_path / "runs").exists()
    (tmp_path / "elsewhere").rename(chats)
    *_, context, sft = run(recipe, tmp_path)
    assert sft["parents"] == {"context": context["fingerprint"]}
    assert sft["metrics"]["conversations"] == 9
    assert todo(recipe, tmp_path, "sft.epochs=2") == ["sft"]
    assert todo(recipe, tmp_path, "core.lr=0.02")[-1] == "sft"


def test_interrupted_data_stage_keeps_the_sources_that_are_done(recipe, tmp_path):
    run(recipe, tmp_path, last="tokenizer")
    (tmp_path / "code").rename(tmp_path / "gone")
    (tmp_path / "code").mkdir()
    with pytest.raises(DataError):
        run(recipe, tmp_path, last="data")
    work = tmp_path / "runs/small/data.part"
    done = (work / "poems.json").stat().st_mtime_ns
    (tmp_path / "code").rmdir()
    (tmp_path / "gone").rename(tmp_path / "code")
    run(recipe, tmp_path, last="data")
    assert (tmp_path / "runs/small/data/poems.json").stat().st_mtime_ns == done


def test_unknown_stage_names_the_nearest(recipe, tmp_path):
    with pytest.raises(RunError, match="no stage 'contxt': it has tokenizer, data, core, context"):
        run(recipe, tmp_path, last="contxt")


def test_half_published_folder_is_published_on_the_next_run(recipe, tmp_path):
    run(recipe, tmp_path, last="tokenizer")
    folder = tmp_path / "runs/small/tokenizer"
    fingerprint = artifact.read_manifest(folder)["fingerprint"]
    folder.rename(artifact.work_folder(folder))  # as if killed just before the rename
    assert artifact.in_the_making(folder, fingerprint)
    run(recipe, tmp_path, last="tokenizer")
    assert artifact.read_manifest(folder)["fingerprint"] == fingerprint
    assert Path(folder / "tokenizer" / "tokenizer.json").exists()
