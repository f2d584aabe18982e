"""What a user can do wrong: one or two lines and a hint, exit code 2, nothing written or lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

RECIPE = """
name = "small"
[shape]
num_layers = 2
hidden_size = 32
num_heads = 4
num_kv_heads = 2
head_dim = 8
intermediate_size = 64
vocab_size = 344
rope_base = 10_000
norm_eps = 1e-5
max_tokens = 64
[data.poems]
kind = "text"
path = "FOLDER/poems"
held_out_fraction = 0.2
[tokenizer]
reserved_pieces = 16
[core]
tokens = 512
row_tokens = 32
rows_per_step = 4
lr = 0.01
warmup_steps = 2
final_lr_fraction = 0.1
weight_decay = 1e-4
mixture = { poems = 1.0 }
[context]
tokens = 256
row_tokens = 64
rows_per_step = 2
lr = 0.003
warmup_steps = 2
final_lr_fraction = 0.1
weight_decay = 1e-5
mixture = { poems = 1.0 }
"""
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with texts, a recipe, and its finished run."""
    from afm_cli import main

    folder = tmp_path_factory.mktemp("finished")
    (folder / "poems").mkdir()
    for i in range(60):
        words = enumerate(["salt", "wind", "rain"])
        lines = [f"the {word} of the sea {i + n} is old\n" for n, word in words]
        (folder / "poems" / f"{i:02}.txt").write_text("".join(lines) * 3)
    (folder / "small.toml").write_text(RECIPE.replace("FOLDER", str(folder)))
    assert main(["run", str(folder / "small.toml"), "--runs", str(folder / "runs")]) == 0
    return folder


@pytest.fixture
def runs(finished, tmp_path) -> Path:
    """A copy of the finished run, to damage."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def recipe(finished) -> Path:
    return finished / "small.toml"


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


def test_folder_without_shards_cannot_be_inspected(refused, tmp_path):
    assert "shards.json is missing: no finished shards" in refused("data", "inspect", tmp_path)


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


def test_prompt_longer_than_the_context_is_refused_with_both_lengths(refused, runs):
    said = refused("generate", "small", "--runs", runs, "--prompt", "the sea " * 100)
    assert "tokens, and the model's context of 64 must hold it and an answer" in said
    assert "hint: shorten the prompt by" in said


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runs", "file"], "a file is where a folder must be: "),
        (["--log-json", "no/such/folder.jsonl"], "no such file or folder: no/such/folder.jsonl"),
        (["--log-json", "."], "a folder is where a file must be: ."),
        (["--profile", "no/such/trace.json"], "no such file or folder: no/such/trace.json"),
        (["--profile", "."], "a folder is where a file must be: ."),
    ],
)
def test_place_that_cannot_be_written_to_is_named(refused, recipe, tmp_path, words, said):
    (tmp_path / "file").write_text("a file")
    assert said in refused("run", recipe, *words)
    assert not (tmp_path / "runs").exists()


def test_folder_of_runs_that_may_not_be_written_to_is_named(refused, recipe, monkeypatch):
    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    said = refused("run", recipe, "--runs", "readonly")
    assert said.startswith("error: permission denied: readonly/small")


def test_second_process_on_a_run_is_refused(refused, recipe, runs):
    from afm_mlx import artifact

    with artifact.locked(runs / "small"):
        said = refused("run", recipe, "--runs", runs)
    assert "another process is running in" in said


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": "data"}'])
def test_damaged_manifest_is_named_with_what_to_delete(refused, recipe, runs, text):
    (runs / "small/data/manifest.json").write_text(text)
    said = refused("run", recipe, "--runs", runs)
    assert "manifest.json is damaged\nhint: delete " in said


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


class TestFullDisk:
    """A disk with room for some writes only, and then the same command with more room."""

    @pytest.fixture
    def full(self, monkeypatch):
        """Function that lets writing fail for files whose name contains a word."""

        def fill(word: str, patch: pytest.MonkeyPatch) -> None:
            real_open, real_save = Path.open, mx.save_safetensors

            def opened(path: Path, mode: str = "r", *args: object, **options: object):
                if word in path.name and mode[0] in "wa":
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real_open(path, mode, *args, **options)

            def saved(file: str, arrays: dict, *args: object, **options: object) -> None:
                real_save(file, arrays, *args, **options)
                if word in file:
                    os.truncate(file, 100)  # as MLX leaves it, without an error

            patch.setattr(Path, "open", opened)
            patch.setattr(mx, "save_safetensors", saved)

        return fill

    @pytest.mark.parametrize(
        ("word", "named"),
        [
            ("tokenizer_config", "disk full: "),
            ("00000.bin", "disk full while writing "),
            ("documents.bin", "disk full while writing "),
            ("metrics.jsonl", "disk full: "),
            ("state.safetensors", "state.safetensors could not be written whole"),
            ("step-00000002", "state.safetensors could not be written whole"),
            ("model.safetensors", "model.safetensors could not be written whole"),
            ("manifest.json", "disk full: "),
        ],
    )
    def test_run_says_so_and_goes_on_when_there_is_room(
        self, refused, afm, recipe, full, finished, tmp_path, word, named
    ):
        command = ["run", recipe, "--runs", "runs", "--set", "watch.snapshot_every_seconds=0.001"]
        with pytest.MonkeyPatch.context() as patch:
            full(word, patch)
            said = refused(*command, changes=True)
        assert named in said
        assert "free some space, then" in said
        assert afm(*command).code == 0
        for stage in ("core", "context"):
            file = Path("small", stage, "model", "model.safetensors")
            assert (tmp_path / "runs" / file).read_bytes() == (
                finished / "runs" / file
            ).read_bytes()

    def test_import_leaves_nothing(self, refused, afm, runs, full):
        command = ["import", "small", "--runs", runs, "--out", "imported"]
        with pytest.MonkeyPatch.context() as patch:
            full("model.safetensors", patch)
            assert "could not be written whole" in refused(*command)
        assert afm(*command).code == 0

    def test_tokenizer_leaves_nothing(self, refused, afm, finished, full):
        command = ["tokenizer", "train", finished / "poems", "--out", "new", "--vocab-size", "384"]
        with pytest.MonkeyPatch.context() as patch:
            full("tokenizer.json", patch)
            assert "disk full: " in refused(*command)
        assert afm(*command).code == 0


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


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_work_of_other_settings_is_set_aside_and_not_deleted(afm, recipe, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afm_mlx.stages.pretrain.save_checkpoint", interrupted)
        assert afm("run", recipe, "--runs", "runs").code == 130
    assert afm("run", recipe, "--runs", "runs", "--set", "core.lr=0.02").code == 0
    assert (tmp_path / "runs/small/set-aside/core-1/metrics.jsonl").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_says_where_it_saved_and_the_same_command_goes_on(
    finished, recipe, tmp_path, number
):
    shutil.copytree(finished / "runs", tmp_path / "runs")
    code = "import sys; from afm_cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", str(recipe), "--runs", "runs"]
    command += ["--set", "core.tokens=2_000_000"]
    for lowest in (1, 2):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        log = tmp_path / "runs/small/core.part/metrics.jsonl"
        size, limit = log.stat().st_size if log.exists() else 0, time.monotonic() + 20
        while not (log.exists() and log.stat().st_size > size) and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        said = errors.splitlines()[-1]
        assert said.startswith("interrupted: saved at step ")
        assert said.endswith("core.part/snapshots; the same command goes on")
        assert ("going on from step" in errors) == (lowest == 2)
    assert (tmp_path / "runs/small/core/manifest.json").exists()  # the old result is still there
