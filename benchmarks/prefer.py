"""Speed and memory of DPO: our packed pass beside the plain way, with the same model and pairs.

The plain way is what most trainers do: preferred answers in one padded batch, the others in
another, logits of every token, and a reference model that reads both batches at every step. All
contenders give the same loss, which is checked. They take turns, several rounds; the table shows
medians of forward and backward passes, without the optimizer.

    python benchmarks/prefer.py                                # needs afm-mlx installed
    python benchmarks/prefer.py --layers 8 --hidden 512 --pairs 8 --json out.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import afm_mlx  # noqa: F401  (loads a tuned BLAS; it must come before MLX)

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from declared import Declaration

from afm_mlx.alignment.logps import Answer, answer_logps
from afm_mlx.alignment.pairs import Pair, pack_pairs
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.settings.sections import Shape
from afm_mlx.training.objectives import dpo_loss, preference_margin

BENCH = Declaration(
    seconds=40,
    figures={
        "preferences, pairs/s beside two padded batches": "",
        "preferences, memory of two padded batches / ours": "",
    },
    small="--rounds 3",
)

BETA = 0.1
CONTENDERS = {
    "ours": "afm_mlx: packed rows, logits of answers in chunks, reference kept",
    "plain-kept": "two padded batches, all logits, reference kept",
    "plain": "two padded batches, all logits, reference model read at every step",
}


def make_pairs(args: argparse.Namespace) -> list[Pair]:
    """Random ids; lengths are spread as those of real answers, the longest cut."""
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(args.pairs):
        prompt = random.integers(0, args.vocab, random.integers(16, args.prompt_tokens))
        answers = []
        for _ in range(2):
            length = int(np.clip(random.lognormal(np.log(args.answer_tokens), 0.7), 2, 512))
            ids = np.concatenate([prompt, random.integers(0, args.vocab, length)])
            answers.append(Answer(ids.astype(np.int32), len(prompt)))
        pairs.append(Pair(answers[0], answers[1], 1.0, (), ()))
    return pairs


def padded(answers: list[Answer]) -> tuple[mx.array, mx.array]:
    """[B, L] ids and [B, L] mask of the answers' tokens."""
    longest = max(len(answer.ids) for answer in answers)
    ids = np.zeros((len(answers), longest), np.int32)
    mask = np.zeros((len(answers), longest), np.float32)
    for row, answer in enumerate(answers):
        ids[row, : len(answer.ids)] = answer.ids
        mask[row, answer.start : len(answer.ids)] = 1
    return mx.array(ids), mx.array(mask)


def plain_logps(model: Decoder, ids: mx.array, mask: mx.array) -> mx.array:
    """Log-probability of each row's answer, from all logits at once."""
    logits = model(ids[:, :-1]).astype(mx.float32)
    logps = nn.log_softmax(logits, axis=-1)
    tokens = mx.take_along_axis(logps, ids[:, 1:, None], axis=-1).squeeze(-1)
    return mx.sum(tokens * mask[:, 1:], axis=-1)


def contenders(model: Decoder, reference: Decoder, pairs: list[Pair]) -> dict[str, Any]:
    """Each one's loss of the pairs, as a function of the model; packing and padding are in it."""
    batches = [padded([pair.chosen for pair in pairs]), padded([pair.rejected for pair in pairs])]
    kept = [mx.stop_gradient(plain_logps(reference, *batch)) for batch in batches]
    mx.eval(kept)

    def ours(model: Decoder) -> mx.array:
        logps = answer_logps(model, pack_pairs(pairs), chunk_bytes=64 * 2**20).answers
        chosen, rejected = mx.split(logps, 2)
        return dpo_loss(preference_margin(chosen, rejected, kept[0], kept[1]), beta=BETA)[0]

    def plain(model: Decoder, *, live: bool) -> mx.array:
        batches = [
            padded([pair.chosen for pair in pairs]),
            padded([pair.rejected for pair in pairs]),
        ]
        of_reference = [plain_logps(reference, *batch) for batch in batches] if live else kept
        chosen, rejected = (plain_logps(model, *batch) for batch in batches)
        margin = preference_margin(chosen, rejected, of_reference[0], of_reference[1])
        return dpo_loss(margin, beta=BETA)[0]

    return {
        "ours": ours,
        "plain-kept": lambda model: plain(model, live=False),
        "plain": lambda model: plain(model, live=True),
    }


def timed(model: Decoder, loss: Callable[[Decoder], mx.array]) -> tuple[float, float, float]:
    """Seconds of a forward and backward pass, most bytes it held on top, and the loss."""
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    started = time.perf_counter()
    value, gradients = nn.value_and_grad(model, loss)(model)
    mx.eval(value, gradients)
    seconds = time.perf_counter() - started
    return seconds, mx.get_peak_memory() - before, float(value)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {
        "layers": 4, "hidden": 256, "vocab": 8_192, "pairs": 8, "prompt-tokens": 160,
        "answer-tokens": 60, "rounds": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    shape = Shape(
        num_layers=args.layers,
        hidden_size=args.hidden,
        num_heads=args.hidden // 32,
        num_kv_heads=max(1, args.hidden // 128),
        head_dim=32,
        intermediate_size=3 * args.hidden,
        vocab_size=args.vocab,
        rope_base=10_000,
        norm_eps=1e-5,
        max_tokens=1_024,
    )
    model, reference = Decoder(shape), Decoder(shape)
    initialize(model, 0)
    initialize(reference, 1)
    mx.eval(model.parameters(), reference.parameters())
    pairs = make_pairs(args)
    losses = contenders(model, reference, pairs)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in losses}
    for number in range(args.rounds + 1):
        for name, loss in losses.items():
            measured = timed(model, loss)
            if number:  # the first round warms up
                found[name].append(measured)
    values = {name: rounds[0][2] for name, rounds in found.items()}
    assert max(values.values()) - min(values.values()) < 1e-3 * args.pairs, values
    report = {}
    print(f"{len(pairs)} pairs, {sum(pair.num_tokens for pair in pairs):,} tokens")
    print(f"{'':12}{'pairs/s':>9}{'lowest':>9}{'highest':>9}{'peak MB':>9}")
    for name, rounds in found.items():
        speeds = sorted(len(pairs) / seconds for seconds, _, _ in rounds)
        peak = max(peak for _, peak, _ in rounds) / 1e6
        report[name] = {"pairs_per_second": speeds, "peak_mb": peak, "loss": values[name]}
        middle = statistics.median(speeds)
        print(
            f"{name:12}{middle:9.2f}{speeds[0]:9.2f}{speeds[-1]:9.2f}{peak:9.0f}  "
            + CONTENDERS[name]
        )
    if args.json:
        ours, plain = found["ours"], found["plain-kept"]
        values = [
            [b[0] / a[0] for a, b in zip(ours, plain, strict=True)],
            [report["plain-kept"]["peak_mb"] / report["ours"]["peak_mb"]],
        ]
        report |= {"figures": dict(zip(BENCH.figures, values, strict=True))}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
