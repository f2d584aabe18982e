"""What goes into each linear layer, and what its outputs are worth: where table fitting puts bits.

A linear layer's squared error on texts depends on its inputs x only through E[x x^T]. Blocks run
one after the other over all texts, and only the stream between them is kept, so that a block can be
changed before the next one is measured.

Tokens do not count alike. A model makes a few of them attention sinks: their states are a million
times the others' in square, but later norms divide that away, while all queries read their keys
and values. Plain means are about the sinks alone. Tokens count by the squared gradients of their
outputs, if those were taken, and by one over the mean square of the stream after the block, which
is what later norms leave of an error there. On SmolLM2, 4-bit tables with error feedback came to a
KL of 0.26 by the latter alone, and of 0.12 by both.

Sources. arXiv:2210.17323 (GPTQ), section 3, for E[x x^T]; arXiv:2306.07629 (SqueezeLLM), section
4.1, for gradients as importance. Labels are drawn from the model itself, as KL to it asks: to
second order, a small change of outputs costs half its square times the squared gradient in KL.

Shapes. B rows, L tokens of a row, D width, O outputs and I inputs of a linear layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import mlx.core as mx
import mlx.nn as nn

from afm_mlx.decoder.decoder import Block, Decoder
from afm_mlx.decoder.palette import linears

Stream = list[mx.array]
"""States [B, L, D] between two blocks, one array for each batch of texts."""

SITES: Mapping[str, tuple[str, ...]] = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
"""Linear layers of a block that read the same inputs, by the first of them, in order of use."""


class _Reached(Exception):
    """A forward pass has come to the inputs that it was made for."""


class _Probe(nn.Module):
    """Stands in for a linear layer, sees its inputs, and adds to its outputs."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.offset: mx.array | None = None
        self.ends = False  # the forward pass, as soon as the inputs are seen
        self._seen: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        self._seen = x
        if self.ends:
            raise _Reached
        y = self.linear(x)
        return y if self.offset is None else y + self.offset


def start_stream(decoder: Decoder, batches: Iterable[mx.array]) -> Stream:
    """The embedded tokens of batches of token ids [B, L]: what goes into the first block."""
    stream = [decoder.model.embed_tokens(inputs) for inputs in batches]
    mx.eval(stream)
    return stream


def advance(block: Block, stream: Stream) -> Stream:
    """What comes out of a block."""
    after = []
    for x in stream:
        after.append(block(x, "causal"))
        mx.eval(after[-1])
    return after


def inputs_at(block: Block, x: mx.array, site: str) -> mx.array:
    """Inputs [B x L, I], float32, of the linear layers at one of `SITES`, of states [B, L, D].

    The rest of the block is not computed.
    """
    with _probed({site: (block, site)}) as probes:
        probes[site].ends = True
        with suppress(_Reached):
            block(x, "causal")
        return _inputs(probes[site])


def stream_shares(after: mx.array) -> mx.array:
    """What tokens [B, L] count by the stream [B, L, D] after a block: one over its mean square.

    One that stays zeros, as of an embedding that was never trained, does not count.
    """
    squares = mx.square(after.astype(mx.float32)).mean(-1)
    return shares(mx.where(squares > 0, 1 / mx.where(squares > 0, squares, 1), 0))


def shares(counts: mx.array) -> mx.array:
    """Counts of a batch, with mean 1."""
    mean = counts.mean()
    return counts / mx.where(mean > 0, mean, 1.0)


Worths = dict[str, list[mx.array]]
"""What each token [B, L] counts, one array for each batch, by names of linear layers."""


def block_moments(
    block: Block,
    stream: Stream,
    *,
    full: bool = False,
    sites: Sequence[str] = tuple(SITES),
    worths: Worths | None = None,
) -> dict[str, mx.array]:
    """Moments of the inputs of a block's linear layers, float32, by names such as `mlp.up_proj`.

    Means over tokens are weighted, as the file says.

    Args:
        block: one layer, as it is now.
        stream: what goes into it.
        full: E[x x^T], [I, I]; or else E[x^2], [I].
        sites: keys of `SITES` to measure.
        worths: what tokens count for each linear layer, by names such as `mlp.up_proj`; as
            `token_worths` gives them. Then layers of a site have moments of their own.
    """
    return _measured(block, stream, full, sites, worths)[0]


def collect_moments(
    decoder: Decoder,
    batches: Iterable[mx.array],
    *,
    full: bool = False,
    worths: Worths | None = None,
) -> dict[str, mx.array]:
    """`block_moments` of all blocks, by names as in `palette.linears`; of an output layer too."""
    stream = start_stream(decoder, batches)
    found: dict[str, mx.array] = {}
    for number, block in enumerate(decoder.layers):
        prefix = f"model.layers.{number}."
        own = None if worths is None else worths_of_block(worths, number)
        moments, stream = _measured(block, stream, full, tuple(SITES), own)
        found |= {prefix + name: moment for name, moment in moments.items()}
    if not decoder.shape.tied:
        total, tokens = mx.zeros(()), 0
        for x in stream:
            states = decoder.model.norm(x).reshape(-1, x.shape[-1]).astype(mx.float32)
            total = total + _moment(states, mx.ones((len(states), 1)), full)
            tokens += len(states)
            mx.eval(total)
        found["lm_head"] = total / max(tokens, 1)
    return found


