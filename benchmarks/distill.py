"""What a pruned start and a teacher are worth to a student, at an equal number of its tokens.

Every contender is the recipe with some sections left out or changed, run by the pipeline in a
temporary folder: the same data, tokenizer and teacher, and per seed the same rows in the same
order. Its later stages are left out, and [core] cools down instead. Held-out loss is the
pipeline's own.

    python benchmarks/distill.py                                  # 3 seeds, tables
    python benchmarks/distill.py --json out.json --plot out.png   # and a file, and a picture
    python benchmarks/distill.py --seeds 2 --brief --json b.json  # one, without side questions
    python benchmarks/distill.py --read a.json b.json             # seeds that ran apart
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from declared import Declaration

BENCH = Declaration(
    seconds=7_200,
    figures={
        "a pruned start, nats below scratch, least of the seeds": "at least 0",
        "a pruned start and a teacher, nats below scratch, least of the seeds": "at least 0",
        "learned masks, nats below activation, least of the seeds": "at least 0",
        "activation, nats below random units, least of the seeds": "at least 0",
    },
    small="--brief",
    long="an hour a seed on two cores",
    results="A pruned start and a teacher: `python benchmarks/distill.py`",
)

STUDENTS = {
    "scratch": "(a) from scratch",
    "scratch-longer": "from scratch, and the tokens of pruning",
    "scratch-distilled": "from scratch + distillation",
    "pruned": "(b) pruned start",
    "distilled": "(c) pruned start + distillation",
    "distilled-top": "(c) with the report's target: top, 0.9",
}
PRUNINGS = {
    "teacher": "teacher, not pruned",
    "random": "random units",
    "activation": "by activation",
    "gradient": "by gradient: first scores",
    "random-tuned": "random units, then trained",
    "activation-tuned": "by activation, then trained",
    "gradient-tuned": "by gradient, then trained",
    "masks": "learned masks",
}
SIDE_QUESTIONS = (
    "scratch-longer",
    "scratch-distilled",
    "distilled-top",
    "random-tuned",
    "gradient-tuned",
)
"""Contenders that --brief leaves out."""
RANDOM_DRAWS = 5  # of random units, whose mean is shown
COOL_DOWN = 0.05  # learning rate at the end of a run, as a share of the peak
EVALUATIONS = 6  # points of a learning curve
CURVES = {"scratch": "tab:gray", "pruned": "tab:blue", "distilled": "tab:red"}


class Bench:
    """The recipe at one seed, and its contenders."""

    def __init__(
        self, name: str, assignments: list[str], seed: int, folder: Path, *, brief: bool
    ) -> None:
        from afm_mlx.progress import Progress
        from afm_mlx.recipe import load_named_recipe

        recipe = load_named_recipe(name, [*assignments, f"training.seed={seed}"])
        self.settings = recipe.model_dump(mode="json", exclude_none=True)
        for section in ("continued", "context"):
            self.settings.pop(section, None)
        core = self.settings["core"]
        steps = recipe.pretraining("core").steps
        core["final_lr_fraction"] = COOL_DOWN
        self.settings["watch"] |= {
            "evaluate_every_steps": max(1, steps // EVALUATIONS),
            "sample_prompts": [],
        }
        self.prune, self.core_tokens = recipe.prune, core["tokens"]
        assert recipe.prune is not None
        assert recipe.teacher is not None
        self.prune_tokens = recipe.prune.tokens
        self.teacher_tokens = recipe.teacher.tokens or core["tokens"]
        self.seed, self.runs, self.brief = seed, folder, brief
        self.progress = Progress(stream=open(os.devnull, "w"))  # noqa: SIM115

    def recipe(self, name: str, **sections: Any) -> Any:
        """The recipe with sections changed; `None` leaves one out."""
        from afm_mlx.recipe import Recipe

        settings = self.settings | {"name": name} | sections
        return Recipe.model_validate({k: v for k, v in settings.items() if v is not None})

    def run(self, recipe: Any, last: str) -> dict[str, Any]:
        """Metrics of a stage, and the curve of its held-out loss."""
        from afm_mlx import pipeline

        manifest = pipeline.run(recipe, self.runs, self.progress, last=last)[-1]
        found: dict[str, Any] = manifest["metrics"] | {"seconds": manifest["seconds"]}
        log = self.runs / recipe.name / last / "metrics.jsonl"
        records = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
        per_step = getattr(recipe, last, None) or recipe.core
        tokens = per_step.row_tokens * per_step.rows_per_step
        found["curve"] = [
            (record["step"] * tokens, record["held_out_nats"])
            for record in records
            if "held_out_nats" in record
        ]
        return found

    def model(self, name: str, stage: str) -> Path:
        """Folder of a stage's model."""
        return self.runs / name / stage / "model"

    def measured(self, recipe: Any, folder: Path) -> dict[str, float]:
        """Held-out loss of a model folder, and how often its likeliest token is the text's."""
        import mlx.core as mx

        from afm_mlx.corpus.packing import shift_right
        from afm_mlx.decoder.checkpoint import open_checkpoint
        from afm_mlx.text.tokenizer import Tokenizer
        from afm_mlx.training.texts import open_held_out
        from afm_mlx.training.validation import held_out_loss

        model = open_checkpoint(folder, dtype=mx.float32)
        tokenizer = Tokenizer.open(folder)
        rows = open_held_out(
            self.runs / recipe.name / "data",
            recipe.data,
            tokenizer,
            row_tokens=recipe.core.row_tokens,
            span_tokens=recipe.longest_row(),
            most_tokens=recipe.watch.evaluation_tokens,
        )
        eos, right, tokens = tokenizer.eos_id, 0.0, 0.0
        for held_out in rows.values():
            for start in range(0, len(held_out.targets), 16):
                targets = mx.array(held_out.targets[start : start + 16])
                counts = mx.array(held_out.counts[start : start + 16])
                logits = model.hidden(shift_right(targets, eos)) @ model.output_weight.T
                hits = (mx.argmax(logits, axis=-1) == targets) * counts
                right, tokens = right + float(hits.sum()), tokens + float(counts.sum())
        loss = held_out_loss(model, rows, eos_id=eos, micro_rows=16, chunk_bytes=2**26)
        return {"nats": loss["held_out_nats"], "top1": right / tokens}

    def students(self, note: Callable[[str, Any], None]) -> None:
        """Train all students; `note` gets each one's name and figures."""
        # The teacher, and the student from scratch beside it: a [teacher] alone changes no [core].
        shared = self.recipe("shared", prune=None, distill=None)
        scratch = self.run(shared, "core")
        teacher = {
            "model": str(self.model("shared", "teacher")),
            "intermediate_size": self.settings["teacher"]["intermediate_size"],
        }
        core = self.settings["core"]

        def student(key: str, found: dict[str, Any], recipe: Any, *, pruned: bool = False) -> None:
            measured = self.measured(recipe, self.model(recipe.name, "core"))
            uses_teacher = pruned or "distilled" in key
            figures = {
                "nats": found["held_out_nats"],
                "top1": measured["top1"],
                "student_tokens": found["tokens"],
                "prune_tokens": self.prune_tokens if pruned else 0,
                "teacher_tokens": self.teacher_tokens if uses_teacher else 0,
                "seconds": found["seconds"],
                "curve": found["curve"],
            }
            note(key, figures)

        student("scratch", scratch, shared)
        if not self.brief:
            longer = core | {"tokens": core["tokens"] + self.prune_tokens}
            own = self.recipe("own", teacher=teacher, prune=None, distill=None, core=longer)
            student("scratch-longer", self.run(own, "core"), own)
            own = self.recipe("own", teacher=teacher, prune=None)
            student("scratch-distilled", self.run(own, "core"), own)
        for key, distill in (
            ("pruned", None),
            ("distilled", self.settings["distill"]),
            (
                "distilled-top",
                self.settings["distill"] | {"target": "top", "teacher_weight": 0.9},
            ),
        ):
            if self.brief and key in SIDE_QUESTIONS:
                continue
            own = self.recipe("own", teacher=teacher, distill=distill)
            student(key, self.run(own, "core"), own, pruned=True)

    def prunings(self, note: Callable[[str, Any], None]) -> None:
        """Prune the teacher in every way; `note` gets each one's name and figures."""
        import mlx.core as mx

        from afm_mlx.compression.masks import cut_units
        from afm_mlx.compression.topk import hard_top_k
        from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint

        folder = self.model("shared", "teacher")
        teacher = {
            "model": str(folder),
            "intermediate_size": self.settings["teacher"]["intermediate_size"],
        }
        own = self.recipe("own", teacher=teacher, distill=None)

        def pruning(key: str, nats: float, top1: float | None, tokens: int = 0) -> None:
            note(key, {"nats": nats, "top1": top1, "prune_tokens": tokens})

        whole = self.measured(self.recipe("shared", prune=None, distill=None), folder)
        pruning("teacher", whole["nats"], whole["top1"])
        found = self.run(own, "prune")
        measured = self.measured(own, self.model("own", "prune"))
        pruning("masks", found["held_out_nats"], measured["top1"], found["tokens"])
        pruning("gradient", found["first_scores_held_out_nats"], None)
        note("grad_norms", self._grad_norms())
        if not self.brief:
            # Units that do not change any more, and hard masks, are the first scores' own units.
            frozen = {"score_lr_factor": 1e-12, "anneal_fraction": 0.0}
            fixed = self.recipe(
                "fixed", teacher=teacher, distill=None, prune=self.settings["prune"] | frozen
            )
            found = self.run(fixed, "prune")
            measured = self.measured(fixed, self.model("fixed", "prune"))
            pruning("gradient-tuned", found["held_out_nats"], measured["top1"], found["tokens"])

        model, width = open_checkpoint(folder, dtype=mx.float32), own.shape.intermediate_size
        draws = []
        for draw in range(RANDOM_DRAWS):
            key = mx.random.key(1_000 * self.seed + draw)
            scores = mx.random.normal(
                (own.shape.num_layers, model.shape.intermediate_size), key=key
            )
            place = self.runs / f"random-{draw}" / "model"
            save_checkpoint(place, cut_units(model, hard_top_k(scores, width)), folder, facts={})
            draws.append(self.measured(own, place))
        nats, top1 = (statistics.mean(draw[name] for draw in draws) for name in ("nats", "top1"))
        pruning("random", nats, top1)
        activation = self.recipe(
            "activation",
            teacher=teacher,
            distill=None,
            prune=self.settings["prune"] | {"method": "activation"},
        )
        self.run(activation, "prune")
        place = self.model("activation", "prune")
        measured = self.measured(activation, place)
        pruning("activation", measured["nats"], measured["top1"])
        for key, base in (("activation-tuned", place), ("random-tuned", self.runs / "random-0")):
            if self.brief and key in SIDE_QUESTIONS:
                continue
            base = base if base.name == "model" else base / "model"
            tuned = self.recipe(
                "tuned",
                base=str(base),
                teacher=None,
                prune=None,
                distill=None,
                core=self._as_core(),
            )
            found = self.run(tuned, "core")
            measured = self.measured(tuned, self.model("tuned", "core"))
            pruning(key, found["held_out_nats"], measured["top1"], found["tokens"])

    def _as_core(self) -> dict[str, Any]:
        """[core] that trains as [prune] does, without masks."""
        prune = self.prune
        assert prune is not None
        return self.settings["core"] | {
            "tokens": prune.tokens,
            "row_tokens": prune.row_tokens,
            "rows_per_step": prune.rows_per_step,
            "lr": prune.lr,
            "warmup_steps": round(prune.warmup_fraction * prune.steps),
            "final_lr_fraction": prune.final_lr_fraction,
            "weight_decay": prune.weight_decay,
        }

    def _grad_norms(self) -> list[dict[str, float]]:
        """Norms of the gradients of weights and of scores during mask learning."""
        log = self.runs / "own" / "prune" / "metrics.jsonl"
        names = ("step", "grad_norm", "scores_grad_norm")
        records = map(json.loads, log.read_text().splitlines())
        return [{k: r[k] for k in names} for r in records if "grad_norm" in r]


