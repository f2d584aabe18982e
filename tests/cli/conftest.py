"""A tiny chat model on disk, and the command line as a function."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import pytest
from afm_cli import main

from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.settings.sections import Shape


@pytest.fixture(scope="session")
def chat_model(small_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    lines = ["The cat sat on the mat. What is on the hill? A house.\n"] * 20
    small_tokenizer(lines, folder / "tokenizer")
    model = Decoder(
        Shape(
            num_layers=1,
            hidden_size=16,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            intermediate_size=32,
            vocab_size=320,
            rope_base=10_000,
            norm_eps=1e-5,
            max_tokens=64,
        )
    )
    initialize(model, seed=2)
    save_checkpoint(folder / "model", model, folder / "tokenizer", facts={"stage": "sft"})
    return folder / "model"


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
