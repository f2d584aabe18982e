"""What this machine can do at most, and how far from it the parts of a training step are.

Two rates bound every part: operations per second of large matrix products, and bytes per second
of a copy. A part's bound is the slower of its products at the first rate and of the bytes it must
at least read and write at the second; the table has how often the bound fits into the measured
time: 100 % is a part that cannot be faster here. Parts are those of one step of the shape of
`pretrain.py`, forward and backward, each measured alone.

    python benchmarks/roofline.py
    python benchmarks/roofline.py --recipe afm-mac --row-tokens 1024 --rows 8
    OMP_NUM_THREADS=1 python benchmarks/roofline.py --processor   # of one core, on a busy machine
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afm_mlx import compat  # before MLX: it loads the BLAS  # isort: skip
import mlx.core as mx
import numpy as np
from declared import Declaration
from engines import machine
from mlx.utils import tree_flatten
from pretrain import shape_of

from afm_mlx.decoder.attention import causal_attention
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.decoder.exponential import silu
from afm_mlx.planning.cost import flops_per_token
from afm_mlx.settings.sections import Optimizer, OptimizerName, Training
from afm_mlx.training.cross_entropy import linear_cross_entropy
from afm_mlx.training.objectives import next_token_loss
from afm_mlx.training.optimizer import UpdateRule

BENCH = Declaration(
    seconds=40,
    figures={
        "matrix products": "GFLOP/s",
        "copy, read and written": "GB/s",
        "matrix times vector, read": "GB/s",
        "matrices of the blocks, of their bound": "%",
        "attention, of its bound": "%",
        "output layer and loss, of its bound": "%",
        "norms and activations of the blocks, of their bound": "%",
        "update, of its bound": "%",
        "a whole step, of its bound": "%",
    },
    small="--rounds 3",
    large="--recipe afm-mac --row-tokens 1024 --rows 8 --rounds 5",
)
PRODUCT_SIDE = 8_192  # on a GPU; a quarter of it on a CPU
COPY_BYTES = 2**28  # more than any cache of these chips
# Arrays as large as the weights that AdamW reads (weight, gradient, two moments) and writes.
UPDATE_READS, UPDATE_WRITES = 4, 3


@dataclass(frozen=True)
class Part:
    """Something to time."""

    name: str
    run: Callable[[], Any]
    """Gives arrays, not computed yet."""
    flops: float
    """Of its matrix products; a multiply-add is two."""
    bytes: float
    """That it must at least read and write."""


clock: Callable[[], float] = time.perf_counter


def seconds(run: Callable[[], Any], rounds: int) -> list[float]:
    """Times until the result is computed, after one that warms up."""
    found = []
    for _ in range(rounds + 1):
        began = clock()
        mx.eval(run())
        found.append(clock() - began)
    return found[1:]


def product_rate(rounds: int) -> float:
    """Operations per second of a large matrix product; the fastest round."""
    side = PRODUCT_SIDE if compat.on_gpu() else PRODUCT_SIDE // 4
    matrix = mx.random.normal((side, side)).astype(compat.compute_dtype())
    mx.eval(matrix)
    return 2 * side**3 / min(seconds(lambda: matrix @ matrix, rounds))


def read_bandwidth(rounds: int) -> float:
    """Bytes per second at which a matrix is read to multiply a vector; the fastest round."""
    matrix = mx.full((COPY_BYTES // 4 // 4_096, 4_096), 0.5, mx.float32)
    vector = mx.ones((4_096,), mx.float32)
    mx.eval(matrix, vector)
    return matrix.nbytes / min(seconds(lambda: matrix @ vector, rounds))


def copy_bandwidth(rounds: int) -> float:
    """Bytes per second that a copy reads and writes together; the fastest round.

    On a CPU that of NumPy into memory that is there already, by one thread, as MLX copies.
    """
    if compat.on_gpu():
        array = mx.ones((COPY_BYTES // 4,), mx.float32)
        mx.eval(array)
        return 2 * array.nbytes / min(seconds(lambda: array + 1, rounds))
    source, target = (np.ones(COPY_BYTES // 4, np.float32) for _ in range(2))
    return 2 * source.nbytes / min(seconds(lambda: np.copyto(target, source), rounds))


def parts(args: argparse.Namespace) -> list[Part]:
    """The parts of a step, and the step."""
    shape, dtype = shape_of(args), compat.compute_dtype()
    size, count = dtype.size, args.rows * args.row_tokens
    draw = lambda *sides: mx.random.normal(sides).astype(dtype)  # noqa: E731
    model = Decoder(shape)
    initialize(model, 0)
    flops = flops_per_token(shape, args.row_tokens, recompute=False)
    L, D, F = shape.num_layers, shape.hidden_size, shape.intermediate_size
    H, K, E = shape.num_heads, shape.num_kv_heads, shape.head_dim

    # Each matrix of a block: forward, and the gradients of its input and of itself.
    sides = [(H * E, D), (K * E, D), (K * E, D), (D, H * E), (F, D), (F, D), (D, F)]
    matrices = [(draw(*side), draw(count, side[1]), draw(count, side[0])) for side in sides]

    def products() -> list[mx.array]:
        found = []
        for weight, x, gradient in matrices:
            found += [x @ weight.T, gradient @ weight, gradient.T @ x]
        return found

    moved = sum(3 * (w.size + x.size + g.size) for w, x, g in matrices) * size

    q = draw(args.rows, H, args.row_tokens, E)
    k, v = draw(args.rows, K, args.row_tokens, E), draw(args.rows, K, args.row_tokens, E)

    def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return causal_attention(q, k, v, scale=E**-0.5, mask="causal").sum()

    hidden, weight = draw(count, D), draw(shape.vocab_size, D)
    targets = mx.random.randint(0, shape.vocab_size, (count,))
    budget = args.loss_bytes or Training().loss_bytes

    def lose(hidden: mx.array, weight: mx.array) -> mx.array:
        loss, _ = linear_cross_entropy(
            hidden, weight, targets, mx.ones(count), z_loss=1e-6, chunk_bytes=budget
        )
        return loss

    stream, gates = draw(count, D), [draw(count, F) for _ in range(2)]
    gain = mx.ones(D, dtype)

    def others(stream: mx.array, gate: mx.array, up: mx.array) -> mx.array:
        normed = mx.fast.rms_norm(stream, gain, 1e-5)
        return normed.sum() + (silu(gate) * up).sum()

    rule = UpdateRule(Optimizer(name=OptimizerName.ADAMW, eps=1e-8), hidden_size=D)
    params = model.trainable_parameters()
    grads = model.trainable_parameters()
    state = rule.init(params)
    weights = sum(array.size for _, array in tree_flatten(params))

    tokens = mx.random.randint(0, shape.vocab_size, (args.rows, args.row_tokens + 1))

    def whole(params: Any) -> mx.array:
        model.update(params)
        loss, _ = next_token_loss(
            model,
            tokens[:, :-1],
            tokens[:, 1:],
            mx.ones((args.rows, args.row_tokens)),
            mask="causal",
            z_loss=1e-6,
            chunk_bytes=budget,
        )
        return loss

    def update(grads: Any) -> Any:
        return rule.update(params, grads, state, lr=1e-3, schedule=mx.array(1.0), weight_decay=0.0)

    def step() -> Any:
        _, grads = mx.value_and_grad(whole)(params)
        return update(grads)

    mx.eval(params, state, matrices, q, k, v, hidden, weight, stream, gates, tokens, targets)
    attention_bytes = 3 * (2 * q.size + k.size + v.size) * size
    logits = mx.value_and_grad(lose, argnums=(0, 1))
    update_bytes = (UPDATE_READS + UPDATE_WRITES) * 4 * weights
    output_bytes = 3 * (hidden.size + weight.size) * size
    # Forward and backward: norms read and write the stream twice a layer, gates three arrays.
    other_bytes = L * size * count * (2 * 5 * D + 8 * F)
    bound = [count * flops[name] for name in ("matrices", "attention", "output layer")]
    return [
        Part("matrices of the blocks", products, bound[0] / L, moved),
        # Half of the square: what lies above the diagonal need not be computed.
        Part(
            "attention",
            lambda: mx.value_and_grad(attend, argnums=(0, 1, 2))(q, k, v),
            bound[1] / L / 2,
            attention_bytes,
        ),
        Part("output layer and loss", lambda: logits(hidden, weight), bound[2], output_bytes),
        Part(
            "norms and activations of the blocks",
            lambda: mx.value_and_grad(others, argnums=(0, 1, 2))(stream, *gates),
            0.0,
            other_bytes / L,
        ),
        Part("update", lambda: update(grads), 0.0, update_bytes),
        Part(
            "a whole step",
            step,
            bound[0] + bound[1] / 2 + bound[2],
            L * (moved + attention_bytes) + output_bytes + other_bytes + update_bytes,
        ),
    ]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("layers", 4),
        ("hidden", 256),
        ("vocab", 4_096),
        ("row-tokens", 512),
        ("rows", 4),
        ("rounds", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recipe", help="take its shape; --layers, --hidden, --vocab are ignored")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--loss-bytes", type=int, help="training.loss_bytes")
    parser.add_argument("--processor", action="store_true", help="time of the processor")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.processor:
        global clock
        clock = time.process_time
    dtype = str(compat.compute_dtype()).removeprefix("mlx.core.")
    rates = {
        "matrix products": product_rate(args.rounds) / 1e9,
        "copy, read and written": copy_bandwidth(args.rounds) / 1e9,
        "matrix times vector, read": read_bandwidth(args.rounds) / 1e9,
    }
    print(f"{machine()}, {dtype}")
    for name, rate in rates.items():
        print(f"  {name:28}{rate:10,.1f} {'GFLOP/s' if 'products' in name else 'GB/s'}")
    figures = {name: [rate] for name, rate in rates.items()}
    flops, moved = rates["matrix products"] * 1e9, rates["copy, read and written"] * 1e9
    layers = shape_of(args).num_layers
    print(f"\n{args.rows} rows of {args.row_tokens} tokens; parts of the blocks: one of {layers}\n")
    print("| part | ms | bound, ms | bound by | of its bound |\n|---|---|---|---|---|")
    for part in parts(args):
        with compat.memory_settings():  # as in training: freed buffers are used again
            taken = seconds(part.run, args.rounds)
        arithmetic, memory = part.flops / flops, part.bytes / moved
        bound = max(arithmetic, memory)
        by = "products" if arithmetic >= memory else "memory"
        print(
            f"| {part.name} | {1e3 * statistics.median(taken):,.1f} | {1e3 * bound:,.2f} | {by} "
            f"| {bound / statistics.median(taken):.0%} |",
            flush=True,
        )
        name = next(each for each in BENCH.figures if each.startswith(f"{part.name}, "))
        figures[name] = [100 * bound / each for each in taken]
    if args.json:
        args.json.write_text(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