def run_seed(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """All contenders at one seed."""
    found: dict[str, Any] = {"students": {}, "prunings": {}}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.recipe, args.set, seed, Path(folder), brief=args.brief)
        for kind in ("students", "prunings"):

            def note(key: str, figures: Any, kind: str = kind) -> None:
                found[kind][key] = figures
                nats = f"{figures['nats']:.4f}" if isinstance(figures, dict) else ""
                seconds = time.monotonic() - started
                print(f"seed {seed}: {key} {nats} ({seconds:.0f} s)", file=sys.stderr, flush=True)

            getattr(bench, kind)(note)
    return found


def tables(seeds: Mapping[str, Any]) -> str:
    """Both tables in Markdown, and what was to be shown."""
    heads = " | ".join(f"seed {seed}" for seed in seeds)
    lines = [
        f"| student | {heads} | mean | to (a) | top-1 | student tokens | pruning | teacher |",
        "|---|" + "---|" * (len(seeds) + 6),
    ]
    runs = [seed["students"] for seed in seeds.values()]
    for key, name in STUDENTS.items():
        found = [run[key] for run in runs if key in run]
        if not found:
            continue
        nats = [one["nats"] for one in found]
        gap = statistics.mean(
            run[key]["nats"] - run["scratch"]["nats"] for run in runs if key in run
        )
        cells = [f"{run[key]['nats']:.4f}" if key in run else "" for run in runs]
        cells += [f"{statistics.mean(nats):.4f}", f"{gap:+.4f}"]
        cells.append(f"{statistics.mean(one['top1'] for one in found):.2%}")
        tokens = ("student_tokens", "prune_tokens", "teacher_tokens")
        cells += [f"{found[0][name]:,}" for name in tokens]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"| pruning | {heads} | mean | top-1 | tokens |"]
    lines.append("|---|" + "---|" * (len(seeds) + 3))
    for key, name in PRUNINGS.items():
        each = [seed["prunings"].get(key) for seed in seeds.values()]
        found = [one for one in each if one]
        if not found:
            continue
        nats, top1 = [one["nats"] for one in found], [one["top1"] for one in found]
        cells = [f"{one['nats']:.4f}" if one else "" for one in each]
        cells.append(f"{statistics.mean(nats):.4f}")
        cells.append("" if None in top1 else f"{statistics.mean(top1):.2%}")
        lines.append(f"| {name} | " + " | ".join([*cells, f"{found[0]['prune_tokens']:,}"]) + " |")
    return "\n".join([*lines, "", *_claims(seeds)])


