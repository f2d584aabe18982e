"""What goes into each linear layer, and what its outputs are worth: where table fitting puts bits.

A linear layer's squared error on texts depends on its inputs x only through E[x x^T]. Blocks run
one after the other over all texts, and only the stream between them is kept, so that a block can be
changed before the next one is measured.

Sources. arXiv:2210.17323 (GPTQ), section 3, for E[x x^T]; arXiv:2306.07629 (SqueezeLLM), section
4.1, for gradients as importance. Labels are drawn from the model itself, as KL to it asks.

Shapes. B rows, L tokens of a row, D width, O outputs and I inputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

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


class _Probe(nn.Module):
    """Stands in for a linear layer, sees its inputs, and adds to its outputs."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.offset: mx.array | None = None
        self._seen: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        self._seen = x
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


def block_moments(
    block: Block, stream: Stream, *, full: bool = False, sites: Sequence[str] = tuple(SITES)
) -> dict[str, mx.array]:
    """Moments of the inputs of a block's linear layers, float32, by names such as `mlp.up_proj`.

    Args:
        block: one layer, as it is now.
        stream: what goes into it.
        full: E[x x^T], [I, I]; or else E[x^2], [I].
        sites: keys of `SITES` to measure.
    """
    totals: dict[str, mx.array] = {}
    tokens = 0
    with _probed({site: (block, site) for site in sites}) as probes:
        for x in stream:
            block(x, "causal")
            for site, probe in probes.items():
                summed = _moment(probe, full)
                totals[site] = totals[site] + summed if site in totals else summed
            tokens += x.shape[0] * x.shape[1]
            mx.eval(totals)
    return {name: totals[site] / max(tokens, 1) for site in sites for name in SITES[site]}


def collect_moments(
    decoder: Decoder, batches: Iterable[mx.array], *, full: bool = False
) -> dict[str, mx.array]:
    """`block_moments` of all blocks, by names as in `palette.linears`; of an output layer too."""
    stream = start_stream(decoder, batches)
    found: dict[str, mx.array] = {}
    for number, block in enumerate(decoder.layers):
        for name, moment in block_moments(block, stream, full=full).items():
            found[f"model.layers.{number}.{name}"] = moment
        stream = advance(block, stream)
    if not decoder.shape.tied:
        total, tokens = mx.zeros(()), 0
        for x in stream:
            states = decoder.model.norm(x).reshape(-1, x.shape[-1]).astype(mx.float32)
            total = total + (states.T @ states if full else mx.square(states).sum(0))
            tokens += len(states)
            mx.eval(total)
        found["lm_head"] = total / max(tokens, 1)
    return found


def fisher(
    decoder: Decoder, batches: Iterable[mx.array], *, seed: int, single: bool = False
) -> dict[str, mx.array]:
    """Mean squared gradients of the model's own log-likelihood, by names as in `palette.linears`.

    To second order, the KL that a small change of outputs costs is half of it times the change's
    square, summed over outputs. One label is drawn for each token from what the model predicts.

    Args:
        decoder: the model; its weights stay.
        batches: token ids [B, L].
        seed: of the draws.
        single: of each weight, [O, I]: E[(g x)^2]; or else of each output, [O]: E[g^2].
    """
    totals: dict[str, mx.array] = {}
    tokens = 0
    names = list(linears(decoder))
    with _probed({name: (decoder, name) for name in names}) as probes:

        def loss(offsets: dict[str, mx.array], inputs: mx.array, labels: mx.array) -> mx.array:
            for name, probe in probes.items():
                probe.offset = offsets[name]
            logits = decoder(inputs).astype(mx.float32)
            return nn.losses.cross_entropy(logits, labels, reduction="sum")

        for number, inputs in enumerate(batches):
            key = mx.random.key(seed << 32 | number)
            for probe in probes.values():
                probe.offset = None
            labels = mx.random.categorical(decoder(inputs).astype(mx.float32), key=key)
            zeros = {
                name: mx.zeros((*inputs.shape, _outputs(probe.linear)))
                for name, probe in probes.items()
            }
            gradients = mx.grad(loss)(zeros, inputs, labels)
            for name, gradient in gradients.items():
                squares = mx.square(gradient.astype(mx.float32)).reshape(-1, gradient.shape[-1])
                if single:
                    inner = mx.square(_inputs(probes[name]))
                    summed = squares.T @ inner
                else:
                    summed = squares.sum(0)
                totals[name] = totals[name] + summed if name in totals else summed
            tokens += inputs.size
            mx.eval(totals)
            for probe in probes.values():
                probe._seen = None
    return {name: total / max(tokens, 1) for name, total in totals.items()}


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


def _moment(probe: _Probe, full: bool) -> mx.array:
    x = _inputs(probe)
    return x.T @ x if full else mx.square(x).sum(0)


def _outputs(linear: nn.Module) -> int:
    """Outputs of a linear layer of any kind."""
    if isinstance(linear, nn.Linear):
        return int(linear.weight.shape[0])
    return int(linear.out_features)
