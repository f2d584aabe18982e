"""A tiny decoder, a tokenizer, and both as a model on disk."""

import mlx.core as mx
import pytest

from afm_mlx.decoder.checkpoint import save_checkpoint
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


@pytest.fixture(scope="session")
def tokenizer(small_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alignment") / "tokenizer"
    return small_tokenizer(["The cat sat on the mat. What is on the hill? A house.\n"] * 20, folder)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory, tokenizer):
    """Folder of a random model that speaks the tokenizer's chat template."""
    folder = tmp_path_factory.mktemp("alignment") / "model"
    model = Decoder(SHAPE.model_copy(update={"vocab_size": 320}))
    initialize(model, 2)
    save_checkpoint(folder, model, tokenizer.folder, facts={"stage": "sft"})
    return folder


@pytest.fixture(scope="session")
def chat_decoder(tokenizer):
    """A random model of the tokenizer, that ends its answers about every tenth token."""
    model = Decoder(SHAPE.model_copy(update={"vocab_size": 328, "tied": False}))
    initialize(model, 3)
    weight = mx.array(model.lm_head.weight)
    weight[tokenizer.eos_ids[1]] *= 3
    model.lm_head.weight = weight
    mx.eval(model.parameters())
    model.eval()
    return model
