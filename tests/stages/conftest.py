"""A recipe that prunes and distils, a tiny base model, and conversations it can learn."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from afm_mlx import pipeline
from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_recipe
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import Tokenizer
from tests import small_recipes
from tests.small_recipes import pretraining, shape, write_poems

RECIPE = (
    'name = "small"\n'
    + shape(intermediate_size=24, vocab_size=344)
    + """\
[data.poems]
kind = "text"
path = "{folder}"
held_out_fraction = 0.2
[tokenizer]
reserved_pieces = 16
[watch]
evaluation_tokens = 256
log_every_steps = 1
"""
    + pretraining("core", {"poems": 1.0}, tokens=1_024)
    + """\
[teacher]
intermediate_size = 64
tokens = 2_048
[prune]
tokens = 1_024
row_tokens = 32
rows_per_step = 4
lr = 0.002
scoring_tokens = 512
[distill]
"""
)


class Runs:
    """Runs of the recipe in one folder."""

    def __init__(self, recipe: Path, folder: Path) -> None:
        self.recipe, self.folder, self.said = recipe, folder, ""

    def __call__(self, *assignments: str, **options: Any) -> dict[str, dict[str, Any]]:
        """Run it; manifests by stage."""
        stream = io.StringIO()
        recipe = load_recipe(self.recipe, assignments)
        try:
            manifests = pipeline.run(recipe, self.folder, Progress(stream=stream), **options)
        finally:
            self.said = stream.getvalue()
        return {manifest["stage"]: manifest for manifest in manifests}

    def todo(self, *assignments: str) -> list[str]:
        steps = pipeline.plan_steps(load_recipe(self.recipe, assignments), self.folder)
        return [step.stage.name for step in steps if step.todo]

    def stage(self, name: str) -> Path:
        return self.folder / "small" / name

    def weights(self, name: str) -> dict[str, mx.array]:
        return dict(mx.load(str(self.stage(name) / "model" / "model.safetensors")))

    def log(self, name: str) -> list[dict[str, Any]]:
        """The stage's log, without what a clock says."""
        lines = (self.stage(name) / "metrics.jsonl").read_text().splitlines()
        clock = ("tokens_per_second", "peak_gb")
        return [
            {key: value for key, value in json.loads(line).items() if key not in clock}
            for line in lines
        ]


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poems")
    write_poems(folder)
    path = folder / "small.toml"
    path.write_text(RECIPE.format(folder=folder))
    return path


@pytest.fixture(scope="session")
def finished(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A finished run; look, and change nothing."""
    runs = Runs(recipe_file, tmp_path_factory.mktemp("finished"))
    runs()
    return runs


@pytest.fixture
def runs(recipe_file: Path, tmp_path: Path) -> Runs:
    return Runs(recipe_file, tmp_path)


@pytest.fixture
def copied(finished: Runs, recipe_file: Path, tmp_path: Path) -> Callable[..., Runs]:
    """Makes a folder of runs with some finished stages in it."""

    def copy(*stages: str, name: str = "copied") -> Runs:
        for stage in stages:
            shutil.copytree(finished.stage(stage), tmp_path / name / "small" / stage)
        return Runs(recipe_file, tmp_path / name)

    return copy


SHAPE = Shape.model_validate(small_recipes.SHAPE | {"vocab_size": 320})

ON_BASE = 'base = "{base}"\n' + shape(vocab_size=320, max_tokens="{context}")
"""A recipe's start: a finished model of `SHAPE`."""


@pytest.fixture(scope="session")
def base(small_tokenizer, tmp_path_factory) -> Path:
    """Folder of a model with random weights."""
    folder = tmp_path_factory.mktemp("base")
    lines = ["The cat sat on the mat. Where is the dog? In the house.\n"] * 20
    small_tokenizer(lines, folder / "tokenizer")
    model = Decoder(SHAPE)
    initialize(model, seed=2)
    save_checkpoint(folder / "model", model, folder / "tokenizer")
    return folder / "model"


@pytest.fixture
def chats(tmp_path) -> Path:
    """A file of 60 conversations in which the answer repeats the question's word."""
    lines = []
    for number in range(60):
        word = "".join("abcdefgh"[(number >> (3 * place)) % 8] for place in range(2))
        said = [
            {"role": "user", "content": f"say {word}"},
            {"role": "assistant", "content": f"{word}."},
        ]
        lines.append(json.dumps({"messages": said}))
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def chatty(base, tmp_path_factory) -> Path:
    """Folder of a random model that ends its turns soon."""
    tokenizer = Tokenizer.open(base)
    model = Decoder(SHAPE.model_copy(update={"tied": False}))
    initialize(model, seed=2)
    weight = mx.array(model.lm_head.weight)
    weight[tokenizer.eos_ids[1]] *= 3
    model.lm_head.weight = weight
    folder = tmp_path_factory.mktemp("chatty") / "model"
    save_checkpoint(folder, model, base, facts={"stage": "sft"})
    return folder


def apart(*words: object, settings: Sequence[str] = ()) -> subprocess.Popen[str]:
    """`afm WORDS`, with `--set` before each of `settings`, in a process that can be killed."""
    code = "import sys; from afm_cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, words)]
    command += [word for each in settings for word in ("--set", each)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed_when(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Kill a process as soon as something has happened on disk."""
    limit = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def finished_apart(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process that does its work says, on both streams."""
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    return said, errors
