import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from afm_mlx.settings.sections import Optimizer
from afm_mlx.training.muon import muon_direction, orthogonalize
from afm_mlx.training.optimizer import UpdateRule


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_orthogonalized_matrix_has_singular_values_near_one(shape):
    matrix = mx.random.normal(shape, key=mx.random.key(0))
    values = np.linalg.svd(np.array(orthogonalize(matrix)), compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_orthogonalizing_keeps_the_singular_vectors():
    matrix = mx.random.normal((8, 12), key=mx.random.key(1))
    left, _, right = np.linalg.svd(np.array(matrix), full_matrices=False)
    turned = left.T @ np.array(orthogonalize(matrix)) @ right.T
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-4)


def test_scale_of_the_matrix_does_not_matter():
    matrix = mx.random.normal((8, 12), key=mx.random.key(2))
    a, b = np.array(orthogonalize(matrix)), np.array(orthogonalize(1e-3 * matrix))
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_zero_matrix_stays_zero():
    assert mx.array_equal(orthogonalize(mx.zeros((4, 6))), mx.zeros((4, 6)))


@pytest.mark.parametrize("shape", [(32, 32), (32, 96), (96, 32)])
def test_direction_is_as_large_as_one_of_adamw(shape):
    direction = muon_direction(mx.random.normal(shape, key=mx.random.key(3)))
    assert mx.sqrt(mx.mean(mx.square(direction))).item() == pytest.approx(0.2, rel=0.2)


def test_only_matrices_of_blocks_go_by_muon():
    params = {
        "model": {
            "embed_tokens": {"weight": mx.zeros((6, 4))},
            "layers": [
                {
                    "self_attn": {"q_proj": {"weight": mx.zeros((4, 4))}},
                    "input_layernorm": {"weight": mx.ones((4,))},
                }
            ],
        },
        "lm_head": {"weight": mx.zeros((6, 4))},
    }
    state = UpdateRule(Optimizer(name="muon"), hidden_size=4).init(params)
    by_adamw = {path for path, _ in tree_flatten(state["square"])}
    everything = {path for path, _ in tree_flatten(state["momentum"])}
    assert everything - by_adamw == {"model.layers.0.self_attn.q_proj.weight"}


def test_step_is_the_orthogonalized_nesterov_momentum():
    name = "model.layers.0.mlp.up_proj.weight"
    weight = mx.random.normal((6, 4), key=mx.random.key(4))
    gradient = 0.1 * mx.random.normal((6, 4), key=mx.random.key(5))

    def tree(array):
        return {"model": {"layers": [{"mlp": {"up_proj": {"weight": array}}}]}}

    rule = UpdateRule(Optimizer(name="muon", update_decay=0.9), hidden_size=4)
    params, state = tree(weight), rule.init(tree(weight))
    expected, momentum = weight, mx.zeros((6, 4))
    for _ in range(2):
        params, state, _ = rule.update(
            params, tree(gradient), state, lr=0.1, schedule=mx.array(0.5), weight_decay=0.2
        )
        momentum = 0.9 * momentum + gradient
        direction = 0.2 * 6**0.5 * orthogonalize(gradient + 0.9 * momentum)
        expected = expected - 0.5 * 0.1 * (direction + 0.2 * expected)
    np.testing.assert_allclose(
        np.array(dict(tree_flatten(params))[name]), np.array(expected), atol=1e-6
    )
