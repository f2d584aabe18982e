"""A tiny decoder for losses on answers."""

import mlx.core as mx
import pytest

from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.settings.sections import Shape

SHAPE = Shape(
    num_layers=2,
    hidden_size=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=32,
    vocab_size=48,
    rope_base=10_000.0,
    norm_eps=1e-5,
    max_tokens=128,
)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def decoder(request):
    model = Decoder(SHAPE.model_copy(update={"tied": request.param}))
    initialize(model, 0)
    mx.eval(model.parameters())
    return model
