import math

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.training import cross_entropy
from afm_mlx.training.cross_entropy import linear_cross_entropy
from afm_mlx.training.objectives import token_cross_entropy

N, D, V = 50, 16, 192
LARGE = 2**30
TINY = 40 * V * 4  # chunks of 5 tokens


@pytest.fixture(params=["cpu form", "gpu form"])
def _either_form(request, monkeypatch):
    """The plain operations that a GPU gets run on the CPU too."""
    monkeypatch.setattr(cross_entropy, "on_gpu", lambda: request.param == "gpu form")


def problem(*, scale=1.0, seed=0, n=N, v=V):
    keys = mx.random.split(mx.random.key(seed), 4)
    hidden = scale * mx.random.normal((n, D), key=keys[0])
    weight = mx.random.normal((v, D), key=keys[1])
    targets = mx.random.randint(0, v, (n,), key=keys[2])
    weights = mx.random.uniform(0.5, 2.0, (n,), key=keys[3])
    return hidden, weight, targets, weights


def in_float64(hidden, weight, targets, weights, z_loss):
    """Loss, cross entropy and both gradients from the definition."""
    h, e, w = (np.array(x.astype(mx.float32), np.float64) for x in (hidden, weight, weights))
    t, rows = np.array(targets), np.arange(len(targets))
    logits = h @ e.T
    top = logits.max(axis=1, keepdims=True)
    log_z = (top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))[:, 0]
    nll = w * (log_z - logits[rows, t])
    softmax = np.exp(logits - log_z[:, None])
    slope = softmax * (1 + 2 * z_loss * log_z)[:, None]
    slope[rows, t] -= 1
    slope *= w[:, None]
    loss = (nll + z_loss * w * log_z**2).sum()
    return loss, nll.sum(), slope @ e, slope.T @ h


def with_gradient(hidden, weight, targets, weights, **how):
    def loss(hidden, weight):
        return linear_cross_entropy(hidden, weight, targets, weights, **how)

    (loss_sum, nll_sum), gradients = mx.value_and_grad(loss, argnums=(0, 1))(hidden, weight)
    return loss_sum, nll_sum, *gradients


def assert_near(value, expected, tolerance=1e-6):
    """Equal up to `tolerance` of the largest entry."""
    value, expected = np.array(value, np.float64), np.array(expected, np.float64)
    assert np.abs(value - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-30)


