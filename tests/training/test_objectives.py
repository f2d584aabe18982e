import math

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.settings.sections import Shape
from afm_mlx.training.objectives import (
    dpo_loss,
    grade_loss,
    ipo_loss,
    next_token_loss,
    preference_margin,
    reward_ranking_loss,
    token_cross_entropy,
)

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
    max_tokens=32,
)
HOW = {"mask": "causal", "z_loss": 1e-6, "chunk_bytes": 2**24}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request):
    decoder = Decoder(SHAPE.model_copy(update={"tied": request.param}))
    initialize(decoder, 0)
    return decoder


def rows(count=4, tokens=12, seed=0):
    key, other = mx.random.split(mx.random.key(seed))
    inputs = mx.random.randint(0, 48, (count, tokens), key=key)
    return inputs, mx.random.randint(0, 48, (count, tokens), key=other)


def gradients(model, inputs, targets, weights, **changes):
    def loss(params):
        model.update(params)
        return next_token_loss(model, inputs, targets, weights, **(HOW | changes))

    params = model.trainable_parameters()
    (total, sums), grads = mx.value_and_grad(loss)(params)
    model.update(params)
    return total, sums, dict(tree_flatten(grads))


def assert_same_gradient(a, b, tolerance=1e-6):
    assert a.keys() == b.keys()
    scale = max(mx.max(mx.abs(value)).item() for value in b.values())
    for name in a:
        assert mx.max(mx.abs(a[name] - b[name])).item() <= tolerance * scale, name


def test_token_cross_entropy_by_hand():
    loss = token_cross_entropy(mx.array([[2.0, 0.0]]), mx.array([1]), z_loss=0.1)
    log_z = math.log(math.exp(2) + 1)
    assert loss.item() == pytest.approx(log_z + 0.1 * log_z**2, rel=1e-6)


def test_token_cross_entropy_of_bfloat16_logits_is_float32():
    logits = mx.random.normal((5, 48), key=mx.random.key(0)).astype(mx.bfloat16)
    targets = mx.arange(5)
    loss = token_cross_entropy(logits, targets, z_loss=0.0)
    exact = token_cross_entropy(logits.astype(mx.float32), targets, z_loss=0.0)
    assert loss.dtype == mx.float32
    assert mx.array_equal(loss, exact)


