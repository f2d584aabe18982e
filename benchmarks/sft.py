"""Fine-tuning on conversations: our packed rows beside mlx-lm's padded batches.

Both train the same shape from random weights on the same conversations, made of the paragraphs of
Python's own documentation, with about the same tokens in a step, padding included. What is counted
is tokens that the assistant says. Each contender runs in a process of its own, in turns, several
rounds; the table shows the best round, because other work on the machine only ever slows one down.

    python benchmarks/sft.py                      # needs afm-mlx installed
    python benchmarks/sft.py --layers 8 --hidden 512 --steps 40 --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from declared import Declaration
from pretrain import shape_of

BENCH = Declaration(
    seconds=110,
    figures={
        "fine-tuning, assistant's tokens/s beside mlx-lm's padded batches": "at least 1.5",
    },
    small="--rounds 2 --steps 8 --warmup 2 --only ours mlx-lm mlx-lm-all",
    large="--layers 12 --hidden 768 --rounds 2 --only ours mlx-lm mlx-lm-all",
    peers=("mlx-lm",),
)

CONTENDERS = {
    "ours": "afm_mlx, packed rows",
    "ours-dropout": "afm_mlx, packed rows, dropout 0.1",
    "mlx-lm": "mlx-lm full fine-tuning, tuned BLAS; embedding and last norm stay frozen",
    "mlx-lm-all": "the same with every weight trained, as ours does",
}
LR = 1e-4


def make_chats(args: argparse.Namespace, folder: Path) -> None:
    """Conversations of one question and one answer, and a tokenizer that knows their words."""
    from pydoc_data.topics import topics

    from afm_mlx.text.tokenizer import train_tokenizer

    chats = []
    for topic, text in sorted(topics.items()):
        for number, paragraph in enumerate(text.split("\n\n")):
            if len(paragraph) > 40:
                question = f"What does part {number} of the page on {topic.lower()} say?"
                chats.append(
                    [
                        {"role": "user", "content": question},
                        {"role": "assistant", "content": paragraph.strip()},
                    ]
                )
    random.Random(0).shuffle(chats)
    lines = [json.dumps({"messages": chat}) + "\n" for chat in chats[: args.examples]]
    (folder / "chats.jsonl").write_text("".join(lines))
    train_tokenizer(
        iter(topics.values()),
        folder / "tokenizer",
        vocab_size=args.vocab,
        reserved_pieces=64,
        character_coverage=0.9995,
        max_sentence_bytes=32_768,
        training_bytes=500_000,
    )


def run_ours(args: argparse.Namespace, folder: Path, dropout: float) -> dict[str, float]:
    """What the stage `sft` does, on random weights."""
    import mlx.core as mx

    from afm_mlx import compat
    from afm_mlx.corpus.packing import document_mask
    from afm_mlx.decoder.decoder import Decoder, initialize
    from afm_mlx.progress import Progress
    from afm_mlx.settings.sections import Optimizer, OptimizerName, Training, Watch
    from afm_mlx.text.tokenizer import Tokenizer
    from afm_mlx.training.demonstrations import read_demonstrations
    from afm_mlx.training.dropout import residual_dropout
    from afm_mlx.training.examples import PackedExamples
    from afm_mlx.training.loop import Course, train
    from afm_mlx.training.objectives import next_token_loss
    from afm_mlx.training.optimizer import UpdateRule
    from afm_mlx.training.state import step_key

    read = read_demonstrations(
        {"chats": folder / "chats.jsonl"},
        Tokenizer.open(folder / "tokenizer"),
        row_tokens=args.row_tokens,
        held_out_fraction=0.0,
    )
    packed = PackedExamples(
        read.train,
        {"chats": 1.0},
        row_tokens=args.row_tokens,
        rows_per_step=args.rows,
        epochs=1,
        seed=0,
    )
    model = Decoder(shape_of(args))
    initialize(model, 0)
    marks, useful = [time.perf_counter()], []

    def batches(step: int) -> list[Any]:
        marks.append(time.perf_counter())
        rows = packed.rows((step - 1) % (packed.steps - 1) + 1)
        useful.append(float(rows.weights.sum()))
        keys = mx.random.split(step_key(0, step), args.rows)
        arrays = (rows.inputs, rows.targets, rows.weights, rows.documents)
        return [(*(mx.array(array) for array in arrays), keys)]

    def loss(model: Any, inputs: Any, targets: Any, weights: Any, ids: Any, keys: Any) -> Any:
        return next_token_loss(
            model,
            inputs,
            targets,
            weights,
            mask=document_mask(ids),
            z_loss=1e-6,
            chunk_bytes=Training().loss_bytes,
            branch=residual_dropout(dropout, keys, num_layers=args.layers),
        )

    steps = args.steps + args.warmup
    with tempfile.TemporaryDirectory() as work:
        train(
            model,
            loss,
            batches,
            UpdateRule(Optimizer(name=OptimizerName.ADAMW, eps=1e-8), hidden_size=args.hidden),
            Course(
                steps=steps,
                lr=LR,
                warmup_steps=0,
                final_lr_fraction=1.0,
                weight_decay=0.0,
                most_skipped_steps=20,
            ),
            compute=compat.compute_dtype(),
            work=Path(work),
            watch=Watch(log_every_steps=steps),
            progress=Progress(stream=open(os.devnull, "w")),  # noqa: SIM115
        )
    return {
        **measured(args, marks, useful),
        "tokens_per_step": args.rows * args.row_tokens,
        "filled": packed.filled,
        "peak_bytes": mx.get_peak_memory(),
    }


def run_mlx_lm(args: argparse.Namespace, folder: Path, *, everything: bool) -> dict[str, float]:
    """mlx-lm's trainer and its chat data set, on its own qwen3 model."""
    import mlx.core as mx
    import mlx.optimizers as optim
    import numpy as np
    from mlx_lm.models import qwen3
    from mlx_lm.tokenizer_utils import load
    from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
    from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train

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
    chats = [json.loads(line) for line in (folder / "chats.jsonl").read_text().splitlines()]
    data = CacheDataset(ChatDataset(chats, load(folder / "tokenizer"), mask_prompt=True))
    lengths = [len(data[number][0]) for number in range(len(chats))]
    short = [number for number, length in enumerate(lengths) if length <= args.row_tokens]
    data = [data[number] for number in short]  # rendered: neither contender's time has that in it

    # As many examples in a batch as make the tokens of our step, padding included.
    wanted = args.rows * args.row_tokens
    batch = min(range(1, 65), key=lambda size: abs(padded(lengths, short, size) - wanted))
    marks, useful, shapes, real = [time.perf_counter()], [], [], []

    def batches(dataset: Any, **settings: Any) -> Any:
        for tokens, spans in iterate_batches(dataset, **settings):
            marks.append(time.perf_counter())
            found = np.array(spans)
            useful.append(float((found[:, 1] - found[:, 0]).sum()))
            shapes.append(tokens.size)
            real.append(float(found[:, 1].sum()))
            yield tokens, spans

    steps = args.steps + args.warmup
    cached = CacheDataset(_Rendered(data))
    with tempfile.TemporaryDirectory() as work:
        train(
            model,
            optim.AdamW(learning_rate=LR, bias_correction=True),
            cached,
            args=TrainingArgs(
                batch_size=batch,
                iters=steps,
                steps_per_report=steps,
                steps_per_save=10**9,
                max_seq_length=args.row_tokens,
                adapter_file=str(Path(work) / "adapters.safetensors"),
            ),
            iterate_batches=batches,
        )
    return {
        **measured(args, marks, useful),
        "tokens_per_step": sum(shapes) / len(shapes),
        "filled": sum(real) / sum(shapes),
        "peak_bytes": mx.get_peak_memory(),
    }