def test_two_logits_by_hand():
    hidden, weight = mx.array([[2.0]]), mx.array([[1.0], [0.0]])  # logits 2 and 0
    loss, nll = linear_cross_entropy(
        hidden, weight, mx.array([0]), mx.array([3.0]), z_loss=0.1, chunk_bytes=LARGE
    )
    log_z = math.log(math.exp(2) + 1)
    assert nll.item() == pytest.approx(3 * (log_z - 2), rel=1e-6)
    assert loss.item() == pytest.approx(3 * (log_z - 2 + 0.1 * log_z**2), rel=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    _, nll = linear_cross_entropy(
        mx.zeros((4, D)),
        mx.ones((V, D)),
        mx.array([0, 5, 7, V - 1]),
        mx.ones((4,)),
        z_loss=0.0,
        chunk_bytes=LARGE,
    )
    assert nll.item() == pytest.approx(4 * math.log(V), rel=1e-6)


@pytest.mark.usefixtures("_either_form")
@pytest.mark.parametrize("z_loss", [0.0, 1e-6, 0.05])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("chunk_bytes", [LARGE, TINY], ids=["one chunk", "chunks"])
def test_loss_and_gradient_match_float64(scale, z_loss, chunk_bytes):
    case = problem(scale=scale)
    result = with_gradient(*case, z_loss=z_loss, chunk_bytes=chunk_bytes)
    # Logits near 100 are rounded by 4e-6, and so is every other float32 form.
    for value, expected in zip(result, in_float64(*case, z_loss), strict=True):
        assert_near(value, expected, 1e-6 * (2 + scale))


@pytest.mark.usefixtures("_either_form")
@pytest.mark.parametrize("vocab_size", [3, 97, 100])
def test_any_vocabulary_size_works(vocab_size):
    case = problem(v=vocab_size)
    result = with_gradient(*case, z_loss=1e-3, chunk_bytes=LARGE)
    for value, expected in zip(result, in_float64(*case, 1e-3), strict=True):
        assert_near(value, expected, 2e-6)


@pytest.mark.usefixtures("_either_form")
def test_gradient_matches_the_plain_form():
    hidden, weight, targets, weights = problem()

    def plain(hidden, weight):
        return mx.sum(weights * token_cross_entropy(hidden @ weight.T, targets, z_loss=0.01))

    loss, gradients = mx.value_and_grad(plain, argnums=(0, 1))(hidden, weight)
    ours = with_gradient(hidden, weight, targets, weights, z_loss=0.01, chunk_bytes=LARGE)
    assert_near(ours[0], loss)
    assert_near(ours[2], gradients[0])
    assert_near(ours[3], gradients[1])


def test_gradient_matches_finite_differences():
    hidden, weight, targets, weights = problem(n=3, v=8)
    *_, gradient, _ = with_gradient(hidden, weight, targets, weights, z_loss=0.1, chunk_bytes=LARGE)
    step = 1e-2
    for token, column in [(0, 0), (1, 7), (2, 15)]:
        change = np.zeros((3, D), np.float32)
        change[token, column] = step
        up, down = (
            linear_cross_entropy(
                hidden + sign * mx.array(change),
                weight,
                targets,
                weights,
                z_loss=0.1,
                chunk_bytes=LARGE,
                gradient=False,
            )[0].item()
            for sign in (1, -1)
        )
        slope = (up - down) / (2 * step)
        assert gradient[token, column].item() == pytest.approx(slope, rel=2e-3, abs=2e-3)


def test_chunks_give_what_one_piece_gives():
    case = problem()
    whole = with_gradient(*case, z_loss=1e-3, chunk_bytes=LARGE)
    for chunk_bytes in (1, TINY, 3 * TINY):
        for a, b in zip(
            with_gradient(*case, z_loss=1e-3, chunk_bytes=chunk_bytes), whole, strict=True
        ):
            assert_near(a, b)


def test_padding_trains_nothing_whatever_its_target():
    hidden, weight, targets, weights = problem()
    real = mx.arange(N) % 3 != 0
    padded = mx.where(real, targets, -100), mx.where(real, weights, 0.0)
    _, nll, to_hidden, to_weight = with_gradient(
        hidden, weight, *padded, z_loss=1e-3, chunk_bytes=TINY
    )
    assert mx.all(to_hidden[::3] == 0).item()
    kept = mx.array([i for i in range(N) if i % 3])
    alone = with_gradient(
        hidden[kept], weight, targets[kept], weights[kept], z_loss=1e-3, chunk_bytes=LARGE
    )
    assert_near(nll, alone[1])
    assert_near(to_hidden[kept], alone[2])
    assert_near(to_weight, alone[3])


def test_all_padding_is_zero():
    hidden, weight, targets, _ = problem()
    for value in with_gradient(
        hidden, weight, targets, mx.zeros((N,)), z_loss=1e-3, chunk_bytes=TINY
    ):
        assert mx.all(value == 0).item()


def test_sums_of_uneven_micro_batches_give_the_full_batch():
    hidden, weight, targets, weights = problem()
    weights = (weights > 1.0).astype(mx.float32)

    def sums(rows):
        def loss(weight):
            return linear_cross_entropy(
                hidden[rows], weight, targets[rows], weights[rows], z_loss=1e-6, chunk_bytes=LARGE
            )[0]

        return mx.grad(loss)(weight), mx.sum(weights[rows])

    full, full_tokens = sums(slice(0, N))
    parts = [sums(rows) for rows in (slice(0, 3), slice(3, 20), slice(20, N))]
    assert len({tokens.item() for _, tokens in parts}) == 3
    mean = sum(part for part, _ in parts) / sum(tokens for _, tokens in parts)
    assert_near(mean, full / full_tokens)


@pytest.mark.usefixtures("_either_form")
def test_bfloat16_inputs_are_computed_in_float32():
    hidden, weight, targets, weights = problem(scale=3.0)
    hidden, weight = hidden.astype(mx.bfloat16), weight.astype(mx.bfloat16)
    loss, nll, *gradients = with_gradient(
        hidden, weight, targets, weights, z_loss=1e-3, chunk_bytes=TINY
    )
    assert loss.dtype == nll.dtype == mx.float32
    expected = in_float64(hidden, weight, targets, weights, 1e-3)
    assert_near(loss, expected[0], 2e-6)
    assert_near(nll, expected[1], 2e-6)
    for gradient, exact in zip(gradients, expected[2:], strict=True):
        assert gradient.dtype == mx.bfloat16
        assert_near(gradient.astype(mx.float32), exact, 2**-8)


def test_gradient_scales_with_what_follows():
    hidden, weight, targets, weights = problem()
    how = {"z_loss": 1e-3, "chunk_bytes": LARGE}

    def halved(hidden, weight):
        return 0.5 * linear_cross_entropy(hidden, weight, targets, weights, **how)[0]

    _, _, to_hidden, to_weight = with_gradient(hidden, weight, targets, weights, **how)
    gradients = mx.grad(halved, argnums=(0, 1))(hidden, weight)
    assert_near(gradients[0], 0.5 * to_hidden)
    assert_near(gradients[1], 0.5 * to_weight)


def test_reported_cross_entropy_has_no_gradient():
    hidden, weight, targets, weights = problem()

    def nll(hidden):
        return linear_cross_entropy(
            hidden, weight, targets, weights, z_loss=1e-3, chunk_bytes=LARGE
        )[1]

    assert mx.all(mx.grad(nll)(hidden) == 0).item()


def test_frozen_weight_gets_no_gradient_and_the_hidden_states_the_same():
    case = problem()
    how = {"z_loss": 1e-3, "chunk_bytes": TINY}
    full = with_gradient(*case, **how)
    frozen = with_gradient(*case, **how, train_weight=False)
    assert all(mx.array_equal(a, b) for a, b in zip(frozen[:3], full[:3], strict=True))
    assert mx.all(frozen[3] == 0).item()


def test_evaluation_gives_the_same_sums_without_gradients():
    case = problem()
    how = {"z_loss": 1e-3, "chunk_bytes": TINY}
    full = with_gradient(*case, **how)
    evaluated = with_gradient(*case, **how, gradient=False)
    assert all(mx.array_equal(a, b) for a, b in zip(evaluated[:2], full[:2], strict=True))
    assert mx.all(evaluated[2] == 0).item()
    assert mx.all(evaluated[3] == 0).item()


@pytest.mark.usefixtures("_either_form")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("z_loss", [0.0, 1e-6])
def test_a_broken_hidden_state_breaks_loss_and_gradient(bad, z_loss):
    hidden, *rest = problem()
    hidden[7, 3] = bad
    loss, nll, to_hidden, to_weight = with_gradient(hidden, *rest, z_loss=z_loss, chunk_bytes=LARGE)
    assert not math.isfinite(loss.item())
    assert not math.isfinite(nll.item())
    assert not mx.all(mx.isfinite(to_hidden[7])).item()
    assert not mx.all(mx.isfinite(to_weight)).item()


@pytest.mark.usefixtures("_either_form")
def test_large_logits_do_not_overflow():
    hidden, weight, targets, weights = problem(scale=300.0)
    case = hidden, weight, targets, weights
    result = with_gradient(*case, z_loss=1e-6, chunk_bytes=LARGE)
    for value, expected in zip(result, in_float64(*case, 1e-6), strict=True):
        assert_near(value, expected, 1e-5)


def test_gradient_is_right_where_z_loss_cancels_the_softmax():
    # One logit of -5 each: log Z is -5, and 1 + 2 * 0.1 * log Z is 0.
    hidden, weight, target = mx.array([[-5.0]]), mx.array([[1.0]]), mx.array([0])
    how = {"z_loss": 0.1, "chunk_bytes": LARGE}
    *_, to_hidden, to_weight = with_gradient(hidden, weight, target, mx.ones((1,)), **how)
    assert to_hidden.item() == pytest.approx(-1.0, rel=1e-5)
    assert to_weight.item() == pytest.approx(5.0, rel=1e-5)


def test_memory_stays_within_the_budget():
    n, d, v, chunk_bytes = 2_048, 64, 16_384, 2**25
    keys = mx.random.split(mx.random.key(0), 2)
    hidden, weight = mx.random.normal((n, d), key=keys[0]), mx.random.normal((v, d), key=keys[1])
    targets, weights = mx.arange(n), mx.ones((n,))
    mx.eval(hidden, weight, targets, weights)
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(with_gradient(hidden, weight, targets, weights, z_loss=1e-6, chunk_bytes=chunk_bytes))
    used = mx.get_peak_memory() - before
    gradients = 4 * (n + v) * d
    assert used < gradients + 2 * chunk_bytes
    assert used < 4 * n * v  # the full matrix of logits


# Several targets of one token: a text's own, and a teacher's candidates.


def soft_case(seed=0, tokens=6, width=5, vocab=11, candidates=4):
    keys = mx.random.split(mx.random.key(seed), 4)
    hidden = mx.random.normal((tokens, width), key=keys[0])
    weight = mx.random.normal((vocab, width), key=keys[1])
    teacher = mx.softmax(2 * mx.random.normal((tokens, vocab), key=keys[2]), axis=-1)
    ids = mx.argsort(-teacher, axis=-1)[:, :candidates]
    text = mx.random.randint(0, vocab, (tokens,), key=keys[3])
    return hidden, weight, teacher, ids, text


def soft_reference(hidden, weight, targets, shares, weights, z_loss):
    """The definition: all tokens that are no candidates count as one."""
    logits = hidden @ weight.T
    log_z = mx.logsumexp(logits, axis=-1)
    candidates = targets[:, 1:]
    is_candidate = (mx.arange(weight.shape[0])[None, None] == candidates[..., None]).any(1)
    log_others = mx.logsumexp(mx.where(is_candidate, -1e9, logits), axis=-1)
    named = (shares * mx.take_along_axis(logits, targets, axis=-1)).sum(-1)
    others = mx.maximum(1 - shares.sum(-1), 0)
    ce = log_z - named - others * log_others
    return (weights * (ce + z_loss * mx.square(log_z))).sum()


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("whole", [True, False], ids=["one candidate", "the rest as one"])
@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
def test_several_targets_match_the_definition_in_loss_and_gradient(z_loss, whole, chunk_bytes):
    hidden, weight, teacher, ids, text = soft_case(candidates=1 if whole else 4)
    chosen = mx.ones(ids.shape) if whole else mx.take_along_axis(teacher, ids, axis=-1)
    targets = mx.concatenate([text[:, None], ids], axis=-1)
    shares = mx.concatenate([mx.full((len(text), 1), 0.1), 0.9 * chosen], axis=-1)
    shares = shares if not whole else shares / shares.sum(-1, keepdims=True)
    weights = mx.array([1.0, 0.5, 0.0, 1.0, 2.0, 1.0])

    def ours(hidden, weight):
        return linear_cross_entropy(
            hidden, weight, targets, weights, shares=shares, z_loss=z_loss, chunk_bytes=chunk_bytes
        )[0]

    def wanted(hidden, weight):
        return soft_reference(hidden, weight, targets, shares, weights, z_loss)

    assert ours(hidden, weight).item() == pytest.approx(wanted(hidden, weight).item(), rel=1e-5)
    for got, right in zip(
        mx.grad(ours, argnums=(0, 1))(hidden, weight),
        mx.grad(wanted, argnums=(0, 1))(hidden, weight),
        strict=True,
    ):
        assert mx.allclose(got, right, atol=2e-5, rtol=1e-4).item()


def test_a_text_token_that_the_teacher_names_too_counts_twice():
    hidden, weight, _, ids, _ = soft_case(candidates=1)
    shares = mx.broadcast_to(mx.array([0.1, 0.9]), (len(ids), 2))
    both = mx.concatenate([ids, ids], axis=-1)
    ones = mx.ones(len(ids))
    loss, nll = linear_cross_entropy(
        hidden, weight, both, ones, shares=shares, z_loss=0.0, chunk_bytes=2**20
    )
    plain, _ = linear_cross_entropy(hidden, weight, ids[:, 0], ones, z_loss=0.0, chunk_bytes=2**20)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert nll.item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_student_that_agrees_with_its_teacher_gets_no_gradient():
    hidden, weight, _, _, _ = soft_case()
    teacher = mx.softmax(hidden @ weight.T, axis=-1)
    ids = mx.argsort(-teacher, axis=-1)[:, :4]
    targets = mx.concatenate([ids[:, :1], ids], axis=-1)
    of_text = mx.zeros((len(ids), 1))
    shares = mx.concatenate([of_text, mx.take_along_axis(teacher, ids, axis=-1)], axis=-1)

    def loss(hidden):
        return linear_cross_entropy(
            hidden, weight, targets, mx.ones(len(ids)), shares=shares, z_loss=0.0, chunk_bytes=2**20
        )[0]

    assert mx.abs(mx.grad(loss)(hidden)).max().item() < 1e-5
