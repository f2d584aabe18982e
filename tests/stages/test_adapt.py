"""Product adapters: they learn, the base stays, and each starts where it should."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx import own_model, pipeline
from afm_mlx.decoder.adapters import AdapterFacts, base_hash, fuse, read_adapter, write_adapter
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.lora import add_lora, lora_arrays
from afm_mlx.decoder.palette import (
    Int8Embedding,
    PaletteLinear,
    int8_rows,
    linears,
    pack,
    replace_linears,
)
from afm_mlx.errors import DataError, ModelError, RecipeError
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_recipe
from afm_mlx.training.demonstrations import read_demonstrations
from afm_mlx.training.validation import held_out_answers

from .conftest import ON_BASE, apart, finished_apart, killed_when

RECIPE = (
    'name = "adapted"\n'
    + ON_BASE
    + """
[optimizer]
name = "adamw"
eps = 1e-8
[watch]
evaluate_every_steps = 20
[adapters.echo]
lr = 0.01
row_tokens = 64
rows_per_step = 4
epochs = 4
held_out_fraction = 0.1
rank = 8
data.chats = {{ path = "{chats}" }}
"""
)


@pytest.fixture
def own_base(base, tmp_path) -> Path:
    """A copy of the base that a test may change."""
    return Path(shutil.copytree(base, tmp_path / "plain"))


@pytest.fixture
def recipe(own_base, chats, tmp_path):
    path = tmp_path / "adapted.toml"
    path.write_text(RECIPE.format(base=own_base, chats=chats, context=64))
    return path


def run(path, tmp_path, *assignments):
    told = io.StringIO()
    manifests = pipeline.run(
        load_recipe(path, assignments), tmp_path / "runs", Progress(stream=told)
    )
    return manifests[-1]["metrics"], told.getvalue()


def result(tmp_path) -> Path:
    return tmp_path / "runs" / "adapted" / "adapter-echo" / "adapter"


def recovery(base: Path, *ranks: int) -> None:
    """Give a model folder recovery adapters that change it; the last is its own."""
    for rank in ranks:
        model = open_checkpoint(base)
        add_lora(model, rank=rank, scale=2.0, seed=rank)
        arrays = lora_arrays(model)
        for name in arrays:
            if name.endswith("lora_b"):
                arrays[name] = 0.05 * mx.random.normal(arrays[name].shape, key=mx.random.key(rank))
        facts = AdapterFacts(f"recovery-{rank}", base_hash(base), "own", rank, 2.0 * rank)
        write_adapter(base / "adapters" / facts.name, arrays, facts, dense=True)
    config = json.loads((base / "config.json").read_text())
    config["afm"] = config.get("afm", {}) | {"adapter": f"recovery-{ranks[-1]}"}
    (base / "config.json").write_text(json.dumps(config))


def palettize(base: Path) -> None:
    """Make a model folder one of 4-bit tables, evenly spaced, and an 8-bit embedding."""
    model = open_checkpoint(base)
    layers = {"model.embed_tokens": Int8Embedding(*int8_rows(model.model.embed_tokens.weight))}
    for name, layer in linears(model).items():
        groups = layer.weight.reshape(-1, 16, layer.weight.shape[1])
        low, high = groups.min((1, 2), keepdims=True), groups.max((1, 2), keepdims=True)
        ids = mx.round((groups - low) / (high - low) * 15).reshape(layer.weight.shape)
        tables = low[:, :, 0] + (high - low)[:, :, 0] * mx.arange(16) / 15
        layers[name] = PaletteLinear(
            pack(ids.astype(mx.uint32), 4),
            tables.astype(mx.float16),
            bits=4,
            group_rows=16,
            in_features=layer.weight.shape[1],
        )
    replace_linears(model, layers)
    save_checkpoint(base, model, base, facts={"stage": "quantize"})


def digest(folder: Path, name: str) -> str:
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_an_adapter_learns_and_its_base_stays(recipe, own_base, tmp_path):
    before = digest(own_base, "model.safetensors")
    metrics, told = run(recipe, tmp_path)
    assert metrics["held_out_nats"] < 0.8 * metrics["start_held_out_nats"]
    assert (metrics["rank"], metrics["parent"], metrics["conversations"]) == (8, "", 60)
    trained = 2 * 8 * (64 + 48 + 48 + 64 + 3 * 96)  # layers, rank, inputs and outputs of linears
    assert f"{trained:,} parameters" in told
    assert digest(own_base, "model.safetensors") == before
    facts = read_adapter(result(tmp_path), own_base).facts
    assert (facts.name, facts.rank, facts.scale, facts.chat) == ("echo", 8, 1.0, True)
    assert facts.data[0].endswith("chats.jsonl")


def test_beside_a_palettized_base_an_adapter_learns_and_cannot_be_fused(recipe, own_base, tmp_path):
    palettize(own_base)
    recovery(own_base, 8)
    before = digest(own_base, "model.safetensors")
    metrics, _ = run(recipe, tmp_path)
    assert metrics["parent"] == "recovery-8"
    assert metrics["held_out_nats"] < 0.8 * metrics["start_held_out_nats"]
    assert digest(own_base, "model.safetensors") == before
    assert not (result(tmp_path) / "adapter_model.safetensors").exists()
    engine = Engine.open(own_base)
    assert engine.adapters.active == "recovery-8"
    engine.use_adapter(engine.adapters.add(result(tmp_path)))
    said = engine.stream([{"role": "user", "content": "say ab"}], max_tokens=8)
    assert "".join(chunk.text for chunk in said)
    with pytest.raises(ModelError, match=r"is palettized .*an adapter's values do not fit its ta"):
        fuse(own_base, result(tmp_path), tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def test_what_was_measured_is_what_is_saved(recipe, own_base, chats, tmp_path):
    metrics, _ = run(recipe, tmp_path)
    engine = Engine.open(own_base)
    engine.use_adapter(engine.adapters.add(result(tmp_path)))
    shown = read_demonstrations(
        {"chats": chats}, engine.tokenizer, row_tokens=64, held_out_fraction=0.1
    )
    saved = held_out_answers(
        engine.model,
        shown.held_out,
        row_tokens=64,
        most_tokens=65_536,
        micro_rows=4,
        chunk_bytes=2**20,
    )
    assert saved["held_out_nats"] == pytest.approx(metrics["held_out_nats"], rel=2e-3)  # 16 bits


def test_it_starts_from_the_recovery_adapter_of_its_rank_and_replaces_it(
    recipe, own_base, tmp_path
):
    recovery(own_base, 4, 8)
    metrics, told = run(recipe, tmp_path, "adapters.echo.lr=1e-12", "adapters.echo.epochs=1")
    assert metrics["parent"] == "recovery-8"
    assert "starts from adapter recovery-8 of plain" in told
    made = read_adapter(result(tmp_path), own_base)
    start = read_adapter(own_base / "adapters" / "recovery-8", own_base)
    assert made.facts.scale == start.facts.scale == 2.0
    assert all(mx.allclose(made.arrays[name], start.arrays[name]) for name in start.arrays)
    metrics, _ = run(recipe, tmp_path, "adapters.echo.rank=4", "adapters.echo.epochs=1")
    assert metrics["parent"] == "recovery-4"
    with pytest.raises(ModelError, match="has recovery adapters of rank 4, 8, and an adapter of"):
        run(recipe, tmp_path, "adapters.echo.rank=16")


def test_the_rank_is_the_recovery_adapters_unless_told(own_base, chats):
    assert own_model.adapt_recipe(own_base, chats, name="x").adapters["x"].rank == 16
    recovery(own_base, 4)
    assert own_model.adapt_recipe(own_base, chats, name="x").adapters["x"].rank == 4
    assert own_model.adapt_recipe(own_base, chats, name="x", rank=2).adapters["x"].rank == 2


def test_micro_batches_and_recomputing_change_rounding_only(recipe, own_base, tmp_path):
    run(recipe, tmp_path, "adapters.echo.epochs=1")
    whole = read_adapter(result(tmp_path), own_base).arrays
    less = ["training.micro_rows=1", "training.activation_checkpointing=true"]
    settings = load_recipe(recipe, ["adapters.echo.epochs=1", *less])
    told = Progress(stream=io.StringIO())
    pipeline.run(settings, tmp_path / "runs", told, first="adapter-echo")
    parts = read_adapter(result(tmp_path), own_base).arrays
    assert all(mx.allclose(whole[name], parts[name], atol=2e-3) for name in whole)


def test_bad_lines_are_named_by_file_and_line(recipe, chats, tmp_path):
    chats.write_text(chats.read_text() + '{"messages": [{"role": "wizard", "content": "x"}]}\n')
    with pytest.raises(DataError, match=r"chats.jsonl, line 61: message 1 has the unknown role"):
        run(recipe, tmp_path, "adapters.echo.epochs=1")
    metrics, _ = run(recipe, tmp_path, "adapters.echo.epochs=1", "adapters.echo.skip_bad=true")
    assert (metrics["skipped"], metrics["conversations"]) == (1, 60)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("adapters.echo.row_tokens=128", r"adapters.echo.row_tokens \(128\) is above"),
        ("training.micro_rows=3", r"adapters.echo.rows_per_step \(4\) must be a multiple"),
        ("adapters.echo.data.chats.path=synthetic:chats", "no .synthetic.chats."),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(recipe, assignment, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, [assignment])


@pytest.mark.parametrize("name", ["none", "two words"])
def test_a_name_that_means_something_else_is_refused(own_base, chats, name):
    with pytest.raises(RecipeError, match=f"an adapter cannot be called '{name}'"):
        own_model.adapt_recipe(own_base, chats, name=name)


SHORT = ["adapters.echo.row_tokens=64", "adapters.echo.epochs=8"]
SHORT += ["watch.snapshot_every_seconds=0.001"]


def adapt(base, chats, out):
    words = ["adapt", base, "--data", chats, "--name", "echo", "--out", out]
    return apart(*words, settings=SHORT)


def test_training_killed_in_its_middle_ends_with_the_same_bits(tmp_path, own_base, chats):
    recovery(own_base, 4)
    whole = own_model.adapt_recipe(own_base, chats, name="echo", assignments=SHORT)
    own_model.run(whole, "adapter-echo", tmp_path / "whole", Progress(stream=io.StringIO()))
    cut = adapt(own_base, chats, tmp_path / "cut")
    snapshots = tmp_path / "cut.work" / "own" / "adapter-echo.part" / "snapshots"
    killed_when(cut, lambda: any(snapshots.glob("step-*1[0-9]")))
    assert not (tmp_path / "cut").exists()
    _, errors = finished_apart(adapt(own_base, chats, tmp_path / "cut"))
    assert "going on from step" in errors
    name = "adapters.safetensors"
    assert digest(tmp_path / "cut", name) == digest(tmp_path / "whole", name)
