"""Moments of inputs and of gradients, against explicit computation."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from afm_mlx.compression.moments import (
    SITES,
    advance,
    block_moments,
    collect_moments,
    fisher,
    start_stream,
    stream_shares,
    token_worths,
)
from afm_mlx.decoder.palette import linears, replace_linears

from .conftest import KINDS, TINY, build


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def decoder(request):
    return build(**request.param)


def batches():
    """Two, of different sizes."""
    return [
        mx.random.randint(0, TINY.vocab_size, (rows, 9), key=mx.random.key(rows)) for rows in (2, 3)
    ]


class Recorder(nn.Module):
    """A linear layer that keeps what it read."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self._inputs = linear, []

    def __call__(self, x):
        self._inputs.append(np.array(x).reshape(-1, x.shape[-1]))
        return self.linear(x)


def recorded(decoder):
    """Inputs of every linear layer, by name, and what their tokens count."""
    recorders = {name: Recorder(linear) for name, linear in linears(decoder).items()}
    replace_linears(decoder, recorders)
    counts = [[] for _ in decoder.layers]
    for inputs in batches():
        x = decoder.model.embed_tokens(inputs)
        for number, block in enumerate(decoder.layers):
            x = block(x, "causal")
            own = 1 / np.square(np.array(x)).mean(-1).reshape(-1)
            counts[number].append(own / own.mean())
        mx.eval(decoder._logits(decoder.model.norm(x)))
    replace_linears(decoder, {name: each.linear for name, each in recorders.items()})
    counts = [np.concatenate(each) for each in counts]
    return {
        name: (np.concatenate(each._inputs), counts_of(name, counts))
        for name, each in recorders.items()
    }


def counts_of(name, counts):
    return np.ones_like(counts[0]) if name == "lm_head" else counts[int(name.split(".")[2])]


def test_moments_are_those_of_what_every_linear_layer_reads(decoder):
    inputs = recorded(decoder)
    squares = collect_moments(decoder, batches())
    full = collect_moments(decoder, batches(), full=True)
    assert squares.keys() == full.keys() == inputs.keys()
    for name, (x, counts) in inputs.items():
        wanted = (x * counts[:, None]).T @ x / counts.sum()
        np.testing.assert_allclose(np.array(full[name]), wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.array(squares[name]), np.diag(wanted), rtol=1e-4, atol=1e-5)


def test_one_token_of_huge_states_does_not_decide():
    decoder = build()
    inputs, name = mx.arange(32)[None], "model.layers.1.mlp.down_proj"
    without = collect_moments(decoder, [inputs[:, :31]])[name]
    embedding = decoder.model.embed_tokens
    huge = mx.where(mx.arange(TINY.vocab_size)[:, None] == 31, 1_000.0, 1.0)
    embedding.weight = embedding.weight * huge
    found = collect_moments(decoder, [inputs])[name]
    np.testing.assert_allclose(np.array(found), np.array(without), rtol=1e-3)


def test_a_token_whose_state_is_zeros_does_not_count():
    # A row begins with the token that ends documents, and that of a padding token has zeros.
    decoder = build(tied=False)
    inputs = mx.arange(32)[None]
    embedding = decoder.model.embed_tokens
    embedding.weight = mx.where(mx.arange(TINY.vocab_size)[:, None] == 0, 0.0, embedding.weight)
    worths = token_worths(decoder, [inputs], seed=0)
    for found in (
        collect_moments(decoder, [inputs], full=True),
        collect_moments(decoder, [inputs], worths=worths),
    ):
        assert all(mx.isfinite(moment).all() for moment in found.values())
    counts = stream_shares(start_stream(decoder, [inputs])[0])
    assert counts[0, 0].item() == 0
    assert counts.mean().item() == pytest.approx(1)


