"""afm prune, afm distill: a model of one's own, made smaller, and what is refused."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.checkpoint import open_checkpoint, read_shape, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, count_parameters, initialize
from tests.small_recipes import pretraining, shape

from .conftest import start, weights

QUICK = ["--set", "prune.tokens=1_024", "--set", "prune.scoring_tokens=512"]
SHORT = ["--set", "core.tokens=1_024"]


def weights_file(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def altered(model: Path, out: Path, **changes: object) -> Path:
    """A model like another one, of a slightly different shape, with random weights."""
    decoder = Decoder(read_shape(model).model_copy(update=changes))
    initialize(decoder, seed=5)
    save_checkpoint(out, decoder, model)
    return out


def test_from_a_model_to_a_narrower_one_that_is_taught_and_answers(
    afm, chat_model, texts, tmp_path
):
    pruned = afm("prune", chat_model, "--ffn", "12", "--data", texts, "--out", "small", *QUICK)
    assert pruned.code == 0, pruned.err
    shape = read_shape(Path("small"))
    assert shape == read_shape(chat_model).model_copy(update={"intermediate_size": 12})
    lines = dict(line.split(maxsplit=1) for line in pruned.out.splitlines())
    assert lines["parameters"] == f"{sum(count_parameters(shape).values()):,}"
    assert "nats per token, before" in pruned.out
    assert "of each layer's masks, the kept units hold:" in pruned.err
    assert not Path("small.work").exists()
    assert Path(lines["next"].split()[2]) == Path("small")

    command = lines["next"].replace("DIR", "taught").split()[1:]
    taught = afm(*command, *SHORT)
    assert taught.code == 0, taught.err
    assert "nats per token, before" in taught.out
    assert read_shape(Path("taught")) == shape

    answer = afm("generate", "taught", "--prompt", "The cat", "--max-tokens", "4", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["answer_tokens"] <= 4
    tokens = mx.array([[5, 9, 20, 31]])
    for folder in ("small", "taught"):
        theirs, _ = import_mlx_lm("mlx_lm.utils").load_model(Path(folder))
        ours = open_checkpoint(Path(folder))
        assert mx.abs(theirs(tokens) - ours(tokens)).max() < 1e-5
    tokenizer = (chat_model / "tokenizer.json").read_bytes()
    assert Path("taught/tokenizer.json").read_bytes() == tokenizer


def test_pruning_by_activation_keeps_rows_of_the_model_and_prints_only_json(afm, chat_model, texts):
    answer = afm(
        *["prune", chat_model, "--ffn", "12", "--data", texts, "--out", "small", "--json"],
        *["--method", "activation", "--set", "prune.scoring_tokens=512"],
    )
    assert answer.code == 0, answer.err
    manifest = json.loads(answer.out)
    assert manifest["metrics"]["parameters"] == sum(
        count_parameters(read_shape(Path("small"))).values()
    )
    assert json.loads(Path("small/manifest.json").read_text()) == manifest
    name = "model.layers.0.mlp.up_proj.weight"
    wide = {tuple(row) for row in weights(chat_model)[name].tolist()}
    assert all(tuple(row) in wide for row in weights("small")[name].tolist())


def test_a_model_may_be_taught_by_itself(afm, chat_model, texts):
    same = afm(
        *["distill", chat_model, "--teacher", chat_model, "--data", texts, "--out", "same"],
        *SHORT,
        "--json",
    )
    assert same.code == 0, same.err
    assert json.loads(same.out)["stage"] == "core"


def test_bfloat16_models_with_an_output_layer_of_their_own_are_pruned(afm, chat_model, texts):
    shape = read_shape(chat_model).model_copy(update={"tied": False, "qk_norm": False})
    decoder = Decoder(shape)
    initialize(decoder, seed=4)
    decoder.set_dtype(mx.bfloat16)
    save_checkpoint(Path("half"), decoder, chat_model)
    answer = afm("prune", "half", "--ffn", "12", "--data", texts, "--out", "small", *QUICK)
    assert answer.code == 0, answer.err
    assert read_shape(Path("small")) == shape.model_copy(update={"intermediate_size": 12})


# What is refused.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ffn", "0"], "invalid value for '--ffn': "),
        (
            ["--ffn", "32"],
            "32 units are to be kept, and MODEL has 32\nhint: --ffn with a number from 1 to 31",
        ),
        (
            ["--ffn", "33"],
            "33 units are to be kept, and MODEL has 32\nhint: --ffn with a number from 1 to 31",
        ),
        (["--ffn", "8", "--method", "soft"], "'soft' is not one of 'masks', 'activation'"),
        (["--ffn", "8", "--kind", "warc"], "warc is not one of text, markdown, jsonl, parquet, "),
        (
            ["--ffn", "8", "--set", "prune.lrr=1"],
            "no setting is called 'prune.lrr'\nhint: did you mean 'prune.lr'?",
        ),
        (
            ["--ffn", "8", "--set", "prune.rows_per_step=6"],
            "prune.rows_per_step (6) must be a multiple of training.micro_rows (4)",
        ),
        (
            ["--ffn", "8", "--set", "prune.row_tokens=128"],
            "prune.row_tokens (128) is above shape.max_tokens (64)",
        ),
    ],
)
def test_wrong_option_of_prune_is_named_with_its_value(refused, chat_model, texts, words, said):
    found = refused("prune", chat_model, "--data", texts, "--out", "small", *words)
    assert said.replace("MODEL", str(chat_model)) in found


@pytest.mark.parametrize("command", [["prune", "--ffn", "8"], ["distill", "--teacher", "MODEL"]])
def test_missing_texts_folders_and_models_are_named(refused, chat_model, texts, command):
    name, *options = (str(chat_model) if word == "MODEL" else word for word in command)
    here = [name, chat_model, *options]
    Path("empty").mkdir()
    Path("blank.txt").write_text(" \n")
    Path("taken").mkdir()
    Path("file").write_text("a file")
    said = refused(*here, "--data", "nothing", "--out", "small")
    assert "nothing does not exist\nhint: name a file or folder of documents" in said
    said = refused(*here, "--data", "empty", "--out", "small")
    assert "empty holds no files" in said
    assert "hint: check --data and --kind" in said
    said = refused(*here, "--data", "blank.txt", "--out", "small")
    assert "no usable document in" in said
    assert "skipped 1 empty\nhint: check --data and --kind" in said
    said = refused(*here, "--data", texts, "--out", "taken")
    assert "'taken' exists already\nhint: name another --out, or delete it" in said
    said = refused(*here, "--data", texts, "--out", "file/small")
    assert "a file is where a folder must be: file/small.work" in said
    said = refused(name, "nothing", *options, "--data", texts, "--out", "small")
    assert "no model is called 'nothing'" in said
    said = refused(name, "empty", *options, "--data", texts, "--out", "small")
    assert "empty is not a model folder, it has no config.json" in said


def test_teacher_that_cannot_teach_is_refused_with_both_values(refused, chat_model, texts):
    taught = ["--data", texts, "--out", "taught"]
    deep = altered(chat_model, Path("deep"), num_layers=2)
    said = refused("distill", deep, "--teacher", chat_model, *taught)
    assert "the teacher has 1 layers, and the student 2" in said
    assert "hint: a teacher is at least as deep as its student: is the order right?" in said
    other = altered(chat_model, Path("other"))
    table = json.loads((other / "tokenizer.json").read_text())
    table["added_tokens"][-1]["content"] = "<another>"
    (other / "tokenizer.json").write_text(json.dumps(table))
    said = refused("distill", chat_model, "--teacher", other, *taught)
    assert said.startswith("error: the teacher's tokenizer is ")
    assert ": the same ids mean other texts" in said
    said = refused("distill", chat_model, "--teacher", "nothing", *taught)
    assert "no model is called 'nothing'" in said


@pytest.fixture
def recipe(chat_model, texts, tmp_path) -> Path:
    """A recipe that prunes chat_model and distils from it, with label files."""
    narrow = shape(
        num_layers=1,
        hidden_size=16,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=12,
        vocab_size=320,
    )
    text = f"""
