"""How cost grows with the corpus: tokens per second and memory at 1, 10 and 100 times the text.

The text is that of `corpus_made.py`: Python's own, then copies with every sixth word moved. Three
programs run over it, each at each size in a process of its own, which tells its peak memory:

    clean    heuristics, exact and near duplicates, as [clean] does: records in and out
    tokens   text to token shards, as [data] does
    train    forty steps of a tiny model on packed rows from all over these shards, as [core] does

Seconds are those of the processor; in `train` from the third step on, and on a GPU of the clock.
What is constant makes a corpus of any size take its share of time, and no more memory.

    python benchmarks/growth.py                            # 0.3, 3 and 30 MB: three minutes
    python benchmarks/growth.py --base-mb 1 --plot growth.png
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from declared import Declaration

BENCH = Declaration(
    seconds=150,
    figures={
        "clean, speed on 100 times the text / on 10 times": "at least 0.9",
        "tokens, speed on 100 times the text / on 10 times": "at least 0.9",
        "train, speed on 100 times the text / on 10 times": "at least 0.9",
        "clean, memory on 100 times the text / on 10 times": "at most 1.25",
        "tokens, memory on 100 times the text / on 10 times": "at most 1.25",
        "train, memory on 100 times the text / on 10 times": "at most 1.25",
    },
    small="--plot {folder}/growth.png",
)

SIZES = (1, 10, 100)
PROGRAMS = ("clean", "tokens", "train")
VOCABULARY = 1_024
ROW_TOKENS, ROWS_PER_STEP = 256, 16
SHARD_BYTES = 500_000  # of text: a corpus of 100 times the size has 100 times the shards
ROUNDS = {1: 3, 10: 2, 100: 1}  # a short one is done several times, and the best one counts
STEPS, WARM_STEPS = 40, 2  # of training


def make_texts(folder: Path, size: float) -> int:
    """Shards of records of about `size` bytes of text in `folder`; how many records."""
    from corpus_made import python_texts, repeated

    from afm_mlx.corpus.record import Record
    from afm_mlx.corpus.record_shards import shard_name, write_shard

    prose = [document.text for document in python_texts("docs")]
    part: list[Record] = []
    number = count = room = 0
    for record in repeated("prose", prose, size):
        part.append(record)
        count, room = count + 1, room + len(record.text)
        if room > SHARD_BYTES:
            write_shard(folder / shard_name(number), part)
            part, number, room = [], number + 1, 0
    if part:
        write_shard(folder / shard_name(number), part)
    return count


def make_tokenizer(texts: Path, folder: Path) -> None:
    """A tokenizer of the smallest corpus."""
    from afm_mlx.text.tokenizer import train_tokenizer

    train_tokenizer(
        (document.text for document in documents(texts)),
        folder,
        vocab_size=VOCABULARY,
        reserved_pieces=16,
        character_coverage=0.9995,
        max_sentence_bytes=4_192,
        training_bytes=1_000_000,
    )


def documents(texts: Path) -> Iterator[Any]:
    """What the shards of records hold, one after the other."""
    from afm_mlx.corpus.documents import Document
    from afm_mlx.corpus.record_shards import read_shards

    for record in read_shards(texts):
        yield Document(record.text, record.source, record.id)


def clean(texts: Path, out: Path) -> None:
    """The steps of [clean]."""
    from afm_mlx.corpus.clean import passes_of, run_pass, steps_of
    from afm_mlx.corpus.record_shards import list_shards
    from afm_mlx.settings.clean import Clean
    from afm_mlx.settings.filters import Heuristics
    from afm_mlx.settings.overlap import Dedup
    from afm_mlx.settings.sections import SourceKind

    settings = Clean(heuristics=Heuristics(), dedup=Dedup())
    shards = list_shards(texts)
    for number, one in enumerate(passes_of(steps_of(settings, {"prose": SourceKind.TEXT}))):
        run_pass(one, shards, out / str(number), 1)
        shards = list_shards(out / str(number))


def tokens(texts: Path, tokenizer: Path, out: Path) -> int:
    """Shards of tokens, in one thread; how many tokens."""
    from afm_mlx.corpus.shards import write_shards
    from afm_mlx.text.tokenizer import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    opened = Tokenizer.open(tokenizer)
    return int(write_shards(documents(texts), opened, out, held_out_fraction=0.0)["train_tokens"])


def train(folder: Path, tokenizer: Path, work: Path) -> tuple[int, float, int]:
    """Train on the shards in `folder`/prose; tokens and seconds of its steps, MLX's peak."""
    import mlx.core as mx

    from afm_mlx import compat
    from afm_mlx.decoder.decoder import Decoder, initialize
    from afm_mlx.progress import Progress
    from afm_mlx.settings.sections import Optimizer, Shape, Training, Watch
    from afm_mlx.text.tokenizer import Tokenizer
    from afm_mlx.training.loop import Course, train
    from afm_mlx.training.objectives import text_loss
    from afm_mlx.training.optimizer import UpdateRule
    from afm_mlx.training.texts import TrainingTexts

    opened = Tokenizer.open(tokenizer)
    texts = TrainingTexts(
        folder,
        {"prose": 1.0},
        opened,
        row_tokens=ROW_TOKENS,
        rows_per_step=ROWS_PER_STEP,
        seed=0,
    )
    shape = Shape(
        num_layers=1,
        hidden_size=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        rope_base=10_000,
        norm_eps=1e-5,
        max_tokens=ROW_TOKENS,
    )
    model = Decoder(shape)
    initialize(model, 0)
    clock = time.perf_counter if compat.on_gpu() else time.process_time
    marks = []
    settings = Training()

    def batches(step: int) -> list[Any]:
        marks.append(clock())
        return [(mx.array(texts.targets(step)),)]

    def loss(model: Any, rows: Any) -> Any:
        return text_loss(model, rows, eos_id=opened.eos_id, settings=settings)

    train(
        model,
        loss,
        batches,
        UpdateRule(Optimizer(), hidden_size=shape.hidden_size),
        Course(
            steps=STEPS,
            lr=1e-3,
            warmup_steps=2,
            final_lr_fraction=0.1,
            weight_decay=0.0,
            most_skipped_steps=20,
        ),
        compute=compat.compute_dtype(),
        work=work,
        watch=Watch(log_every_steps=10),
        progress=Progress(stream=open(os.devnull, "w")),  # noqa: SIM115
    )
    # A batch is made when the step before it has been asked for.
    seen = (STEPS - WARM_STEPS) * ROWS_PER_STEP * ROW_TOKENS
    return seen, clock() - marks[WARM_STEPS], mx.get_peak_memory()


