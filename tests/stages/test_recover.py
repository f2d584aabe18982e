"""A quantized model wins back what it lost, and its weights stay."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx import own_model
from afm_mlx.decoder.adapters import Adapters, default_adapter, find_adapters, read_adapter
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.palette import (
    Int8Embedding,
    PaletteLinear,
    int8_rows,
    linears,
    pack,
    replace_linears,
)
from afm_mlx.progress import Progress

SETTINGS = (
    "recover.tokens=4096",
    "recover.row_tokens=32",
    "recover.rows_per_step=4",
    "recover.candidates=32",
    "recover.lr=0.01",
    "recover.calibration_rows=8",
    "training.micro_rows=2",
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(80):
        words = " ".join(["The cat", "sat on", "the mat.", "Where is", "the dog?"][number % 4 :])
        (folder / f"{number:02}.txt").write_text(f"{number} {words} In the house.\n" * 3)
    return folder


def coarse(weight: mx.array) -> PaletteLinear:
    """Tables of four quantiles of each group of rows."""
    groups = weight.reshape(weight.shape[0] // 8, -1)
    at = ((np.arange(4) + 0.5) * groups.shape[1] / 4).astype(int)
    tables = mx.sort(groups, axis=1)[:, mx.array(at)].astype(mx.float16)
    near = mx.abs(groups[:, :, None] - tables.astype(mx.float32)[:, None]).argmin(-1)
    ids = pack(near.reshape(weight.shape), 2)
    return PaletteLinear(ids, tables, bits=2, group_rows=8, in_features=weight.shape[1])


@pytest.fixture(scope="module")
def quantized(base, tmp_path_factory) -> Path:
    """The model in `base` in tables of 2 bits."""
    model = open_checkpoint(base)
    layers = {name: coarse(layer.weight) for name, layer in linears(model).items()}
    embedding = Int8Embedding(*int8_rows(model.model.embed_tokens.weight))
    replace_linears(model, {**layers, "model.embed_tokens": embedding})
    folder = tmp_path_factory.mktemp("quantized") / "model"
    save_checkpoint(folder, model, base, facts={"stage": "quantize"})
    return folder


def recover(recipe, out, **options):
    return own_model.run(recipe, "recover", out, Progress(**options))["metrics"]


def test_adapters_of_all_ranks_win_back_and_the_base_stays(base, quantized, texts, tmp_path):
    recipe = own_model.recover_recipe(
        quantized,
        texts,
        teacher=base,
        assignments=[*SETTINGS, "recover.ranks=[2, 8]", "recover.product_rank=8"],
    )
    out = tmp_path / "recovered"
    metrics = recover(recipe, out)
    assert metrics["ranks"]["8"]["held_out_won_back"] > 0.5
    assert metrics["ranks"]["2"]["held_out_won_back"] > 0.2
    assert metrics["held_out_kl"] == metrics["ranks"]["8"]["held_out_kl"]
    assert metrics["held_out_kl"] < metrics["base_held_out_kl"]
    for name in ("model.safetensors", "tokenizer.json"):
        assert (out / name).read_bytes() == (quantized / name).read_bytes()
    assert [folder.name for folder in find_adapters(out)] == ["recovery-2", "recovery-8"]
    assert default_adapter(out).name == "recovery-8"
    assert not (out / "labels").exists()


def test_the_kept_adapter_is_the_one_that_was_measured(base, quantized, texts, tmp_path):
    out = tmp_path / "recovered"
    recipe = own_model.recover_recipe(quantized, texts, teacher=base, rank=4, assignments=SETTINGS)
    metrics = recover(recipe, out)
    model = open_checkpoint(out)
    held = Adapters(model, out)
    held.use(held.add(out / "adapters" / "recovery-4"))
    # Measured again, by a recovery of nothing that starts from this model.
    teacher = open_checkpoint(base)
    tokens = mx.array([[5, 17, 60, 3, 8, 200, 9]])
    before = float(mx.abs(open_checkpoint(quantized)(tokens) - teacher(tokens)).mean())
    after = float(mx.abs(model(tokens) - teacher(tokens)).mean())
    assert after < before
    assert metrics["parameters"] == sum(
        a.size for a in read_adapter(out / "adapters" / "recovery-4", out).arrays.values()
    )
