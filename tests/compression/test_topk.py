"""Soft top-k against its definition: the sum, the limit, the optimum, and the gradient."""

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.topk import hard_top_k, soft_top_k

# AFM: units of the teacher's feed-forward layers, and of the student's.
WIDE, KEPT = 23_552, 8_064


def reference(scores: np.ndarray, k: float, temperature: float) -> np.ndarray:
    """The operator by bisection on its threshold, in float64: another way to the same optimum."""
    low, high = -scores.max() - 50 * temperature, -scores.min() + 50 * temperature
    high += temperature * np.log(len(scores))
    low -= temperature * np.log(len(scores))
    for _ in range(200):
        middle = (low + high) / 2
        total = np.minimum(1, np.exp(np.minimum((scores + middle) / temperature, 0))).sum()
        low, high = (middle, high) if total < k else (low, middle)
    return np.minimum(1, np.exp(np.minimum((scores + (low + high) / 2) / temperature, 0)))


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def masks_of(scores: np.ndarray, k: float, temperature: float) -> np.ndarray:
    with mx.stream(mx.cpu):
        found = soft_top_k(mx.array(scores, mx.float64), k, temperature)
        mx.eval(found)
    return np.array(found)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.1, 0.05, 0.02, 0.01, 0.005])
def test_masks_of_the_report_s_size_sum_to_k(temperature):
    masks = masks_of(draw(2, WIDE), KEPT, temperature)
    assert masks.sum(-1) == pytest.approx(KEPT, abs=1e-6)
    assert masks.min() >= 0
    assert masks.max() <= 1


def test_masks_in_float32_still_sum_to_k():
    scores = mx.array(draw(2, WIDE), mx.float32)
    with mx.stream(mx.cpu):
        masks = np.array(soft_top_k(scores, KEPT, 0.02).astype(mx.float32)).astype(np.float64)
    assert masks.sum(-1) == pytest.approx(KEPT, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.005])
@pytest.mark.parametrize("k", [1.0, 7.0, 33.25, 99.0])
def test_masks_are_the_optimum_found_by_bisection(k, temperature):
    scores = draw(3, 100)
    wanted = np.stack([reference(row, k, temperature) for row in scores])
    assert masks_of(scores, k, temperature) == pytest.approx(wanted, abs=1e-9)


def test_no_other_feasible_mask_has_a_higher_objective():
    def objective(z):
        return z @ scores - 0.3 * np.sum(z * np.log(z))

    scores = draw(20)
    best = masks_of(scores[None], 6.0, 0.3)[0]
    for seed in range(200):
        step = draw(20, seed=seed + 1)
        other = np.clip(best + 0.01 * (step - step.mean()), 1e-9, 1)
        other *= 6.0 / other.sum()
        if other.max() <= 1:
            assert objective(other) <= objective(best) + 1e-12


def test_cold_masks_are_the_hard_top_k():
    scores = draw(1, WIDE)
    masks = masks_of(scores, KEPT, 0.005)[0]
    hard = np.zeros(WIDE)
    hard[np.array(hard_top_k(mx.array(scores, mx.float32), KEPT))[0]] = 1
    assert np.mean((masks > 0.5) == hard) > 0.999


def test_hot_masks_are_even():
    assert masks_of(draw(1, 50), 10.0, 1e6) == pytest.approx(0.2, abs=1e-4)


def test_keeping_all_is_all_ones():
    assert masks_of(draw(2, 40), 40.0, 0.05) == pytest.approx(1.0, abs=1e-12)


def test_equal_scores_share_evenly():
    assert masks_of(np.zeros((1, 8)), 3.0, 0.01) == pytest.approx(3 / 8)


@pytest.mark.parametrize(("n", "k", "temperature"), [(40, 13.0, 0.3), (40, 13.5, 0.05), (6, 2, 1)])
def test_gradient_agrees_with_finite_differences_of_the_reference(n, k, temperature):
    scores, weights = draw(n), draw(n, seed=1)

    def loss(row):
        with mx.stream(mx.cpu):
            return (soft_top_k(row[None], k, temperature)[0] * mx.array(weights, mx.float64)).sum()

    with mx.stream(mx.cpu):
        gradient = np.array(mx.grad(loss)(mx.array(scores, mx.float64)))
    step = 1e-6
    for i in range(n):
        up, down = scores.copy(), scores.copy()
        up[i] += step
        down[i] -= step
        slope = (reference(up, k, temperature) - reference(down, k, temperature)) @ weights
        assert gradient[i] == pytest.approx(slope / (2 * step), abs=1e-6)


def test_gradient_at_the_report_s_size_agrees_with_finite_differences_along_a_direction():
    scores, weights, direction = draw(WIDE), draw(WIDE, seed=1), draw(WIDE, seed=2)

    def loss(row):
        with mx.stream(mx.cpu):
            masks = soft_top_k(row[None], KEPT, 0.1)[0]
            return (masks * mx.array(weights / WIDE, mx.float64)).sum()

    with mx.stream(mx.cpu):
        gradient = np.array(mx.grad(loss)(mx.array(scores, mx.float64)))
    step = 1e-5
    up, down = (reference(scores + sign * step * direction, KEPT, 0.1) for sign in (1, -1))
    slope = (up - down) @ weights / WIDE / (2 * step)
    assert gradient @ direction == pytest.approx(slope, abs=1e-6)


def test_saturated_masks_get_no_gradient():
    scores = np.array([5.0, 4.0, 0.1, 0.0, -0.1])

    def loss(row):
        return (soft_top_k(row[None], 3.0, 0.1)[0] * mx.array([1.0, 2.0, 3.0, 4.0, 5.0])).sum()

    with mx.stream(mx.cpu):
        gradient = np.array(mx.grad(loss)(mx.array(scores, mx.float32)))
    assert gradient[:2] == pytest.approx(0)
    assert np.abs(gradient[2:]).min() > 0
    assert gradient.sum() == pytest.approx(0, abs=1e-5)  # moving all scores changes nothing


def test_gradient_reaches_float32_scores_inside_a_float32_model():
    scores = mx.array(draw(2, 30), mx.float32)

    def masks(scores):
        with mx.stream(mx.cpu):  # and what follows is computed where the model is
            return soft_top_k(scores, 10.0, 0.2).astype(mx.float32)

    gradient = mx.grad(lambda scores: masks(scores)[:, 3].sum())(scores)
    assert gradient.dtype == mx.float32
    assert np.abs(np.array(gradient)).max() > 0


def test_hard_top_k_lists_places_in_order():
    scores = mx.array([[0.0, 3.0, 1.0, 2.0], [9.0, 8.0, 7.0, 6.0]])
    assert hard_top_k(scores, 2).tolist() == [[1, 3], [0, 1]]