def token_worths(decoder: Decoder, batches: Iterable[mx.array], *, seed: int) -> Worths:
    """Squared gradients [B, L] of the outputs of each linear layer, summed over outputs.

    By names as in `palette.linears`. Takes about as long as three forward passes; one row at a
    time, since gradients at all outputs are held.

    Args:
        decoder: the model; its weights stay.
        batches: token ids [B, L].
        seed: of the draws of labels.
    """
    batches = list(batches)
    rows: Worths = {}
    for gradients, _ in _gradients(decoder, (row[None] for each in batches for row in each), seed):
        summed = {name: squares.sum(-1) for name, squares in gradients.items()}
        mx.eval(summed)
        for name, worth in summed.items():
            rows.setdefault(name, []).append(worth)
    ends = list(itertools.accumulate((len(each) for each in batches), initial=0))
    return {
        name: [mx.concatenate(own[a:b]) for a, b in itertools.pairwise(ends)]
        for name, own in rows.items()
    }


def worths_of_block(worths: Worths, number: int) -> Worths:
    """The worths for one block, by names such as `mlp.up_proj`."""
    prefix = f"model.layers.{number}."
    return {
        name.removeprefix(prefix): each for name, each in worths.items() if name.startswith(prefix)
    }


def fisher(
    decoder: Decoder, batches: Iterable[mx.array], *, seed: int, single: bool = False
) -> dict[str, mx.array]:
    """Mean squared gradients of the model's own log-likelihood, by names as in `palette.linears`.

    Args:
        decoder: the model; its weights stay.
        batches: token ids [B, L].
        seed: of the draws of labels.
        single: of each weight, [O, I]: E[(g x)^2]; or else of each output, [O]: E[g^2].
    """
    totals: dict[str, mx.array] = {}
    tokens = 0
    for gradients, probes in _gradients(decoder, batches, seed):
        for name, gradient in gradients.items():
            squares = gradient.reshape(-1, gradient.shape[-1])
            inner = mx.square(_inputs(probes[name])) if single else None
            summed = squares.sum(0) if inner is None else squares.T @ inner
            totals[name] = totals[name] + summed if name in totals else summed
        tokens += len(squares)
        mx.eval(totals)
    return {name: total / max(tokens, 1) for name, total in totals.items()}


def _gradients(
    decoder: Decoder, batches: Iterable[mx.array], seed: int
) -> Iterator[tuple[dict[str, mx.array], dict[str, _Probe]]]:
    """Squared gradients [B, L, O] of the outputs of linear layers, batch after batch."""
    with _probed({name: (decoder, name) for name in linears(decoder)}) as probes:

        def loss(offsets: dict[str, mx.array], inputs: mx.array, key: mx.array) -> mx.array:
            for name, probe in probes.items():
                probe.offset = offsets[name]
            logits = decoder(inputs).astype(mx.float32)
            labels = mx.random.categorical(mx.stop_gradient(logits), key=key)
            return nn.losses.cross_entropy(logits, labels, reduction="sum")

        for number, inputs in enumerate(batches):
            zeros = {
                name: mx.zeros((*inputs.shape, _outputs(probe.linear)))
                for name, probe in probes.items()
            }
            found = mx.grad(loss)(zeros, inputs, mx.random.key(seed << 32 | number))
            yield {name: mx.square(each.astype(mx.float32)) for name, each in found.items()}, probes
            for probe in probes.values():
                probe.offset = probe._seen = None


def _measured(
    block: Block,
    stream: Stream,
    full: bool,
    sites: Sequence[str],
    worths: Worths | None,
) -> tuple[dict[str, mx.array], Stream]:
    """What `block_moments` answers, and what comes out of the block."""
    names = {site: SITES[site] if worths else SITES[site][:1] for site in sites}
    totals: dict[str, mx.array] = {}
    counted: dict[str, mx.array] = {}
    after = []
    with _probed({site: (block, site) for site in sites}) as probes:
        for number, x in enumerate(stream):
            after.append(block(x, "causal"))
            damped = stream_shares(after[-1])
            for site, probe in probes.items():
                for name in names[site]:
                    own = damped
                    if worths:
                        # Half and half: gradients come from one drawn label each, and are noisy.
                        own = (damped + shares(worths[name][number])) / 2
                    summed = _moment(_inputs(probe), own.reshape(-1, 1), full)
                    totals[name] = totals[name] + summed if name in totals else summed
                    counted[name] = counted.get(name, mx.zeros(())) + own.sum()
            mx.eval(totals, counted, after[-1])
    moments = {name: total / counted[name] for name, total in totals.items()}
    for site in sites:
        moments |= {name: moments[site] for name in SITES[site] if name not in moments}
    return moments, after


@contextmanager
def _probed(places: Mapping[str, tuple[nn.Module, str]]) -> Iterator[dict[str, _Probe]]:
    """Probes at the linear layers that dotted names reach from modules; gone afterwards."""
    probes: dict[str, _Probe] = {}
    parents = {}
    for key, (module, path) in places.items():
        *inner, last = path.split(".")
        at: nn.Module | list[nn.Module] = module
        for part in inner:
            at = at[int(part)] if isinstance(at, list) else getattr(at, part)
        probes[key] = _Probe(getattr(at, last))
        parents[key] = (at, last)
    for key, (parent, last) in parents.items():
        setattr(parent, last, probes[key])
    try:
        yield probes
    finally:
        for key, (parent, last) in parents.items():
            setattr(parent, last, probes[key].linear)


def _inputs(probe: _Probe) -> mx.array:
    """What a probe saw, [B x L, I] float32."""
    assert probe._seen is not None
    return probe._seen.reshape(-1, probe._seen.shape[-1]).astype(mx.float32)


def _moment(x: mx.array, counts: mx.array, full: bool) -> mx.array:
    """Weighted sum over tokens, [I, I] or [I], of inputs [B x L, I] that count [B x L, 1] each."""
    return (x * counts).T @ x if full else (mx.square(x) * counts).sum(0)


def _outputs(linear: nn.Module) -> int:
    """Outputs of a linear layer of any kind."""
    if isinstance(linear, nn.Linear):
        return int(linear.weight.shape[0])
    return int(linear.out_features)