def measured(args: argparse.Namespace, marks: list[float], useful: list[float]) -> dict[str, float]:
    """Useful tokens and seconds after the warm-up, between two requests for a batch.

    Args:
        args: numbers of steps.
        marks: the start, and when the batch of each step was asked for.
        useful: tokens of each batch that the assistant says.
    """
    last = args.steps + args.warmup
    return {
        "useful": sum(useful[args.warmup : last - 1]),
        "seconds": marks[last] - marks[args.warmup + 1],
    }


class _Rendered:
    """Examples that are rendered already, for mlx-lm's CacheDataset."""

    def __init__(self, examples: list[Any]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return [self.examples[index]]  # length 1, like every raw example that it sorts by

    def process(self, example: Any) -> Any:
        """As it is."""
        return example[0]


def padded(lengths: list[int], numbers: list[int], size: int) -> float:
    """Mean tokens of mlx-lm's batches of `size`, in file order, padded to 1 + multiples of 32."""
    tops = [
        max(lengths[number] for number in numbers[start : start + size])
        for start in range(0, len(numbers) - size + 1, size)
    ]
    return size * sum(1 + 32 * -(-top // 32) for top in tops) / len(tops)


def contend(args: argparse.Namespace) -> None:
    """One contender, in this process; its figures go to stdout as JSON."""
    import afm_mlx  # noqa: F401  (loads the tuned BLAS before MLX)

    folder = Path(args.folder)
    if args.contender.startswith("ours"):
        found = run_ours(args, folder, 0.1 if args.contender == "ours-dropout" else 0.0)
    else:
        found = run_mlx_lm(args, folder, everything=args.contender == "mlx-lm-all")
    found["tokens_per_second"] = found["useful"] / found["seconds"]
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
        ("examples", 1_500),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.set_defaults(recipe=None)  # `shape_of` takes --layers and so on
    args = parser.parse_args()
    if args.contender:
        contend(args)
        return
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_chats(args, Path(folder))
        for _ in range(args.rounds):
            for name in args.only:
                command = [*sys.argv, "--contender", name, "--folder", folder]
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
        found = {"arguments": vars(args) | {"json": ""}, "runs": results} | figures(results)
        args.json.write_text(json.dumps(found))


def figures(results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """What `make bench` shows: ours beside the faster of mlx-lm's two, round by round."""
    (name,) = BENCH.figures
    speeds = {who: [run["tokens_per_second"] for run in runs] for who, runs in results.items()}
    theirs = [speeds[who] for who in ("mlx-lm", "mlx-lm-all") if who in speeds]
    if "ours" not in speeds or not theirs:
        return {"figures": {}, "missing": {name: "a contender did not run"}}
    best = [max(each) for each in zip(*theirs, strict=False)]
    return {"figures": {name: [a / b for a, b in zip(speeds["ours"], best, strict=False)]}}


def table(args: argparse.Namespace, results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: useful tokens per second, how full the batches are, how much faster ours is."""
    best = {name: max(runs, key=lambda r: r["tokens_per_second"]) for name, runs in results.items()}
    lines = [
        f"{args.layers} layers, width {args.hidden}, vocabulary {args.vocab:,}, "
        f"{platform.system()} {platform.machine()}",
        "",
        "| contender | assistant tokens/s | ours is faster by | tokens a step | not padding "
        "| MLX peak MB |",
        "|---|---|---|---|---|---|",
    ]
    ours = best.get("ours", {}).get("tokens_per_second", float("nan"))
    for name, found in best.items():
        lines.append(
            f"| {CONTENDERS[name]} | {found['tokens_per_second']:,.0f} | "
            f"{ours / found['tokens_per_second']:.2f} | {found['tokens_per_step']:,.0f} | "
            f"{found['filled']:.0%} | {found['peak_bytes'] / 1e6:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
