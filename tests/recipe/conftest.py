"""A small recipe in a file, and how a changed one is refused."""

from pathlib import Path

import pytest

from afm_mlx.errors import RecipeError
from afm_mlx.recipe import (
    load_recipe,
)

SMALL = """\
about = "a small recipe"

[shape]
num_layers = 2
hidden_size = 32
num_heads = 4
num_kv_heads = 2
head_dim = 8
intermediate_size = 64
vocab_size = 256
rope_base = 10_000
norm_eps = 1e-5
max_tokens = 64

[data.web]
kind = "text"
path = "data/web"

[core]
tokens = 4_096
row_tokens = 32
rows_per_step = 4
lr = 0.01
warmup_steps = 2
final_lr_fraction = 0.1
weight_decay = 0.0
mixture = { web = 1.0 }
"""
PRUNE = "{tokens=256, row_tokens=32, rows_per_step=4, lr=0.1}"


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    """Write a recipe, `small.toml` in the working folder, with texts replaced."""
    monkeypatch.chdir(tmp_path)

    def write(*replacements, text=SMALL):
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = Path("small.toml")
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path, assignments=()):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, assignments)
    return str(caught.value), caught.value.hint
