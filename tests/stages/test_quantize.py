"""The stage quantize: what it leaves, what it calibrates on, and what it refuses."""

import json

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.palettize import matrix_sizes
from afm_mlx.decoder.checkpoint import open_checkpoint, read_facts, save_checkpoint, stored_bits
from afm_mlx.decoder.palette import Int8Embedding
from afm_mlx.errors import DataError, ModelError, RecipeError

BEFORE = ("teacher", "prune", "tokenizer", "data", "core")
QUANTIZE = (
    "quantize.target_bits_per_weight=3.5",
    "quantize.calibration_rows=8",
    "quantize.calibration_row_tokens=32",
    "quantize.gradient_rows=4",
    "quantize.equalize=false",
)


@pytest.fixture
def quantized(copied):
    runs = copied(*BEFORE)
    return runs, runs(*QUANTIZE, last="quantize")["quantize"]["metrics"]


def test_it_leaves_a_palettized_model_its_measures_and_a_picture(quantized, finished):
    runs, metrics = quantized
    folder = runs.stage("quantize") / "model"
    model, before = open_checkpoint(folder), open_checkpoint(finished.stage("core") / "model")
    assert isinstance(model.model.embed_tokens, Int8Embedding)
    assert read_facts(folder)["stage"] == "quantize"
    assert metrics["bits_per_weight"] <= 3.5
    assert metrics["bits"].keys() == matrix_sizes(before.shape).keys()
    assert metrics["stored_bits"]["linears"] == pytest.approx(
        stored_bits(folder)["linears"].per_weight
    )
    core = json.loads((finished.stage("core") / "manifest.json").read_text())["metrics"]
    assert metrics["base_held_out_nats"] == pytest.approx(core["held_out_nats"], abs=1e-3)
    assert 0 < metrics["held_out_kl"] < 0.5
    assert metrics["held_out_nats"] != metrics["base_held_out_nats"]
    assert "<svg" in (runs.stage("quantize") / "bits.svg").read_text()
    # What was needed to go on is gone with the run.
    assert not list(runs.stage("quantize").glob("**/block-*"))


def test_held_out_divergence_is_that_of_the_files(quantized, finished):
    """Of both models as they are on disk, on the same rows, by the definition."""
    runs, metrics = quantized
    from afm_mlx.corpus.packing import shift_right
    from afm_mlx.recipe import load_recipe
    from afm_mlx.text.tokenizer import Tokenizer
    from afm_mlx.training.texts import open_held_out

    recipe = load_recipe(runs.recipe)
    tokenizer = Tokenizer.open(runs.stage("quantize") / "model")
    (rows,) = open_held_out(
        runs.stage("data"),
        recipe.data,
        tokenizer,
        row_tokens=32,
        span_tokens=recipe.longest_row(),
        most_tokens=recipe.watch.evaluation_tokens,
    ).values()
    inputs = shift_right(mx.array(rows.targets), tokenizer.eos_id)
    p, q = (
        np.array(mx.softmax(open_checkpoint(runs.stage(name) / "model")(inputs), axis=-1))
        for name in ("core", "quantize")
    )
    kl = (p * np.log(p / q)).sum(-1)
    by_hand = (kl * rows.counts).sum() / rows.counts.sum()
    assert metrics["held_out_kl"] == pytest.approx(by_hand, rel=0.02)


def test_a_changed_target_makes_it_again_and_another_learning_rate_does_not(quantized):
    runs, _ = quantized
    assert runs.todo(*QUANTIZE) == []
    changed = ("quantize.target_bits_per_weight=3.0", *QUANTIZE[1:])
    assert runs.todo(*changed) == ["quantize"]


def test_texts_shorter_than_a_row_are_refused_with_their_length(copied):
    runs = copied(*BEFORE)
    # A stage before it would refuse them, too, where its rows are as long.
    short = [f"{name}.row_tokens=8" for name in ("core", "prune")]
    with pytest.raises(DataError, match=r"source 'poems' has \d+ tokens .* needs 32") as caught:
        runs(*QUANTIZE, *short, "data.poems.max_bytes=60", last="quantize")
    assert "--set quantize.calibration_row_tokens=" in caught.value.hint


def test_rows_longer_than_the_context_are_refused(copied):
    runs = copied(*BEFORE)
    with pytest.raises(ModelError, match="calibration_row_tokens is 128, and the model's context"):
        runs(*QUANTIZE, "quantize.calibration_row_tokens=128", last="quantize")


def test_a_target_out_of_reach_is_refused(copied):
    runs = copied(*BEFORE)
    with pytest.raises(RecipeError, match=r"2\.1 bits per weight cannot be reached"):
        runs(
            *QUANTIZE,
            "quantize.target_bits_per_weight=2.1",
            "quantize.target_counts_embedding=true",
            last="quantize",
        )


def test_a_model_with_nan_is_refused_by_the_matrix_s_name(copied):
    runs = copied(*BEFORE)
    folder = runs.stage("core") / "model"
    model = open_checkpoint(folder)
    weight = model.layers[0].mlp.gate_proj.weight
    weight[1, 1] = mx.nan
    save_checkpoint(folder, model, folder, facts=read_facts(folder))
    with pytest.raises(ModelError, match=r"1 in model\.layers\.0\.mlp\.gate_proj"):
        runs(*QUANTIZE, last="quantize")