def test_loss_and_gradient_are_those_of_the_models_logits(model):
    inputs, targets = rows()
    weights = (mx.random.uniform(shape=(4, 12), key=mx.random.key(5)) > 0.3).astype(mx.float32)

    def plain(params):
        model.update(params)
        losses = token_cross_entropy(model(inputs), targets, z_loss=1e-6)
        return mx.sum(losses * weights)

    params = model.trainable_parameters()
    expected, grads = mx.value_and_grad(plain)(params)
    model.update(params)
    loss, sums, ours = gradients(model, inputs, targets, weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert sums["tokens"].item() == mx.sum(weights).item()
    assert sums["nll"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert_same_gradient(ours, dict(tree_flatten(grads)), 2e-6)


def test_uneven_micro_batches_give_the_full_batchs_gradient(model):
    inputs, targets = rows()
    lengths = mx.array([12, 3, 7, 1])
    weights = (mx.arange(12)[None] < lengths[:, None]).astype(mx.float32)
    _, full_sums, full = gradients(model, inputs, targets, weights)
    total, tokens = None, 0.0
    for part in (slice(0, 1), slice(1, 4)):
        _, sums, grads = gradients(model, inputs[part], targets[part], weights[part])
        total = grads if total is None else {name: total[name] + grads[name] for name in total}
        tokens += sums["tokens"].item()
    assert tokens == full_sums["tokens"].item() == 23
    mean = {name: value / tokens for name, value in total.items()}
    assert_same_gradient(mean, {name: value / tokens for name, value in full.items()})


def test_a_padded_row_trains_no_pad_token(model):
    inputs, targets = rows(count=1, tokens=8)
    alone_loss, _, alone = gradients(model, inputs, targets, mx.ones((1, 8)))
    pad = mx.zeros((1, 4), mx.int32)
    loss, sums, padded = gradients(
        model,
        mx.concatenate([inputs, pad], axis=1),
        mx.concatenate([targets, pad], axis=1),
        mx.concatenate([mx.ones((1, 8)), mx.zeros((1, 4))], axis=1),
    )
    assert sums["tokens"].item() == 8
    assert loss.item() == pytest.approx(alone_loss.item(), rel=1e-6)
    assert_same_gradient(padded, alone, 2e-6)


def test_checkpointing_changes_no_gradient(model):
    inputs, targets = rows()
    _, _, kept = gradients(model, inputs, targets, mx.ones((4, 12)))
    _, _, recomputed = gradients(model, inputs, targets, mx.ones((4, 12)), checkpoint=True)
    assert_same_gradient(recomputed, kept)


def test_evaluation_gives_the_same_sums(model):
    inputs, targets = rows()
    _, trained = next_token_loss(model, inputs, targets, mx.ones((4, 12)), **HOW)
    _, evaluated = next_token_loss(model, inputs, targets, mx.ones((4, 12)), **HOW, gradient=False)
    assert mx.array_equal(trained["nll"], evaluated["nll"])


LEVELS = [(0.95, 2.944), (0.85, 1.735), (0.75, 1.099), (0.65, 0.619)]
"""Probability of each strength of preference, and the best gap of the rewards, as published."""


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_reward_ranking_loss_by_hand():
    loss, pairs = reward_ranking_loss(
        mx.array([1.0, -0.5]), mx.array([0.25, 1.5]), mx.array([0.85, 0.65])
    )
    first = -0.85 * math.log(sigmoid(0.75)) - 0.15 * math.log(sigmoid(-0.75))
    second = -0.65 * math.log(sigmoid(-2.0)) - 0.35 * math.log(sigmoid(2.0))
    assert loss.item() == pytest.approx(first + second, rel=1e-6)
    assert pairs.item() == 2


@pytest.mark.parametrize(("probability", "gap"), LEVELS)
def test_reward_ranking_loss_is_least_at_the_published_gap(probability, gap):
    exact = math.log(probability / (1 - probability))
    assert exact == pytest.approx(gap, abs=5e-4)

    def slope(gap):
        def loss(chosen):
            return reward_ranking_loss(chosen, mx.array([0.25]), mx.array([probability]))[0]

        return mx.grad(loss)(mx.array([0.25 + gap])).item()

    assert abs(slope(exact)) < 1e-6
    assert slope(exact - 0.1) < -1e-3
    assert slope(exact + 0.1) > 1e-3


def test_reward_ranking_loss_stays_finite_at_wide_gaps():
    loss, _ = reward_ranking_loss(mx.array([-500.0]), mx.array([500.0]), mx.array([0.95]))
    assert loss.item() == pytest.approx(950.0)


def test_grade_loss_by_hand_and_without_absent_grades():
    logits = mx.array([[[1.0, 0.0, -1.0], [9.0, 9.0, 9.0]], [[0.5, 2.0, 0.0], [0.0, 0.0, 0.0]]])
    loss, given = grade_loss(logits, mx.array([[0, -1], [2, 1]]))
    first = math.log(math.exp(1) + 1 + math.exp(-1)) - 1
    second = math.log(math.exp(0.5) + math.exp(2) + 1)
    assert loss.item() == pytest.approx(first + second + math.log(3), rel=1e-6)
    assert given.item() == 3


def test_absent_grades_have_no_gradient():
    grades = mx.array([[0, -1], [-1, -1]])
    logits = mx.random.normal((2, 2, 3), key=mx.random.key(0))
    gradient = mx.grad(lambda logits: grade_loss(logits, grades)[0])(logits)
    assert mx.any(gradient[0, 0] != 0).item()
    assert not mx.any(gradient[0, 1] != 0).item()
    assert not mx.any(gradient[1] != 0).item()


def test_preference_margin_by_hand():
    margin = preference_margin(*(mx.array([x]) for x in (-1.0, -4.0, -2.0, -3.0)))
    assert margin.item() == (-1 - -2) - (-4 - -3)


def test_dpo_loss_is_log_two_when_policy_is_reference():
    logps = mx.array([-3.0, -7.0])
    loss, pairs = dpo_loss(preference_margin(logps, logps - 1, logps, logps - 1), beta=0.1)
    assert loss.item() == pytest.approx(2 * math.log(2))
    assert pairs.item() == 2


def test_dpo_loss_by_hand():
    loss, _ = dpo_loss(mx.array([2.0, -1.0]), beta=0.5)
    expected = math.log(1 + math.exp(-0.5 * 2)) + math.log(1 + math.exp(0.5 * 1))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_ipo_loss_by_hand_and_least_at_half_the_inverse_of_tau():
    loss, pairs = ipo_loss(mx.array([2.0, -1.0]), tau=0.25)
    assert loss.item() == pytest.approx((2 - 2) ** 2 + (-1 - 2) ** 2)
    assert pairs.item() == 2
    slope = mx.grad(lambda margin: ipo_loss(margin, tau=0.1)[0])
    assert slope(mx.array([5.0])).item() == 0
    assert slope(mx.array([4.0])).item() == pytest.approx(2 * (4 - 5))
