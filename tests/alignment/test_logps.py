import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from afm_mlx.alignment.logps import (
    Answer,
    answer_logps,
    answer_sums,
    linear_logps,
    pack_answers,
    packed_hidden,
)
from afm_mlx.decoder.decoder import Decoder

SIZES = [(3, 9), (30, 41), (1, 2), (12, 30), (7, 20), (2, 34), (5, 6)]
"""Tokens of prompt, and of prompt and answer."""


def some_answers(sizes=SIZES, seed=0):
    random = np.random.default_rng(seed)
    return [Answer(random.integers(0, 48, size).tolist(), start) for start, size in sizes]


def plain(model, answer):
    """Log-probabilities of an answer's tokens, one sequence alone, all its logits at once."""
    tokens = mx.array([answer.ids])
    logps = nn.log_softmax(model(tokens).astype(mx.float32), axis=-1)[0]
    targets = mx.array(answer.ids[answer.start :])
    return mx.take_along_axis(logps[answer.start - 1 : -1], targets[:, None], axis=-1)[:, 0]


def gradients(model, loss):
    params = model.trainable_parameters()

    def of(params):
        model.update(params)
        return loss()

    value, grads = mx.value_and_grad(of)(params)
    model.update(params)
    return value, dict(tree_flatten(grads))


@pytest.mark.parametrize("row_tokens", [None, 41, 128])
def test_packed_logps_are_those_of_each_answer_alone(decoder, row_tokens):
    answers = some_answers()
    found = answer_logps(decoder, pack_answers(answers, row_tokens=row_tokens), chunk_bytes=2**24)
    expected = [plain(decoder, answer) for answer in answers]
    assert found.answers.shape == (len(answers),)
    for logp, tokens in zip(found.answers.tolist(), expected, strict=True):
        assert logp == pytest.approx(mx.sum(tokens).item(), rel=2e-6)
    tokens = mx.concatenate(expected)
    assert mx.allclose(found.tokens[: tokens.size], tokens, atol=5e-6, rtol=0).item()
    assert not mx.any(found.tokens[tokens.size :]).item()


def test_gradient_is_that_of_the_plain_log_softmax(decoder):
    answers = some_answers()
    packed = pack_answers(answers)
    pulls = mx.array([0.5, -1.0, 2.0, 0.0, -0.3, 1.0, 0.7])

    def ours():
        return mx.sum(pulls * answer_logps(decoder, packed, chunk_bytes=40_000).answers)

    def simple():
        return sum(
            pull * mx.sum(plain(decoder, answer))
            for pull, answer in zip(pulls.tolist(), answers, strict=True)
        )

    value, found = gradients(decoder, ours)
    wanted_value, wanted = gradients(decoder, simple)
    assert value.item() == pytest.approx(wanted_value.item(), rel=1e-5)
    scale = max(mx.max(mx.abs(grad)).item() for grad in wanted.values())
    for name in wanted:
        assert mx.max(mx.abs(found[name] - wanted[name])).item() <= 3e-6 * scale, name


@pytest.mark.parametrize("chunk_bytes", [1, 5_000, 2**24])
def test_chunks_change_nothing(chunk_bytes):
    hidden = mx.random.normal((23, 16), key=mx.random.key(0))
    weight = mx.random.normal((48, 16), key=mx.random.key(1))
    targets = mx.random.randint(0, 48, (23,), key=mx.random.key(2))
    pull = mx.random.normal((23,), key=mx.random.key(3))

    def ours(hidden, weight):
        return mx.sum(pull * linear_logps(hidden, weight, targets, chunk_bytes=chunk_bytes))

    def simple(hidden, weight):
        logps = nn.log_softmax(hidden @ weight.T, axis=-1)
        return mx.sum(pull * mx.take_along_axis(logps, targets[:, None], axis=-1)[:, 0])

    value, found = mx.value_and_grad(ours, argnums=(0, 1))(hidden, weight)
    expected, wanted = mx.value_and_grad(simple, argnums=(0, 1))(hidden, weight)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours_, theirs in zip(found, wanted, strict=True):
        assert mx.allclose(ours_, theirs, atol=2e-5, rtol=1e-5).item()


