"""Making up for drifted inputs."""

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.divergence import Reference
from afm_mlx.compression.drift import BlockPair, Seen
from afm_mlx.compression.moments import SITES, block_moments, inputs_at, start_stream
from afm_mlx.decoder.palette import linears

from .conftest import TINY, build
from .test_palettize import BUDGET, drawn_batches, palettizer


def drawn_worths(stream: list[mx.array]) -> dict[str, list[mx.array]]:
    draw = np.random.default_rng(3)
    names = [name for site in SITES.values() for name in site]
    return {
        name: [mx.array(draw.random(x.shape[:2], np.float32)) for x in stream] for name in names
    }


def test_of_mixed_inputs_the_corrected_weight_makes_what_the_weight_made_before():
    draw = np.random.default_rng(0)
    x, mixing = draw.normal(size=(200, 6)), np.eye(6) + 0.3 * draw.normal(size=(6, 6))
    y = x @ mixing
    weight = mx.array(draw.normal(size=(4, 6)).astype(np.float32))
    seen = Seen(mx.array(y.T @ y / 200), mx.array((x - y).T @ y / 200))
    found = np.array(seen.corrected(weight, damping=1e-9))
    assert found @ y.T == pytest.approx(np.array(weight) @ x.T, abs=1e-4)
    damped = np.array(seen.corrected(weight, damping=1e9))
    assert damped == pytest.approx(np.array(weight), abs=1e-5)


def test_without_drift_the_weight_stays():
    decoder = build()
    stream = start_stream(decoder, drawn_batches())
    pair = BlockPair(decoder.layers[0], TINY, stream, stream)
    worths = drawn_worths(stream)
    measured = block_moments(decoder.layers[0], stream, full=True, worths=worths)
    for site in SITES:
        for name, seen in pair.seen(site, worths).items():
            assert not seen.drift.any().item()
            assert mx.allclose(seen.moments, measured[name], rtol=1e-5), name
            weight = linears(decoder)[f"model.layers.0.{name}"].weight
            assert mx.array_equal(seen.corrected(weight, damping=0.1), weight)


def test_inputs_are_those_of_the_whole_pass():
    decoder = build()
    (x, _) = start_stream(decoder, drawn_batches())
    block = decoder.layers[0]
    normed = block.input_layernorm(x)
    assert mx.array_equal(inputs_at(block, x, "self_attn.q_proj"), normed.reshape(-1, x.shape[-1]))
    after = x + block.self_attn(normed, "causal")
    fed = block.post_attention_layernorm(after).reshape(-1, x.shape[-1])
    assert mx.allclose(inputs_at(block, x, "mlp.gate_proj"), fed)


@pytest.mark.parametrize("seed", [5, 6])
def test_models_that_make_up_for_drift_are_nearer_to_what_they_were(seed, tmp_path):
    reference = Reference(build(seed), drawn_batches(), chunk_bytes=BUDGET)
    gone = {}
    for corrected in (False, True):
        decoder = build(seed)
        palettizer(
            decoder, tmp_path / str(corrected), target_bits_per_weight=2, correct_drift=corrected
        ).run()
        gone[corrected] = reference.kl(decoder)
    assert gone[True] < gone[False]