def measure(program: str, folder: Path) -> dict[str, float]:
    """Run a program in this process; tokens, seconds and peak bytes."""
    texts, tokenizer = folder / "texts", folder.parent / "tokenizer"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out, began = Path(name) / "out", time.process_time()
        found: dict[str, float] = {}
        if program == "clean":
            out.mkdir()
            clean(texts, out)
        elif program == "tokens":
            found["tokens"] = tokens(texts, tokenizer, out)
        else:
            out.mkdir()
            found["tokens"], seconds, found["mlx_bytes"] = train(folder, tokenizer, out)
            began = time.process_time() - seconds
        found["seconds"] = time.process_time() - began
    unit = 1 if platform.system() == "Darwin" else 1024
    return found | {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def make(folder: Path, base: float) -> dict[Any, dict[str, float]]:
    """All corpora, with the shards that `train` reads; records and bytes by size."""
    facts = {}
    for size in SIZES:
        place = folder / str(size)
        texts = place / "texts"
        texts.mkdir(parents=True)
        count = make_texts(texts, base * size)
        if size == 1:
            make_tokenizer(texts, folder / "tokenizer")
        number = tokens(texts, folder / "tokenizer", place / "prose")
        length = sum(len(document.text.encode()) for document in documents(texts))
        facts[size] = {"records": count, "bytes": length, "tokens": number}
    return facts


def alone(words: list[str]) -> dict[str, Any]:
    """Run this file in a process of its own; what it found."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    found = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        sys.exit(f"error: {' '.join(words[:2])}: {(done.stderr.strip() or 'no output')[-2_000:]}")
    return json.loads(found[0])


def main() -> None:
    """Make the corpora, run all programs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-mb", type=float, default=0.3, help="text of the smallest corpus")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG; needs matplotlib")
    parser.add_argument("--program", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.program:
        if args.program == "make":
            found = make(args.place, args.base_mb * 1e6)
        else:
            if args.program != "train":  # whose first steps do not count
                measure(args.program, args.place.parent / str(SIZES[0]))  # imports, and first times
            found = measure(args.program, args.place)
        print("RESULT " + json.dumps(found))
        return
    results: dict[str, dict[int, dict[str, float]]] = {program: {} for program in args.programs}
    with tempfile.TemporaryDirectory() as name:
        words = ["--program", "make", "--place", name, "--base-mb", str(args.base_mb)]
        facts = {int(size): found for size, found in alone(words).items()}
        print("| program | corpus | MB | tokens seen | tokens/s | MB/s | peak MB of the process |")
        print("|---|---|---|---|---|---|---|")
        for program in args.programs:
            for size in SIZES:
                words = ["--program", program, "--place", str(Path(name) / str(size))]
                runs = [alone(words) for _ in range(ROUNDS[size] if program != "train" else 1)]
                best = min(runs, key=lambda run: run["seconds"])
                best = {"tokens": facts[size]["tokens"]} | best
                best |= {"bytes": facts[size]["bytes"], "of_tokens": facts[size]["tokens"]}
                best["peak_bytes"] = statistics.median(run["peak_bytes"] for run in runs)
                results[program][size] = best
                print(row(program, size, best), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"results": results, "figures": figures(results)}))
    if args.plot:
        plot(results, args.plot)


