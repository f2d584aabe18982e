"""Training speed and memory: our loop beside mlx-lm's trainer and a plain PyTorch loop.

All train the same shape from random weights on the same packed rows, in float32 on a CPU and in
bfloat16 on a GPU. Each contender runs in a process of its own, in turns, several rounds; the table
shows the best round, because other work on the machine only ever slows one down.

    python benchmarks/pretrain.py                      # needs afm-mlx installed; torch if there
    python benchmarks/pretrain.py --layers 8 --hidden 512 --steps 20 --json out.json
    python benchmarks/pretrain.py --recipe afm-mac --row-tokens 1024 --rows 32 --peak-tflops 989

With --recipe the shape is that recipe's, and rows are random tokens: its vocabulary is too large
for a tokenizer of Python's library, and a step takes the same time. With --peak-tflops, what the
device can do with dense bfloat16 matrices, the table also has the share of it that is used: model
operations of planning/cost.py, recomputing left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from declared import Declaration

BENCH = Declaration(
    seconds=150,
    figures={
        "training, tokens/s beside mlx-lm's trainer": "at least 1.3",
        "training, tokens/s beside mlx-lm's trainer as installed": "at least 8",
        "training, peak of mlx-lm's trainer / ours": "",
        "training, tokens/s beside a plain PyTorch loop": "",
    },
    small="--rounds 2 --steps 8 --warmup 2",
    large="--recipe afm-mac --row-tokens 1024 --rows 8 --loss-bytes 1073741824 --rounds 2 "
    "--steps 10 --warmup 4 --only ours mlx-lm mlx-lm-all",
    peers=("mlx-lm", "torch"),
)

CONTENDERS = {
    "ours": "afm_mlx, the report's optimizer",
    "ours-adamw": "afm_mlx, AdamW",
    "mlx-lm": "mlx-lm full fine-tuning, tuned BLAS; embedding and last norm stay frozen",
    "mlx-lm-all": "the same with every weight trained, as ours does",
    "mlx-lm-stock": "mlx-lm full fine-tuning as installed",
    "torch": "plain PyTorch loop, AdamW",
}
STOCK_SHARE = 6  # the stock contender does this share of the steps


def shape_of(args: argparse.Namespace) -> Any:
    """The shape that all contenders train."""
    from afm_mlx.recipe import load_named_recipe
    from afm_mlx.settings.sections import Shape

    if args.recipe:
        return load_named_recipe(args.recipe, args.set).shape
    return Shape(
        num_layers=args.layers,
        hidden_size=args.hidden,
        num_heads=args.hidden // 32,
        num_kv_heads=max(1, args.hidden // 128),
        head_dim=32,
        intermediate_size=3 * args.hidden,
        vocab_size=args.vocab,
        rope_base=10_000,
        norm_eps=1e-5,
        max_tokens=args.row_tokens,
    )


def make_rows(args: argparse.Namespace, folder: Path) -> None:
    """Packed rows [R, row_tokens + 1] of Python's own library, tokenized."""
    import numpy as np

    if args.recipe:
        size = (args.rows * (args.steps + args.warmup + 1), args.row_tokens + 1)
        draw = np.random.default_rng(0).integers(shape_of(args).vocab_size, size=size)
        np.save(folder / "rows.npy", draw.astype(np.int32))
        return
    from afm_mlx.corpus.documents import read_documents
    from afm_mlx.settings.sections import Source, SourceKind
    from afm_mlx.text.tokenizer import Tokenizer, train_tokenizer

    source = Source(kind=SourceKind.CODE, path="python:library", max_bytes=3_000_000)
    from collections import Counter

    texts = [d.text for d in read_documents("library", source, Counter())]
    train_tokenizer(
        iter(texts),
        folder / "tokenizer",
        vocab_size=args.vocab,
        reserved_pieces=64,
        character_coverage=0.9995,
        max_sentence_bytes=32_768,
        training_bytes=1_000_000,
    )
    tokenizer = Tokenizer.open(folder / "tokenizer")
    stream = [id_ for ids in tokenizer.encode_batch(texts) for id_ in [*ids, tokenizer.eos_id]]
    width = args.row_tokens + 1
    rows = np.array(stream[: len(stream) // width * width], np.int32).reshape(-1, width)
    np.save(folder / "rows.npy", rows)


class Stopwatch:
    """Seconds per step after the warm-up."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.marks = warmup, [time.perf_counter()]

    def mark(self) -> None:
        """A step is over."""
        self.marks.append(time.perf_counter())

    def seconds(self) -> float:
        """Median of a step after the warm-up."""
        laps = [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]
        return statistics.median(laps[self.warmup :])


def run_ours(args: argparse.Namespace, rows: Any, rule_name: str) -> dict[str, float]:
    """Our loop."""
    import mlx.core as mx

    from afm_mlx import compat
    from afm_mlx.decoder.decoder import Decoder, initialize
    from afm_mlx.progress import Progress
    from afm_mlx.settings.sections import Optimizer, OptimizerName, Training, Watch
    from afm_mlx.training.loop import Course, train
    from afm_mlx.training.objectives import next_token_loss
    from afm_mlx.training.optimizer import UpdateRule

    model = Decoder(shape_of(args))
    initialize(model, 0)
    watch = Stopwatch(args.warmup)

    def batches(step: int) -> list[Any]:
        watch.mark()
        first = (step - 1) * args.rows % (len(rows) - args.rows)
        batch = mx.array(rows[first : first + args.rows])
        return [(batch[:, :-1], batch[:, 1:])]

    def loss(model: Any, inputs: Any, targets: Any) -> Any:
        return next_token_loss(
            model,
            inputs,
            targets,
            mx.ones(targets.shape),
            mask="causal",
            z_loss=1e-6,
            chunk_bytes=args.loss_bytes or Training().loss_bytes,
            checkpoint=False,
        )

    optimizer = Optimizer(
        name=OptimizerName(rule_name), eps=1e-8 if rule_name == "adamw" else 1e-30
    )
    course = Course(
        steps=args.steps + args.warmup,
        lr=1e-3,
        warmup_steps=2,
        final_lr_fraction=0.1,
        weight_decay=0.01,
        most_skipped_steps=20,
    )
    with tempfile.TemporaryDirectory() as work:
        train(
            model,
            loss,
            batches,
            UpdateRule(optimizer, hidden_size=model.shape.hidden_size),
            course,
            compute=compat.compute_dtype(),
            work=Path(work),
            watch=Watch(),
            progress=Progress(stream=open(os.devnull, "w")),  # noqa: SIM115
        )
    watch.mark()
    return {"seconds": watch.seconds(), "peak_bytes": mx.get_peak_memory()}


def run_mlx_lm(args: argparse.Namespace, rows: Any, *, everything: bool) -> dict[str, float]:
    """mlx-lm's trainer, on its own qwen3 model."""
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx_lm.models import qwen3
    from mlx_lm.tuner.callbacks import TrainingCallback
    from mlx_lm.tuner.trainer import TrainingArgs, train

    shape = shape_of(args)
    model = qwen3.Model(
        qwen3.ModelArgs(
            model_type="qwen3",
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            intermediate_size=shape.intermediate_size,
            num_attention_heads=shape.num_heads,
            rms_norm_eps=shape.norm_eps,
            vocab_size=shape.vocab_size,
            num_key_value_heads=shape.num_kv_heads,
            max_position_embeddings=shape.max_tokens,
            rope_theta=shape.rope_base,
            head_dim=shape.head_dim,
            tie_word_embeddings=True,
        )
    )
    if mx.default_device().type == mx.DeviceType.gpu:
        model.set_dtype(mx.bfloat16)
    if not everything:  # what `mlx_lm.lora --fine-tune-type full` does
        model.freeze()
        for layer in model.layers:
            layer.unfreeze()
    watch = Stopwatch(args.warmup)

    class Callback(TrainingCallback):
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            watch.mark()

    with tempfile.TemporaryDirectory() as work:
        train(
            model,
            optim.AdamW(learning_rate=1e-3, bias_correction=True),
            [(row.tolist(), 0) for row in rows],
            args=TrainingArgs(
                batch_size=args.rows,
                iters=args.steps + args.warmup,
                steps_per_report=1,
                steps_per_save=10**9,
                max_seq_length=args.row_tokens + 1,
                adapter_file=str(Path(work) / "adapters.safetensors"),
            ),
            training_callback=Callback(),
        )
    return {"seconds": watch.seconds(), "peak_bytes": mx.get_peak_memory()}


def run_torch(args: argparse.Namespace, rows: Any) -> dict[str, float]:
    """A loop as one would write it in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    shape = shape_of(args)
    width, head = shape.hidden_size, shape.head_dim

    def rotate(x: Any, cos: Any, sin: Any) -> Any:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kv = shape.num_kv_heads * head
            self.q, self.o = (nn.Linear(width, width, bias=False) for _ in range(2))
            self.k, self.v = (nn.Linear(width, kv, bias=False) for _ in range(2))
            self.gate, self.up = (
                nn.Linear(width, shape.intermediate_size, bias=False) for _ in range(2)
            )
            self.down = nn.Linear(shape.intermediate_size, width, bias=False)
            self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
            self.q_norm, self.k_norm = nn.RMSNorm(head), nn.RMSNorm(head)

        def forward(self, x: Any, cos: Any, sin: Any) -> Any:
            rows, tokens, _ = x.shape
            n = self.norm1(x)
            q, k, v = (f(n).view(rows, tokens, -1, head) for f in (self.q, self.k, self.v))
            q, k = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2)
            y = F.scaled_dot_product_attention(
                rotate(q, cos, sin),
                rotate(k, cos, sin),
                v.transpose(1, 2),
                is_causal=True,
                enable_gqa=True,
            )
            x = x + self.o(y.transpose(1, 2).reshape(rows, tokens, width))
            n = self.norm2(x)
            return x + self.down(F.silu(self.gate(n)) * self.up(n))

    torch.manual_seed(0)
    embedding = nn.Embedding(shape.vocab_size, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    blocks, last = nn.ModuleList(Block() for _ in range(shape.num_layers)), nn.RMSNorm(width)
    parameters = [*embedding.parameters(), *blocks.parameters(), *last.parameters()]
    rule = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    angles = torch.outer(
        torch.arange(args.row_tokens), shape.rope_base ** (-torch.arange(0, head, 2) / head)
    )
    cos, sin = angles.cos(), angles.sin()
    watch = Stopwatch(args.warmup)
    for step in range(args.steps + args.warmup):
        first = step * args.rows % (len(rows) - args.rows)
        batch = torch.from_numpy(rows[first : first + args.rows]).long()
        x = embedding(batch[:, :-1])
        for block in blocks:
            x = block(x, cos, sin)
        logits = last(x) @ embedding.weight.T
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        rule.step()
        rule.zero_grad()
        watch.mark()
    return {"seconds": watch.seconds(), "peak_bytes": 0}


def has_reference_blas() -> bool:
    """Whether MLX as installed multiplies on this device with a BLAS that is not tuned."""
    from afm_mlx import compat

    return sys.platform == "linux" and not compat.on_gpu()


def contend(args: argparse.Namespace) -> None:
    """One contender, in this process; its figures go to stdout as JSON."""
    if args.contender == "mlx-lm-stock":
        args.steps = max(2, args.steps // STOCK_SHARE)  # one takes as long as 15 of the others
        import mlx.core  # noqa: F401  (before afm_mlx, which then loads no BLAS)
    import numpy as np

    import afm_mlx  # noqa: F401  (loads the tuned BLAS before MLX)

    rows = np.load(Path(args.rows_folder) / "rows.npy")
    if args.contender == "ours":
        found = run_ours(args, rows, "afm")
    elif args.contender == "ours-adamw":
        found = run_ours(args, rows, "adamw")
    elif args.contender == "torch":
        found = run_torch(args, rows)
    else:
        found = run_mlx_lm(args, rows, everything=args.contender == "mlx-lm-all")
    unit = 1 if platform.system() == "Darwin" else 1024
    found["resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found["tokens_per_second"] = args.rows * args.row_tokens / found["seconds"]
    print("RESULT " + json.dumps(found))


def main() -> None:
    """Run all contenders in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("layers", 4),
        ("hidden", 256),
        ("vocab", 4_096),
        ("row-tokens", 512),
        ("rows", 4),
        ("steps", 20),
        ("warmup", 3),
        ("rounds", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recipe", help="take its shape; --layers, --hidden, --vocab are ignored")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--loss-bytes", type=int, help="training.loss_bytes of ours")
    parser.add_argument("--peak-tflops", type=float, help="of the device; adds a column")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--rows-folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args)
        return

    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_rows(args, Path(folder))
        for number in range(args.rounds):
            for name in args.only:
                if name == "mlx-lm-stock" and (number or not has_reference_blas()):
                    continue  # slow enough for one round to tell
                command = [*sys.argv, "--contender", name, "--rows-folder", folder]
                done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    why = (done.stderr.strip().splitlines() or ["no output"])[-1]
                    print(f"{name}: did not run: {why}", file=sys.stderr)
                    continue
                results.setdefault(name, []).append(json.loads(lines[0][7:]))
                print(f"{name}: {results[name][-1]['tokens_per_second']:,.0f}", file=sys.stderr)
    print(table(args, results))
    if args.json:
        found = {"arguments": vars(args) | {"json": ""}, "runs": results} | figures(args, results)
        args.json.write_text(json.dumps(found))


def figures(
    args: argparse.Namespace, results: dict[str, list[dict[str, float]]]
) -> dict[str, dict[str, Any]]:
    """What `make bench` shows, round by round."""

    def speeds(*names: str) -> list[float]:
        """Of each round, the fastest of these."""
        runs = [[run["tokens_per_second"] for run in results[n]] for n in names if n in results]
        return [max(each) for each in zip(*runs, strict=False)]

    names, ours = list(BENCH.figures), speeds("ours")
    peers = [speeds("mlx-lm", "mlx-lm-all"), speeds("mlx-lm-stock"), speeds("torch")]
    places = (names[0], names[1], names[3])
    found = {
        name: [max(ours) / max(theirs)] if name == names[1] else ratios(ours, theirs)
        for name, theirs in zip(places, peers, strict=True)
        if ours and theirs
    }
    if found.get(names[0]):
        peaks = [max(run["peak_bytes"] for run in results[name]) for name in ("mlx-lm", "ours")]
        found[names[2]] = [peaks[0] / peaks[1]]
    why = {name: "its package is not installed, or did not run" for name in names}
    if "mlx-lm-stock" not in args.only:
        why[names[1]] = "the tuned BLAS is a matter of CPUs on Linux"
    return {"figures": found, "missing": {n: said for n, said in why.items() if n not in found}}


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Ours over theirs in each round."""
    return [one / other for one, other in zip(ours, theirs, strict=False)]


def table(args: argparse.Namespace, results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: tokens per second, memory, and how much faster ours is."""
    from afm_mlx.planning.cost import flops_per_token

    best = {name: max(runs, key=lambda r: r["tokens_per_second"]) for name, runs in results.items()}
    shape = shape_of(args)
    size = f"{shape.num_layers} layers, width {shape.hidden_size}, vocabulary {shape.vocab_size:,}"
    rows = f"{args.rows} rows of {args.row_tokens} tokens"
    lines = [
        f"{size}, {rows}, {platform.system()} {platform.machine()}",
        "",
        "| contender | tokens/s | ours is faster by | MLX peak MB | process peak MB |",
        "|---|---|---|---|---|",
    ]
    if args.peak_tflops:
        lines[2:] = [lines[2] + " of peak |", lines[3] + "---|"]
    ours = best.get("ours", {}).get("tokens_per_second", float("nan"))
    for name, found in best.items():
        peak = f"{found['peak_bytes'] / 1e6:,.0f}" if found["peak_bytes"] else ""
        lines.append(
            f"| {CONTENDERS[name]} | {found['tokens_per_second']:,.0f} | "
            f"{ours / found['tokens_per_second']:.2f} | {peak} | "
            f"{found['resident_bytes'] / 1e6:,.0f} |"
        )
        if args.peak_tflops:
            flops = sum(flops_per_token(shape, args.row_tokens, recompute=False).values())
            share = flops * found["tokens_per_second"] / (args.peak_tflops * 1e12)
            lines[-1] += f" {share:.1%} |"
    return "\n".join(lines)


if __name__ == "__main__":
    main()
