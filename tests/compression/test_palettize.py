import io
import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.bits import average_bits
from afm_mlx.compression.damage import estimated_damage, fit_alone, measured_damage
from afm_mlx.compression.divergence import Reference
from afm_mlx.compression.moments import start_stream
from afm_mlx.compression.palettize import Palettizer, check_target, matrix_sizes
from afm_mlx.compression.tables import dense, fit_tables
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint, stored_bits
from afm_mlx.decoder.decoder import Decoder, named_parameters
from afm_mlx.decoder.palette import Int8Embedding, Int8Linear, PaletteLinear, linears
from afm_mlx.errors import ModelError, RecipeError
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_section
from afm_mlx.settings.palette import Quantize

from .conftest import KINDS, TINY, build

BUDGET = 10**8
SMALL = {
    "equalize": False,
    "high_bits": 8,
    "calibration_rows": 8,
    "calibration_row_tokens": 16,
    "gradient_rows": 8,
}


def drawn_batches(seed: int = 0) -> list[mx.array]:
    draw = np.random.default_rng(seed)
    return [mx.array(draw.integers(0, TINY.vocab_size, (4, 16))) for _ in range(2)]


def section(**settings: object) -> Quantize:
    return load_section(Quantize, {"target_bits_per_weight": 3.5} | SMALL | settings)


