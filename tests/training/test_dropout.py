"""Dropout: its rate and mean, the key that decides it, and that recomputing changes nothing."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.settings.sections import Shape
from afm_mlx.training.dropout import residual_dropout
from afm_mlx.training.state import step_key

SHAPE = Shape(
    num_layers=2,
    hidden_size=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    intermediate_size=32,
    vocab_size=32,
    rope_base=10_000,
    norm_eps=1e-5,
    max_tokens=32,
)
TOKENS = mx.arange(24).reshape(2, 12)


@pytest.fixture
def model():
    decoder = Decoder(SHAPE)
    initialize(decoder, 0)
    return decoder


def dropout(step=1, fraction=0.25, rows=2):
    keys = mx.random.split(step_key(0, step), rows)
    return residual_dropout(fraction, keys, num_layers=SHAPE.num_layers)


def test_a_share_of_the_values_is_zero_and_the_mean_stays():
    ones = dropout()(0, mx.ones((2, 50, 1_000)))
    assert (ones == 0).mean().item() == pytest.approx(0.25, abs=0.01)
    assert ones.max().item() == pytest.approx(4 / 3)
    assert ones.mean().item() == pytest.approx(1, abs=0.02)


def test_bfloat16_stays_bfloat16():
    assert dropout()(0, mx.ones((2, 3, 4), mx.bfloat16)).dtype == mx.bfloat16


def test_each_addition_and_each_step_drops_others_and_the_same_again():
    ones = mx.ones((2, 4, 64))
    first = dropout()(0, ones)
    assert mx.array_equal(first, dropout()(0, ones))
    others = [dropout()(1, ones), dropout()(2, ones), dropout(step=2)(0, ones)]
    assert not any(mx.array_equal(first, other) for other in others)


def test_a_row_drops_the_same_values_whichever_rows_are_beside_it():
    keys, ones = mx.random.split(step_key(0, 1), 3), mx.ones((3, 4, 64))
    together = residual_dropout(0.25, keys, num_layers=2)(1, ones)
    alone = [residual_dropout(0.25, key[None], num_layers=2)(1, ones[:1]) for key in keys]
    assert mx.array_equal(together, mx.concatenate(alone))
    assert not mx.array_equal(together[0], together[1])


def test_no_dropout_is_none_and_the_model_without_it_is_as_before(model):
    assert residual_dropout(0.0, mx.zeros((2, 2)), num_layers=2) is None
    plain = model.hidden(TOKENS)
    assert not mx.allclose(plain, model.hidden(TOKENS, branch=dropout()))
    assert mx.array_equal(plain, model.hidden(TOKENS, branch=lambda number, added: added))


def test_the_branches_of_a_model_are_numbered_through(model):
    numbers = []
    model.hidden(TOKENS, branch=lambda number, added: numbers.append(number) or added)
    assert numbers == [0, 1, 2, 3]


def test_dropping_all_that_is_added_leaves_the_embedding(model):
    left = model.hidden(TOKENS, branch=lambda number, added: mx.zeros_like(added))
    assert mx.array_equal(left, model.model.norm(model.model.embed_tokens(TOKENS)))


def test_recomputed_blocks_drop_the_same_values(model):
    def gradients(checkpoint):
        def loss(params):
            model.update(params)
            hidden = model.hidden(TOKENS, checkpoint=checkpoint, branch=dropout())
            return hidden.square().sum(-1).sin().mean()

        value, found = mx.value_and_grad(loss)(model.trainable_parameters())
        return value, dict(tree_flatten(found))

    (value, kept), (again, recomputed) = gradients(False), gradients(True)
    assert mx.array_equal(value, again)
    assert all(mx.array_equal(kept[name], recomputed[name]) for name in kept)