def _claims(seeds: Mapping[str, Any]) -> list[str]:
    lines = []
    for kind, better, worse in (
        ("students", "pruned", "scratch"),
        ("students", "distilled", "scratch"),
        ("students", "distilled", "pruned"),
        ("prunings", "masks", "activation"),
        ("prunings", "activation", "random"),
        ("prunings", "masks", "activation-tuned"),
        ("prunings", "masks", "gradient-tuned"),
    ):
        gaps = [
            seed[kind][worse]["nats"] - seed[kind][better]["nats"]
            for seed in seeds.values()
            if worse in seed[kind]
        ]
        if not gaps:
            continue
        wins = sum(gap > 0 for gap in gaps)
        lines.append(
            f"{better} beats {worse} on {wins} of {len(gaps)} seeds, "
            f"mean gap {statistics.mean(gaps):.4f} nats"
        )
    return lines


def figures(seeds: Mapping[str, Any]) -> dict[str, list[float]]:
    """What `make bench` shows: of each claim, the seed on which it holds least."""
    claims = (
        ("students", "pruned", "scratch"),
        ("students", "distilled", "scratch"),
        ("prunings", "masks", "activation"),
        ("prunings", "activation", "random"),
    )
    found = {}
    for name, (kind, better, worse) in zip(BENCH.figures, claims, strict=True):
        runs = [seed[kind] for seed in seeds.values() if {better, worse} <= set(seed[kind])]
        if runs:
            found[name] = [min(run[worse]["nats"] - run[better]["nats"] for run in runs)]
    return found