def test_logps_by_hand():
    logps = linear_logps(
        mx.array([[1.0, 2.0]]), mx.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), mx.array([1]),
        chunk_bytes=2**20,
    )  # fmt: skip
    assert logps.item() == pytest.approx(2 - math.log(math.e + math.e**2 + 1), rel=1e-6)


def test_an_untrained_output_layer_gets_no_gradient():
    hidden, weight = mx.ones((2, 4)), mx.ones((8, 4))

    def loss(weight):
        logps = linear_logps(
            hidden, weight, mx.array([0, 1]), chunk_bytes=2**20, train_weight=False
        )
        return mx.sum(logps)

    assert not mx.any(mx.grad(loss)(weight)).item()


def test_logits_of_all_tokens_are_never_in_memory():
    tokens, vocab_size, budget = 2_048, 4_096, 4 * 2**20
    hidden = mx.random.normal((tokens, 16), key=mx.random.key(0))
    weight = mx.random.normal((vocab_size, 16), key=mx.random.key(1))
    targets = mx.zeros((tokens,), mx.int32)

    def peak(chunk_bytes):
        def loss(hidden, weight):
            return mx.sum(linear_logps(hidden, weight, targets, chunk_bytes=chunk_bytes))

        mx.eval(hidden, weight)
        mx.reset_peak_memory()
        start = mx.get_active_memory()
        mx.eval(mx.grad(loss, argnums=(0, 1))(hidden, weight))
        return mx.get_peak_memory() - start

    others = 4 * (hidden.nbytes + weight.nbytes)
    assert peak(budget) < 1.2 * budget + others < tokens * vocab_size * 4
    assert peak(2**34) > 2 * tokens * vocab_size * 4


def test_rows_are_a_picture():
    packed = pack_answers([Answer([1, 2, 3], 2), Answer([4, 5], 1), Answer([6], 0)][:2])
    assert packed.tokens.shape == (1, 64)
    assert packed.tokens[0, :6].tolist() == [1, 2, 3, 4, 5, 0]
    assert packed.documents[0, :6].tolist() == [1, 1, 1, 2, 2, 0]
    assert packed.targets[:3].tolist() == [3, 5, 0]
    assert packed.places[:2].tolist() == [1, 3]
    assert packed.owners[:2].tolist() == [0, 1]
    assert packed.weights[:3].tolist() == [1, 1, 0]
    assert packed.lengths.tolist() == [1, 1]
    assert packed.lasts.tolist() == [2, 4]


def test_packing_leaves_little_room():
    sizes = [(1, size) for size in (60, 4, 30, 34, 20, 44)]
    assert pack_answers(some_answers(sizes), row_tokens=64).tokens.shape == (3, 64)


@pytest.mark.parametrize("answer", [Answer([1, 2], 2), Answer([1, 2], 0), Answer([], 0)])
def test_an_answer_without_tokens_or_prompt_is_refused(answer):
    with pytest.raises(ValueError, match="no answer"):
        pack_answers([answer])


def test_an_answer_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="41 tokens does not fit a row of 40"):
        pack_answers(some_answers(), row_tokens=40)


def test_answer_sums_add_up_each_answers_tokens():
    packed = pack_answers(some_answers([(1, 3), (2, 5)]))
    values = packed.weights * mx.arange(packed.weights.size)
    assert answer_sums(values, packed).tolist() == [0 + 1, 2 + 3 + 4]


def test_last_places_hold_the_state_after_the_whole_answer(decoder: Decoder):
    answers = some_answers()
    packed = pack_answers(answers)
    states = packed_hidden(decoder, packed)[packed.lasts]
    for state, answer in zip(states, answers, strict=True):
        alone = decoder.hidden(mx.array([answer.ids]), mask="causal")[0, -1]
        assert mx.allclose(state, alone, atol=1e-5).item()