def row(program: str, size: int, found: dict[str, float]) -> str:
    """A row of the table."""
    rate = found["tokens"] / found["seconds"]
    cells = (program, f"{size}x", f"{found['bytes'] / 1e6:.2f}", f"{found['tokens']:,}")
    speeds = (f"{rate:,.0f}", f"{rate * found['bytes'] / found['of_tokens'] / 1e6:.2f}")
    return f"| {' | '.join([*cells, *speeds])} | {found['peak_bytes'] / 1e6:,.0f} |"


def figures(results: dict[str, dict[int, dict[str, float]]]) -> dict[str, list[float]]:
    """What `make bench` shows: the last factor of ten; the first one has start-up in it."""
    found = {}
    middle, largest = SIZES[1:]
    for name in BENCH.figures:
        program, _, what = name.partition(", ")
        if program not in results:
            continue
        one, other = results[program][largest], results[program][middle]
        if what.startswith("speed"):
            rates = [each["tokens"] / each["seconds"] for each in (one, other)]
            found[name] = [rates[0] / rates[1]]
        else:
            found[name] = [one["peak_bytes"] / other["peak_bytes"]]
    return found


def plot(results: dict[str, dict[int, dict[str, float]]], file: Path) -> None:
    """Speed and memory over the size of the corpus."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed; pip install 'afm-mlx[bench]'", file=sys.stderr)
        return
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    speed, memory = figure.subplots(1, 2)
    for program, found in results.items():
        text = [each["bytes"] / 1e6 for each in found.values()]
        rates = [each["tokens"] / each["seconds"] for each in found.values()]
        peaks = [each["peak_bytes"] / 1e6 for each in found.values()]
        speed.plot(text, rates, "o-", label=program)
        memory.plot(text, peaks, "o-", label=program)
    speed.set(ylabel="tokens per second of the processor", yscale="log")
    memory.set(ylabel="peak of the process, MB", ylim=(0, None))
    for axes in (speed, memory):
        axes.set(xlabel="corpus, MB of text", xscale="log")
        axes.set_xticks(text, [f"{size:.2g}" for size in text])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    speed.legend()
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