def palettizer(decoder: Decoder, work: Path, **settings: object) -> Palettizer:
    work.mkdir(exist_ok=True)
    return Palettizer(
        decoder,
        drawn_batches(),
        section(**settings),
        work=work,
        seed=0,
        chunk_bytes=BUDGET,
        progress=Progress(stream=io.StringIO()),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_becomes_what_its_bits_say(kind, tmp_path):
    decoder = build(**KINDS[kind])
    metrics = palettizer(decoder, tmp_path / "work", equalize=kind == "untied").run()
    assert isinstance(decoder.model.embed_tokens, Int8Embedding)
    found = linears(decoder)
    assert metrics["bits"].keys() == found.keys() | {"model.embed_tokens"}
    for name, layer in found.items():
        if metrics["bits"][name] == 8:
            assert isinstance(layer, Int8Linear)
        else:
            assert isinstance(layer, PaletteLinear)
            assert layer.bits == metrics["bits"][name]
    inside = {name: bits for name, bits in metrics["bits"].items() if "layers" in name}
    sizes = matrix_sizes(decoder.shape)
    assert average_bits(inside, sizes) == pytest.approx(metrics["bits_per_weight"])
    assert 3.3 < metrics["bits_per_weight"] <= 3.5
    assert set(inside.values()) <= {2, 4, 8}


def test_without_weights_tables_are_k_means_of_the_rows_alone(tmp_path):
    plain = {"equalize": False, "correct_drift": False, "error_feedback": False}
    target = {"target_bits_per_weight": 4, "high_bits": 4}
    stored = {}
    for weighted in (False, True):
        decoder = build()
        palettizer(decoder, tmp_path / f"{weighted}", **plain, **target, weighted=weighted).run()
        stored[weighted] = linears(decoder)["model.layers.1.mlp.up_proj"].dense()
    alone = fit_tables(
        np.array(linears(build())["model.layers.1.mlp.up_proj"].weight), bits=4, group_rows=16
    )
    assert np.array_equal(np.array(stored[False]), dense(alone.ids, alone.tables, group_rows=16))
    assert not mx.array_equal(stored[False], stored[True])


def test_error_feedback_cannot_be_without_weights():
    with pytest.raises(RecipeError, match="weighted is false, and error_feedback"):
        section(weighted=False)


def test_a_palettized_decoder_is_near_what_it_was_and_nearer_with_more_bits(tmp_path):
    batches = drawn_batches(seed=5)
    reference = Reference(build(), batches, chunk_bytes=BUDGET)
    gone = {}
    for bits in (2.0, 3.0, 4.0, 8.0):
        decoder = build()
        palettizer(decoder, tmp_path / str(bits), target_bits_per_weight=bits).run()
        gone[bits] = reference.kl(decoder)
    assert gone[2.0] > gone[3.0] > gone[4.0] > gone[8.0] > 0
    assert gone[8.0] < 1e-3


def test_bits_given_out_by_damage_do_better_than_the_opposite(tmp_path):
    reference = Reference(build(), drawn_batches(seed=5), chunk_bytes=BUDGET)
    metrics = palettizer(build(), tmp_path / "first").run()
    backwards = {
        name: {int(width): -each for width, each in widths.items()}
        for name, widths in metrics["damages"].items()
    }
    gone = []
    for number, damages in enumerate((metrics["damages"], backwards)):
        work = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", work, ignore=shutil.ignore_patterns("block-*"))
        (work / "damages.json").write_text(json.dumps({"damages": damages, "seconds": 0}))
        decoder = build()
        palettizer(decoder, work, high_bits=4).run()
        gone.append(reference.kl(decoder))
    assert gone[0] < gone[1]


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    whole, cut = build(), build()
    work = tmp_path / "work"
    palettizer(whole, work).run()
    (work / "block-0001.safetensors").unlink()
    first = (work / "block-0000.safetensors").stat().st_mtime_ns
    metrics = palettizer(cut, work).run()
    assert (work / "block-0000.safetensors").stat().st_mtime_ns == first
    assert metrics["earlier_seconds"] > 0
    ours, theirs = named_parameters(cut), named_parameters(whole)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert mx.array_equal(ours[name], theirs[name]), name


def test_the_checkpoint_has_the_bits_that_were_given_out(tmp_path):
    # 32 columns of 2 bits fill two words: no padding to count.
    decoder = build(hidden_size=32, intermediate_size=64, num_layers=3)
    metrics = palettizer(decoder, tmp_path / "work").run()
    save_checkpoint(tmp_path / "model", decoder, None)
    stored = stored_bits(tmp_path / "model")
    assert stored["embedding"].per_weight == pytest.approx(8 + 16 / 32)
    tables = sum(
        16 * layer.tables.size if isinstance(layer, PaletteLinear) else 16 * layer.scales.size
        for layer in linears(decoder).values()
    )
    ids = stored["linears"].bits - tables
    assert ids / stored["linears"].weights == pytest.approx(metrics["bits_per_weight"])
    tokens = drawn_batches()[0]
    assert mx.array_equal(open_checkpoint(tmp_path / "model")(tokens), decoder(tokens))


def test_where_all_matrices_can_have_the_most_bits_no_damage_is_measured(tmp_path):
    metrics = palettizer(build(), tmp_path, target_bits_per_weight=4, high_bits=4).run()
    assert metrics["damages"] == {}
    assert metrics["share_by_bits"] == {4: 1.0}


def test_nan_in_a_matrix_is_refused_with_its_name_and_count(tmp_path):
    decoder = build()
    weight = decoder.layers[1].mlp.up_proj.weight
    weight[3, 2] = mx.nan
    weight[5, 1] = mx.inf
    with pytest.raises(ModelError, match=r"2 in model\.layers\.1\.mlp\.up_proj\.weight"):
        palettizer(decoder, tmp_path / "work")


def test_a_target_out_of_reach_is_refused_before_any_work():
    with pytest.raises(RecipeError, match=r"cannot be reached: .* model\.embed_tokens at 8"):
        check_target(TINY, section(target_bits_per_weight=2.5, target_counts_embedding=True))
    check_target(TINY, section(target_bits_per_weight=2.5))


# Damage.


def quantized(weight: mx.array, bits: int) -> PaletteLinear | Int8Linear:
    ones = np.ones(weight.shape, np.float32)
    return fit_alone(weight, bits, ones, group_rows=16, rounds=30, tolerance=1e-4, name="a matrix")


def test_estimated_damage_is_half_the_gradients_squares_times_the_outputs_errors():
    weight = mx.array([[0.9, 0.2], [0.1, -0.4]])
    stored = quantized(weight, 8)
    error = np.array(stored.dense() - weight)
    moments, gradients = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([3.0, 0.25])
    by_hand = sum(
        0.5
        * gradients[i]
        * sum(error[i, j] * moments[j, k] * error[i, k] for j in range(2) for k in range(2))
        for i in range(2)
    )
    found = estimated_damage(weight, stored, mx.array(moments), mx.array(gradients))
    assert found == pytest.approx(by_hand, rel=1e-4)
    assert found > 0


def test_measured_damage_is_that_of_the_replaced_model_and_leaves_it_as_it_was():
    decoder, name = build(), "model.layers.1.mlp.down_proj"
    batches = drawn_batches()
    reference = Reference(decoder, batches, chunk_bytes=BUDGET)
    stream = start_stream(decoder, batches)
    stream = [decoder.layers[0](x, "causal") for x in stream]
    stored = quantized(decoder.layers[1].mlp.down_proj.weight, 2)
    before = decoder.layers[1].mlp.down_proj
    found = measured_damage(decoder, 1, stream, name, stored, reference)
    assert decoder.layers[1].mlp.down_proj is before
    decoder.layers[1].mlp.down_proj = stored
    assert found == pytest.approx(reference.kl(decoder), rel=1e-4)
    assert found > 0


def test_measured_damages_choose_bits_too(tmp_path):
    metrics = palettizer(build(), tmp_path / "work", damage="measured").run()
    assert all(widths[2] > widths[8] >= 0 for widths in metrics["damages"].values()), metrics[
        "damages"
    ]


# Divergence.


def test_divergence_is_zero_of_the_model_itself_and_that_of_the_definition_else():
    one, other, batches = build(3), build(4), drawn_batches()
    reference = Reference(one, batches, chunk_bytes=2**14)  # a few tokens at a time
    assert reference.kl(one) == pytest.approx(0, abs=1e-6)
    by_definition = []
    for batch in batches:
        p, q = (np.array(mx.softmax(model(batch), axis=-1)) for model in (one, other))
        by_definition.append((p * np.log(p / q)).sum(-1))
    assert reference.kl(other) == pytest.approx(np.mean(by_definition), rel=1e-4)


def test_padding_does_not_count_in_the_divergence():
    one, other = build(3), build(4)
    (batch, _) = drawn_batches()
    longer = mx.concatenate([batch, mx.zeros((4, 5), batch.dtype)], axis=1)
    counts = mx.concatenate([mx.ones((4, 16)), mx.zeros((4, 5))], axis=1)
    padded = Reference(one, [longer], chunk_bytes=BUDGET, counts=[counts])
    assert padded.kl(other) == pytest.approx(
        Reference(one, [batch], chunk_bytes=BUDGET).kl(other), rel=1e-4
    )