def test_gradients_decide_half_of_what_tokens_count(decoder):
    (inputs,) = batches()[:1]
    worths = token_worths(decoder, [inputs], seed=0)
    only_first = {
        name: [mx.where(mx.arange(inputs.shape[1]) == 0, each[0], 0.0)]
        for name, each in worths.items()
    }
    found = collect_moments(decoder, [inputs], worths=only_first)
    plain = collect_moments(decoder, [inputs])
    x = decoder.layers[0].input_layernorm(decoder.model.embed_tokens(inputs))
    for part in ("q_proj", "v_proj"):
        name = f"model.layers.0.self_attn.{part}"
        counts = only_first[name][0][..., None]
        first = (mx.square(x) * counts).sum((0, 1)) / counts.sum() if counts.sum() > 0 else 0
        wanted = (first + plain[name]) / 2 if counts.sum() > 0 else plain[name]
        np.testing.assert_allclose(np.array(found[name]), np.array(wanted), rtol=1e-3)


def test_worths_are_the_sums_of_squared_gradients(decoder):
    worths = token_worths(decoder, batches(), seed=2)
    rows = [row[None] for inputs in batches() for row in inputs]
    outputs = fisher(decoder, rows, seed=2)
    for name, each in worths.items():
        tokens = np.concatenate([np.array(worth).reshape(-1) for worth in each])
        assert [worth.shape for worth in each] == [inputs.shape for inputs in batches()]
        assert tokens.mean() == pytest.approx(outputs[name].sum().item(), rel=1e-3)


def test_probes_leave_the_decoder_as_it_was(decoder):
    before = linears(decoder)
    collect_moments(decoder, batches())
    fisher(decoder, batches(), seed=0)
    after = linears(decoder)
    assert all(after[name] is linear for name, linear in before.items())


def test_the_stream_through_all_blocks_ends_in_the_logits(decoder):
    stream = start_stream(decoder, batches())
    for block in decoder.layers:
        stream = advance(block, stream)
    for x, inputs in zip(stream, batches(), strict=True):
        logits = decoder._logits(decoder.model.norm(x))
        np.testing.assert_allclose(np.array(logits), np.array(decoder(inputs)), atol=1e-5)


def test_single_sites_of_a_block_can_be_measured(decoder):
    stream, block = start_stream(decoder, batches()), decoder.layers[0]
    assert block_moments(block, stream, sites=["mlp.down_proj"]).keys() == {"mlp.down_proj"}
    assert block_moments(block, stream).keys() == {
        name for names in SITES.values() for name in names
    }


def test_fisher_predicts_the_divergence_of_a_small_change():
    # Over all texts that a label can be drawn for, KL is half of the mean of (gradient x change)^2;
    # for a change drawn at random, that is half the sum of squared gradients times its variance.
    decoder = build()
    inputs = mx.random.randint(0, TINY.vocab_size, (64, 9), key=mx.random.key(0))
    name = "model.layers.1.mlp.down_proj"
    worth = np.array(fisher(decoder, [inputs], seed=1)[name])
    before = log_softmax(decoder(inputs))
    linear = linears(decoder)[name]
    found = []
    for draw in range(8):
        noise = 1e-2 * mx.random.normal((64, 9, TINY.hidden_size), key=mx.random.key(draw))
        replace_linears(decoder, {name: Shifted(linear, noise)})
        after = log_softmax(decoder(inputs))
        found.append((mx.exp(before) * (before - after)).sum(-1).mean().item())
    replace_linears(decoder, {name: linear})
    assert np.mean(found) == pytest.approx(worth.sum() * 1e-4 / 2, rel=0.15)


def test_fisher_of_single_weights_is_that_of_outputs_and_inputs_together():
    decoder = build()
    tokens = mx.random.randint(0, TINY.vocab_size, (1, 1), key=mx.random.key(0))
    outputs, both = (
        fisher(decoder, [tokens], seed=1),
        fisher(decoder, [tokens], seed=1, single=True),
    )
    squares = collect_moments(decoder, [tokens])
    for name, worth in both.items():  # of one token, the mean of a product is a product
        wanted = np.outer(np.array(outputs[name]), np.array(squares[name]))
        np.testing.assert_allclose(np.array(worth), wanted, rtol=1e-3, atol=1e-9)


class Shifted(nn.Module):
    """A linear layer whose outputs are moved."""

    def __init__(self, linear, offset):
        super().__init__()
        self.linear, self.offset = linear, offset

    def __call__(self, x):
        return self.linear(x) + self.offset


def log_softmax(logits):
    return logits - mx.logsumexp(logits, -1, keepdims=True)
