"""Places that cannot be written to, full disks, and runs that were stopped: nothing is lost."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

from .conftest import interrupted


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
