"""What a user can ask wrong: one or two lines and a hint, exit code 2, nothing written or lost."""

import json
import shutil

import pytest


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("core.lrr=1", "no setting is called 'core.lrr'\nhint: did you mean 'core.lr'?"),
        ("core.lr=fast", "core.lr is 'fast': expected a number above 0"),
        ("shape.num_layers=-2", "shape.num_layers is -2: expected a whole number above 0"),
        ("core.row_tokens=128", "core.row_tokens (128) is above shape.max_tokens (64)"),
        ("core.lr", "'core.lr' is not NAME=VALUE\nhint: try --set core.lr=0.02"),
    ],
)
def test_wrong_setting_is_named_with_its_value(refused, recipe, runs, assignment, words):
    assert words in refused("run", recipe, "--runs", runs, "--set", assignment)


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        ("broken.toml", b"[shape\n", "broken.toml, line 1, column 7: not TOML"),
        ("other.toml", b"\xff\xfe", "cannot read recipe other.toml: not UTF-8 (byte 0)"),
        ("missing.toml", None, "cannot read recipe missing.toml: no such file"),
        ("afm-tinny", None, "no recipe is called 'afm-tinny'\nhint: did you mean 'afm-tiny'?"),
    ],
)
def test_recipe_that_cannot_be_read_is_named(refused, tmp_path, file, data, words):
    if data is not None:
        (tmp_path / file).write_bytes(data)
    assert words in refused("run", file, "--runs", "runs")


@pytest.mark.parametrize("option", ["--from", "--until"])
def test_unknown_stage_is_answered_before_anything_is_written(refused, recipe, tmp_path, option):
    said = refused("run", recipe, "--runs", "new", option, "contxt")
    assert "no stage 'contxt': it has tokenizer, data, core, context" in said
    assert not (tmp_path / "new").exists()


def test_pretrain_takes_stages_of_pre_training_only(refused, recipe, tmp_path):
    said = refused("pretrain", recipe, "--runs", "new", "--stage", "sft")
    assert "'sft' is not one of core, continued, context" in said
    assert not (tmp_path / "new").exists()


def test_value_out_of_range_is_said_in_plain_words(refused, recipe):
    said = refused("generate", recipe, "--prompt", "x", "--max-tokens", "0")
    assert "'--max-tokens': must be greater than or equal to 1" in said
    said = refused("prefer", "x", "--data", "x", "--out", "y", "--method", "none")
    assert "'--method': 'none' is not one of 'dpo', 'ipo'" in said


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no files of kind text (.txt, .text)"),
        ({"a.txt": b"", "b.txt": b" \n"}, "no usable document in corpus (kind text)"),
        ({"a.txt": b"caf\xe9\n", "b.txt": b"\xff"}, "skipped 2 not UTF-8"),
    ],
)
def test_corpus_without_a_text_is_refused(refused, recipe, tmp_path, files, words):
    (tmp_path / "corpus").mkdir()
    for name, data in files.items():
        (tmp_path / "corpus" / name).write_bytes(data)
    said = refused("run", recipe, "--runs", "runs", "--set", "data.poems.path=corpus")
    assert words in said
    assert "hint: check data.poems.path" in said


def test_file_that_is_not_utf8_among_good_ones_is_counted_and_the_run_goes_on(
    afm, finished, recipe, tmp_path
):
    shutil.copytree(finished / "poems", tmp_path / "corpus")
    (tmp_path / "corpus" / "bad.txt").write_bytes(b"caf\xe9\n")
    answer = afm(
        "run", recipe, "--runs", "runs", "--until", "data", "--set", "data.poems.path=corpus"
    )
    assert answer.code == 0
    assert "skipped: 1 not UTF-8" in answer.err
    counts = json.loads((tmp_path / "runs/small/data/poems.json").read_text())
    assert counts["skipped"] == {"not UTF-8": 1}


def test_folder_without_shards_cannot_be_inspected(refused, tmp_path):
    assert "shards.json is missing: no finished shards" in refused("data", "inspect", tmp_path)


def test_prompt_longer_than_the_context_is_refused_with_both_lengths(refused, runs):
    said = refused("generate", "small", "--runs", runs, "--prompt", "the sea " * 100)
    assert "tokens, and the model's context of 64 must hold it and an answer" in said
    assert "hint: shorten the prompt by" in said


def test_unknown_model_is_refused_and_the_hub_only_asked_for_hub_names(refused, monkeypatch):
    import huggingface_hub

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    said = refused("generate", "nothing", "--prompt", "the")
    assert "no model is called 'nothing': no recipe, folder or .gguf file" in said
    said = refused("generate", "some/model", "--prompt", "the")
    assert "'some/model' is no folder here, and cannot be had from the hub: no network" in said


@pytest.mark.parametrize("command", ["import", "tokenizer"])
def test_folder_that_exists_is_never_written_over(refused, finished, runs, tmp_path, command):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tokenizer.json").write_text("precious")
    words = {
        "import": ["import", "small", "--runs", runs, "--out", "mine"],
        "tokenizer": [
            *["tokenizer", "train", finished / "poems", "--out", "mine", "--vocab-size", "384"],
        ],
    }
    said = refused(*words[command])
    assert "'mine' exists already\nhint: name another --out, or delete it" in said


@pytest.mark.parametrize("options", [["--vocab-size", "49152"], ["--vocab-size", "100"]])
def test_too_little_text_or_vocabulary_for_a_tokenizer_is_said_in_its_options(
    refused, finished, tmp_path, options
):
    said = refused("tokenizer", "train", finished / "poems", "--out", "new", *options)
    assert "--vocab-size " in said
    assert not (tmp_path / "new").exists()


def test_tokenizer_of_an_empty_file_is_refused(refused, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    said = refused("tokenizer", "train", "empty.txt", "--out", "new", "--vocab-size", "400")
    assert "no usable document in empty.txt (kind text); skipped 1 empty" in said
