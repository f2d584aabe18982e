"""A tiny chat model on disk, a finished run, and the command line as a function."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import pytest
from afm_cli import main

from tests.small_recipes import pretraining, shape, write_poems


@pytest.fixture(scope="session")
def chat_model(small_chat_model, tmp_path_factory) -> Path:
    """A model that is smaller yet, and reads 64 tokens."""
    return small_chat_model(
        tmp_path_factory.mktemp("cli") / "model",
        lines=["The cat sat on the mat. What is on the hill? A house.\n"] * 20,
        seed=2,
        num_layers=1,
        hidden_size=16,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=32,
        vocab_size=320,
        max_tokens=64,
    )


RECIPE = (
    'name = "small"\n'
    + shape(vocab_size=344)
    + """\
[data.poems]
kind = "text"
path = "FOLDER/poems"
held_out_fraction = 0.2
[tokenizer]
reserved_pieces = 16
"""
    + pretraining("core", {"poems": 1.0}, tokens=512)
    + pretraining(
        "context",
        {"poems": 1.0},
        tokens=256,
        row_tokens=64,
        rows_per_step=2,
        lr=0.003,
        weight_decay=1e-5,
    )
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder with texts, a recipe, and its finished run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "poems").mkdir()
    write_poems(folder / "poems")
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


@dataclass
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def afm(capfd, monkeypatch, tmp_path):
    """Function that runs a command line in an empty folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFM_CACHE_DIR", str(tmp_path / "cache"))

    def run(*words: object) -> Answer:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Answer(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    """A folder of short documents."""
    folder = tmp_path_factory.mktemp("texts")
    for i in range(150):
        text = f"The cat sat on mat {i}. What is on the hill? A house, and cat {i} in it.\n"
        (folder / f"{i:03}.txt").write_text(text * 3)
    return folder


@pytest.fixture
def refused(afm, tmp_path):
    """Function that runs a command, and checks that it is refused and leaves all files alone."""

    def run(*words: object, changes: bool = False) -> str:
        before = contents(tmp_path)
        answer = afm(*words)
        said = [line for line in answer.err.splitlines() if line.startswith(("error: ", "hint: "))]
        assert answer.code == 2, answer.err
        assert answer.out == ""
        assert "Traceback" not in answer.err
        assert 1 <= sum(line.startswith("error: ") for line in said) <= 2
        assert sum(line.startswith("hint: ") for line in said) <= 1
        if not changes:
            assert contents(tmp_path) == before
        return "\n".join(said)

    return run


@pytest.fixture
def serving():
    """Function that starts a server by its command, and gives its process and its first line."""
    started = []

    def run(*words: object) -> tuple[subprocess.Popen[str], str]:
        process = start(*words, "--port", 0)
        started.append(process)
        return process, process.stdout.readline().rstrip("\n")

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    """Write a file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(folder: Path) -> dict[str, str]:
    """Checksum of each file below a folder, but for locks, which hold nothing."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def weights(folder) -> dict[str, mx.array]:
    """Tensors of a model folder by name."""
    return dict(mx.load(str(Path(folder) / "model.safetensors")))


def start(*words: object) -> subprocess.Popen[str]:
    """`afm WORDS` in a process that can be killed."""
    code = "import sys; from afm_cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupted(*_: object, **__: object) -> None:
    """Takes the place of a step at which the user presses Ctrl-C."""
    raise KeyboardInterrupt