name = "shrunk"
{narrow}
[data.texts]
kind = "text"
path = "{texts}"
held_out_fraction = 0.05
[teacher]
model = "{chat_model}"
intermediate_size = 32
[prune]
tokens = 512
row_tokens = 32
rows_per_step = 4
lr = 1e-3
scoring_tokens = 256
{pretraining("core", {"texts": 1.0}, tokens=512, lr=1e-3)}
[distill]
labels = "before"
"""
    (tmp_path / "shrunk.toml").write_text(text)
    return tmp_path / "shrunk.toml"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.split("[teacher]")[0] + "[prune]" + text.split("[prune]")[1], "prune"),
        (
            lambda text: (
                text.split("[teacher]")[0] + "[core]" + text.split("[prune]")[1].split("[core]")[1]
            ),
            "distill",
        ),
    ],
)
def test_section_that_needs_a_teacher_says_so(refused, recipe, change, words):
    recipe.write_text(change(recipe.read_text()))
    assert f"{words} needs a [teacher]" in refused("run", recipe, "--runs", "runs")


def test_narrow_or_unfinished_teacher_is_refused(refused, recipe, tmp_path):
    narrow = refused("run", recipe, "--set", "teacher.intermediate_size=8")
    assert "teacher.intermediate_size (8) is below shape.intermediate_size (12)" in narrow
    (tmp_path / "runs" / "begun").mkdir(parents=True)
    answer = refused("run", recipe, "--set", "teacher.model=begun")
    assert "recipe 'begun' has no finished training stage in runs/begun" in answer
    assert "hint: afm run FILE.toml" in answer


def test_labels_of_other_shards_or_another_tokenizer_are_refused_with_both(afm, recipe):
    ran = afm("run", recipe)
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.out.splitlines()] == [
        *["stage", "teacher", "tokenizer", "data", "prune", "labels", "core"]
    ]
    index = Path("runs/shrunk/labels/core/texts/labels.json")
    whole = json.loads(index.read_text())
    changes = {"shards": "0" * 64, "tokenizer": "1" * 64, "row_tokens": 64, "candidates": 7}
    for name, value in changes.items():
        index.write_text(json.dumps(whole | {name: value}))
        answer = afm("run", recipe, "--from", "core")
        assert answer.code == 2
        there, here = (str(each)[:8] for each in (value, whole[name]))
        assert f" {there}, and this is {here}\n" in answer.err
        assert "hint: write the labels again: afm run RECIPE --from labels" in answer.err
    assert afm("run", recipe, "--from", "labels").code == 0


# Interrupted.


@pytest.mark.parametrize("command", ["prune", "distill"])
def test_killed_command_typed_again_goes_on_to_the_same_bits(
    afm, chat_model, texts, tmp_path, command
):
    stage, *options = {
        "prune": ["prune", "--ffn", "12", "--set", "prune.tokens=12_800", *QUICK[2:]],
        "distill": ["core", "--teacher", chat_model, "--set", "core.tokens=12_800"],
    }[command]
    words = [command, chat_model, *options, "--data", texts]
    words += ["--set", "watch.snapshot_every_seconds=0.001", "--out"]
    whole = afm(*words, "whole")
    assert whole.code == 0, whole.err
    snapshots = tmp_path / "cut.work" / "own" / f"{stage}.part" / "snapshots"
    process = start(*words, "cut")
    limit = time.monotonic() + 60
    while not list(snapshots.glob("step-0000001?")) and time.monotonic() < limit:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not Path("cut").exists()
    again = afm(*words, "cut")
    assert again.code == 0, again.err
    assert "going on from step" in again.err
    assert weights("cut").keys() == weights("whole").keys()
    assert all(
        mx.array_equal(weights("cut")[name], weights("whole")[name]) for name in weights("cut")
    )
    assert not Path("cut.work").exists()


def test_a_result_lost_after_it_was_moved_is_made_again(afm, chat_model, texts):
    """As after a kill between the last two renames, and a deleted result."""
    words = ["prune", chat_model, "--ffn", "12", "--data", texts, "--out", "small", *QUICK]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted_of(shutil.rmtree, "small.work"))
        assert afm(*words).code == 130
    first = weights_file("small")
    shutil.rmtree("small")
    assert Path("small.work").exists()
    assert afm(*words).code == 0
    assert weights_file("small") == first


def interrupted_of(function, name):
    def call(path, *words, **options):
        if Path(path).name == name:
            raise KeyboardInterrupt
        return function(path, *words, **options)

    return call
