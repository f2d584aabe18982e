import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from afm_mlx.settings.sections import Optimizer
from afm_mlx.training.optimizer import Rates, UpdateRule

RULES = ["afm", "adamw", "muon"]
LINEAR = "model.layers.0.mlp.up_proj.weight"
GAIN = "model.layers.0.input_layernorm.weight"
TABLE = "model.embed_tokens.weight"


def rule(name="afm", *, hidden_size=64, **settings):
    return UpdateRule(Optimizer(name=name, **settings), hidden_size=hidden_size)


def tree(**arrays):
    return tree_unflatten(list(arrays.items()))


def random_tree(seed, scale=1.0):
    keys = mx.random.split(mx.random.key(seed), 3)
    shapes = {TABLE: (12, 8), LINEAR: (16, 8), GAIN: (8,)}
    return tree(
        **{
            path: scale * mx.random.normal(shape, key=key)
            for (path, shape), key in zip(shapes.items(), keys, strict=True)
        }
    )


def same_bits(a, b):
    a, b = dict(tree_flatten(a)), dict(tree_flatten(b))
    return a.keys() == b.keys() and all(
        np.array_equal(np.array(a[path]).view(np.uint32), np.array(b[path]).view(np.uint32))
        for path in a
    )


def run(update_rule, params, gradients, *, lr=0.01, schedule=1.0, weight_decay=0.0):
    state, stats = update_rule.init(params), {}
    for grads in gradients:
        params, state, stats = update_rule.update(
            params, grads, state, lr=lr, schedule=mx.array(schedule), weight_decay=weight_decay
        )
        mx.eval(params, state, stats)
    return params, state, stats


def by_hand(name, params, gradients, *, lr, schedule, weight_decay, multiplier, settings):
    """The published equations, step by step in float64."""
    b1, b2 = settings.update_decay, settings.square_decay
    theta = {k: np.array(v, np.float64) for k, v in tree_flatten(params)}
    m = {k: np.zeros_like(v) for k, v in theta.items()}
    v = {k: np.zeros_like(x) for k, x in theta.items()}
    for t, tensors in enumerate(gradients, start=1):
        grads = {k: np.array(x, np.float64) for k, x in tree_flatten(tensors)}
        norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
        for k in theta:
            g = grads[k] * min(1, settings.clip_norm / norm)
            c = multiplier(k)
            if name == "afm":
                v[k] = b2 * v[k] + (1 - b2) * (g**2 + settings.eps)
                u = g / np.sqrt(v[k] / (1 - b2**t))
                u = u / max(1, math.sqrt((u**2).mean()) / settings.block_clip)
                m[k] = b1 * m[k] + (1 - b1) * u
                theta[k] -= schedule * (lr * c * m[k] + weight_decay * theta[k])
            else:
                m[k] = b1 * m[k] + (1 - b1) * g
                v[k] = b2 * v[k] + (1 - b2) * g**2
                step = (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + settings.eps)
                theta[k] -= schedule * lr * (c * step + weight_decay * theta[k])
    return theta


def test_afm_has_the_published_values_for_a_constant_gradient():
    gradient = mx.array([[0.3, -0.2], [0.1, -0.4]])
    update_rule, params = rule(hidden_size=3_072), tree(**{LINEAR: mx.zeros((2, 2))})
    state = update_rule.init(params)
    before = mx.zeros((2, 2))
    for t in range(1, 8):
        params, state, _ = update_rule.update(
            params,
            tree(**{LINEAR: gradient}),
            state,
            lr=0.01,
            schedule=mx.array(1.0),
            weight_decay=0.0,
        )
        after = dict(tree_flatten(params))[LINEAR]
        expected = -0.0025 * (1 - 0.95**t) * np.sign(np.array(gradient))
        np.testing.assert_allclose(np.array(after - before), expected, rtol=2e-5)
        before = after