def plot(seeds: Mapping[str, Any], path: Path) -> None:
    """Learning curves: held-out loss over student tokens."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed; pip install 'afm-mlx[bench]'", file=sys.stderr)
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for key, color in CURVES.items():
        curves = [seed["students"][key]["curve"] for seed in seeds.values()]
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=color, alpha=0.3, linewidth=1)
        tokens = [point[0] for point in curves[0]]
        means = [
            statistics.mean(point[1] for point in points) for points in zip(*curves, strict=True)
        ]
        axes.plot(tokens, means, color=color, label=STUDENTS[key])
    axes.set(xlabel="student tokens", ylabel="held out, nats per token")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run all contenders, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="afm-tiny", help="with [teacher], [prune], [distill]")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--brief", action="store_true", help="only what was to be shown")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG; needs matplotlib")
    parser.add_argument("--read", type=Path, nargs="+", help="only show what these files hold")
    args = parser.parse_args()
    seeds: dict[str, Any] = {}
    if args.read:
        for path in args.read:
            seeds |= json.loads(path.read_text())["seeds"]
    else:
        import afm_mlx  # noqa: F401  (loads the tuned BLAS before MLX)

        for seed in args.seeds:
            seeds[str(seed)] = run_seed(args, seed)
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    if args.json:
        arguments = {"recipe": args.recipe, "set": args.set}
        found = {"arguments": arguments, "machine": machine, "seeds": seeds}
        found |= {"figures": figures(seeds)}
        args.json.write_text(json.dumps(found))
    print(tables(seeds))
    if args.plot:
        plot(seeds, args.plot)


if __name__ == "__main__":
    main()
