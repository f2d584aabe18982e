"""First scores of units: how much each one matters."""

import mlx.core as mx

from afm_mlx.compression.importance import gradient_importance
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.recipe import load_named_recipe
from afm_mlx.training.objectives import next_token_loss


def test_gradient_importance_is_the_same_when_blocks_are_recomputed():
    shape = load_named_recipe("afm-tiny", ["shape.num_layers=2"]).shape
    model, rows = Decoder(shape), mx.arange(64).reshape(2, 32)
    initialize(model, 0)
    found = []
    for again in (False, True):

        def loss(model, rows, again=again):
            return next_token_loss(
                model,
                rows,
                rows,
                mx.ones(rows.shape),
                mask="causal",
                z_loss=0.0,
                chunk_bytes=2**24,
                checkpoint=again,
            )[0]

        found.append(gradient_importance(model, [rows], loss))
    assert found[0].min().item() > 0
    assert mx.allclose(*found, rtol=1e-4).item()