@pytest.mark.parametrize("gradient_scale", [0.01, 2.0], ids=["small", "clipped"])
@pytest.mark.parametrize("name", ["afm", "adamw"])
def test_update_matches_the_equations_in_float64(name, gradient_scale):
    update_rule = rule(name, hidden_size=1_536, eps=1e-8 if name == "adamw" else 1e-30)
    params = random_tree(0)
    gradients = [random_tree(seed, gradient_scale) for seed in range(1, 5)]
    how = {"lr": 0.02, "schedule": 0.7, "weight_decay": 0.01}
    expected = by_hand(
        name,
        params,
        gradients,
        multiplier=lambda path: 0.5 if path == LINEAR else 1.0,
        settings=update_rule.settings,
        **how,
    )
    result, _, _ = run(update_rule, params, gradients, **how)
    for path, value in tree_flatten(result):
        np.testing.assert_allclose(np.array(value), expected[path], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", ["nan", "inf", "large"])
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
@pytest.mark.parametrize("name", RULES)
def test_bad_gradient_changes_no_bit(name, first, bad):
    update_rule, params = rule(name), random_tree(0)
    good = {"lr": 0.1, "schedule": mx.array(0.5), "weight_decay": 0.1}
    state = update_rule.init(params)
    if not first:
        params, state, _ = update_rule.update(params, random_tree(1), state, **good)
    grads = random_tree(2)
    if bad == "large":
        norm = math.sqrt(sum(mx.sum(g * g).item() for _, g in tree_flatten(grads)))
        grads = random_tree(2, 100.01 / norm)
    else:
        grads["model"]["layers"][0]["mlp"]["up_proj"]["weight"][3, 4] = float(bad)
    new_params, new_state, stats = update_rule.update(params, grads, state, **good)
    assert stats["skipped"].item() == 1.0
    assert same_bits(new_params, params)
    assert same_bits(new_state, state)


def test_gradient_just_below_the_threshold_is_applied():
    params = tree(**{GAIN: mx.ones((4,))})
    _, state, stats = run(rule(), params, [tree(**{GAIN: mx.full((4,), 49.9)})])
    assert stats["skipped"].item() == 0.0
    assert stats["grad_norm"].item() == pytest.approx(99.8)
    assert state["step"].item() == 1


@pytest.mark.parametrize("name", RULES)
def test_skipped_steps_do_not_count(name):
    update_rule, params = rule(name), random_tree(0)
    nans = random_tree(3, float("nan"))
    straight, state, _ = run(update_rule, params, [random_tree(1), random_tree(2)])
    detour, state_2, _ = run(update_rule, params, [nans, random_tree(1), nans, random_tree(2)])
    assert state["step"].item() == state_2["step"].item() == 2
    assert same_bits(straight, detour)


def test_block_clip_scales_one_tensor_down_to_its_threshold():
    # After a calm gradient, one ten times as large gives an update above 1 in root mean square.
    size, peak = mx.ones((4,)), 0.05
    gradients = [tree(**{GAIN: 0.01 * size}), tree(**{GAIN: peak * size})]
    update_rule = rule(block_clip=1.0)
    params, _, _ = run(update_rule, tree(**{GAIN: mx.zeros((4,))}), gradients, lr=1.0)
    m_1 = 0.05 * 1.0
    m_2 = 0.95 * m_1 + 0.05 * 1.0  # without the clip the last 1.0 is 1.37
    unclipped = peak / math.sqrt((0.95 * 0.05 * 1e-4 + 0.05 * peak**2) / (1 - 0.95**2))
    assert unclipped > 1.3
    np.testing.assert_allclose(np.array(dict(tree_flatten(params))[GAIN]), -(m_1 + m_2), rtol=1e-5)


def test_zero_gradient_leaves_a_weight_where_it_was():
    for name in RULES:
        params = random_tree(0)
        result, _, stats = run(rule(name), params, [random_tree(1, 0.0)] * 2)
        assert same_bits(result, params)
        assert stats["skipped"].item() == 0.0


def test_tiny_gradient_moves_adamw_no_further_than_its_learning_rate():
    gradient = tree(**{GAIN: mx.full((4,), 1e-25)})
    params, _, _ = run(rule("adamw"), tree(**{GAIN: mx.zeros((4,))}), [gradient] * 3, lr=0.1)
    assert mx.max(mx.abs(dict(tree_flatten(params))[GAIN])).item() <= 0.3


@pytest.mark.parametrize("lr", [0.0, 0.5])
def test_decay_of_afm_follows_the_schedule_and_not_the_learning_rate(lr):
    params, zero = random_tree(0), random_tree(1, 0.0)
    result, _, _ = run(rule(), params, [zero], lr=lr, schedule=0.25, weight_decay=0.1)
    for path, value in tree_flatten(result):
        expected = np.array(dict(tree_flatten(params))[path]) * (1 - 0.25 * 0.1)
        np.testing.assert_allclose(np.array(value), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_of_the_others_follows_the_learning_rate_too(name):
    params, zero = random_tree(0), random_tree(1, 0.0)
    result, _, _ = run(rule(name), params, [zero], lr=0.5, schedule=0.25, weight_decay=0.1)
    for path, value in tree_flatten(result):
        expected = np.array(dict(tree_flatten(params))[path]) * (1 - 0.25 * 0.5 * 0.1)
        np.testing.assert_allclose(np.array(value), expected, rtol=1e-6)


def test_only_linear_layers_get_the_width_multiplier():
    wide, narrow = rule(hidden_size=3_072), rule(hidden_size=256)
    linears = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    linears += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    for name in linears:
        assert wide.multiplier(f"model.layers.7.{name}.weight") == 0.25
        assert narrow.multiplier(f"model.layers.7.{name}.weight") == 1.0
    assert wide.multiplier("lm_head.weight") == 0.25
    for name in ["self_attn.q_norm", "self_attn.k_norm", "input_layernorm"]:
        assert wide.multiplier(f"model.layers.7.{name}.weight") == 1.0
    assert wide.multiplier("model.embed_tokens.weight") == 1.0
    assert wide.multiplier("model.norm.weight") == 1.0


def test_width_multiplier_scales_the_update_and_not_the_decay():
    start, gradient = tree(**{LINEAR: mx.ones((2, 2))}), tree(**{LINEAR: mx.full((2, 2), 0.1)})
    params, _, _ = run(rule(hidden_size=3_072), start, [gradient], lr=1.0, weight_decay=0.5)
    expected = 1 - 0.25 * 0.05 - 0.5
    np.testing.assert_allclose(np.array(dict(tree_flatten(params))[LINEAR]), expected, rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_state_restored_from_a_file_goes_on_with_the_same_bits(name, tmp_path):
    update_rule, params = rule(name), random_tree(0)
    how = {"lr": 0.01, "schedule": mx.array(0.9), "weight_decay": 0.01}
    params, state, _ = run(update_rule, params, [random_tree(1), random_tree(2)])
    file = str(tmp_path / "state.safetensors")
    mx.save_safetensors(file, dict(tree_flatten({"params": params, "state": state})))
    restored = tree_unflatten(list(mx.load(file).items()))
    straight = update_rule.update(params, random_tree(3), state, **how)[:2]
    resumed = update_rule.update(restored["params"], random_tree(3), restored["state"], **how)[:2]
    assert same_bits(straight[0], resumed[0])
    assert same_bits(straight[1], resumed[1])


def test_update_leaves_its_arguments_alone():
    update_rule, params, grads = rule(), random_tree(0), random_tree(1)
    state = update_rule.init(params)
    update_rule.update(params, grads, state, lr=0.1, schedule=mx.array(1.0), weight_decay=0.1)
    assert same_bits(params, random_tree(0))
    assert same_bits(state, update_rule.init(params))


def test_large_tensors_have_an_exact_norm():
    # mx.sum over as many numbers is wrong by 4e-4 on the CPU back end.
    gradient = mx.random.normal((1_000_000,), key=mx.random.key(0)) * 1e-3
    params = tree(**{TABLE: mx.zeros((1_000_000,))})
    _, _, stats = run(rule(), params, [tree(**{TABLE: gradient})])
    exact = np.linalg.norm(np.array(gradient, np.float64))
    assert stats["grad_norm"].item() == pytest.approx(exact, rel=2e-6)


@pytest.mark.parametrize("name", RULES)
def test_tensors_with_rates_of_their_own_have_them(name):
    rates = {"scores": Rates(lr_factor=10.0, weight_decay=0.0)}
    update_rule = UpdateRule(Optimizer(name=name), hidden_size=64, rates=rates)
    params = tree(**{"scores.0": mx.zeros((6,)), GAIN: mx.zeros((6,))})
    gradient = mx.array([1.0, -2.0, 3.0, 0.5, -0.25, 4.0]) * 0.01
    gradients = [tree(**{"scores.0": gradient, GAIN: gradient})]
    moved, _, _ = run(update_rule, params, gradients, lr=1e-3)
    moved = dict(tree_flatten(moved))
    assert mx.allclose(moved["scores.0"], 10 * moved[GAIN], rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_decay_of_tensors_with_rates_is_theirs_alone_and_follows_the_schedule(name):
    rates = {"scores": Rates(lr_factor=10.0, weight_decay=0.25)}
    update_rule = UpdateRule(Optimizer(name=name), hidden_size=64, rates=rates)
    params = tree(**{"scores.0": mx.full((4,), 2.0), GAIN: mx.full((4,), 2.0)})
    still = tree(**{"scores.0": mx.zeros((4,)), GAIN: mx.zeros((4,))})
    moved, _, _ = run(update_rule, params, [still], lr=1e-9, schedule=0.5, weight_decay=0.0)
    assert dict(tree_flatten(moved))["scores.0"].tolist() == [2 * (1 - 0.5 * 0.25)] * 4
    assert dict(tree_flatten(moved))[GAIN].tolist() == [2.0] * 4


def test_a_skipped_step_leaves_tensors_with_rates_alone():
    rates = {"scores": Rates(lr_factor=10.0, weight_decay=0.25)}
    update_rule = UpdateRule(Optimizer(), hidden_size=64, rates=rates)
    params = tree(**{"scores.0": mx.full((4,), 2.0)})
    moved, _, stats = run(update_rule, params, [tree(**{"scores.0": mx.full((4,), math.nan)})])
    assert stats["skipped"].item() == 1
    assert same_bits(moved, params)


@pytest.mark.parametrize("name", RULES)
def test_update_descends(name):
    target, update_rule = random_tree(1), rule(name)
    steps = 200
    params = random_tree(2)
    state = update_rule.init(params)

    def distance(params):
        pairs = zip(tree_flatten(params), tree_flatten(target), strict=True)
        return sum(mx.sum(mx.square(a - b)) for (_, a), (_, b) in pairs)

    start = distance(params).item()
    for t in range(steps):
        grads = mx.grad(distance)(params)
        params, state, _ = update_rule.update(
            params, grads, state, lr=0.1, schedule=mx.array(1 - t / steps), weight_decay=0.0
        )
        mx.eval(params, state)
    assert distance(params).item() < 0.01 * start


def with_scores(scale: float):
    """Weights, and scores whose gradient is `scale` times as large."""
    params = random_tree(0) | {"scores": [mx.zeros((8,))]}
    grads = random_tree(1, 0.1) | {"scores": [scale * mx.random.normal((8,), key=mx.random.key(2))]}
    return params, grads


@pytest.mark.parametrize("name", RULES)
def test_gradient_of_scores_does_not_scale_that_of_the_weights(name):
    """Scores of a cold mask have gradients a hundred times as large, and steps were skipped."""
    found = []
    for scale in (1e-3, 1e6):
        params, grads = with_scores(scale)
        scored = UpdateRule(
            Optimizer(name=name), hidden_size=64, rates={"scores": Rates(10.0, 0.0)}
        )
        params, _, stats = run(scored, params, [grads, grads])
        assert float(stats["skipped"]) == 0
        found.append({key: value for key, value in params.items() if key != "scores"})
    assert same_bits(*found)


def test_scores_are_clipped_by_their_own_norm():
    scored = UpdateRule(
        Optimizer(name="afm", block_clip=1e9), hidden_size=64, rates={"scores": Rates(1.0, 0.0)}
    )
    params, grads = with_scores(1e6)
    _, state, stats = run(scored, params, [grads])
    (gradient,) = grads["scores"]
    norm = float(mx.linalg.norm(gradient))
    assert float(stats["scores_grad_norm"]) == pytest.approx(norm, rel=1e-6)
    assert mx.allclose(state["square"]["scores"][0], mx.square(gradient / norm), rtol=1e-5)


def test_scores_that_are_not_finite_skip_the_step():
    params, grads = with_scores(float("nan"))
    scored = UpdateRule(Optimizer(), hidden_size=64, rates={"scores": Rates(10.0, 0.0)})
    after, _, stats = run(scored, params, [grads])
    assert float(stats["skipped"]) == 1
    assert same_bits(params, after)
