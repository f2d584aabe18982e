"""What post-training makes of the tiny recipe: tasks right before, after [sft], [itec] and [rl].

The recipe runs as `afm run` runs it, per seed in a temporary folder. Then the model of each stage
answers tasks of held-out families: numbers and words that no task of training is about.

    python benchmarks/posttrain.py                             # 3 seeds, tables
    python benchmarks/posttrain.py --base runs/afm-tiny/context/model  # one base for all seeds
    python benchmarks/posttrain.py --seeds 0 --json 0.json     # a seed apart ...
    python benchmarks/posttrain.py --read 0.json 1.json 2.json # ... and all together
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from declared import Declaration

BENCH = Declaration(
    seconds=3_600,
    figures={
        "reward model, held-out pairs told right, least of the seeds": "at least 85 %",
        "right, after iTeC and MDLOO less after SFT, least of the seeds": "at least 0 points",
        "right, the committee's less its best member's, least of the seeds": "at least 0 points",
    },
    long="a quarter of an hour a seed and a trained base",
    results="Post-training of the tiny recipe: `python benchmarks/posttrain.py`",
)

TASKS = 600  # held-out tasks
PAIR_ANSWERS = 6  # answers to each task, of which pairs for the reward model are made
MODELS = {
    "base": "base",
    "sft": "after [sft]",
    "itec": "after [itec]",
    "rl": "after [itec] and [rl]",
}


class Bench:
    """The recipe at one seed."""

    def __init__(self, args: argparse.Namespace, seed: int, folder: Path) -> None:
        from afm_mlx.recipe import Recipe, load_named_recipe

        assignments = [*args.set, f"training.seed={seed}"]
        settings = load_named_recipe(args.recipe, assignments).model_dump(
            mode="json", exclude_none=True
        )
        for source in settings["synthetic"].values():
            source["seed"] = seed
        if args.base:
            for section in ("data", "core", "continued", "context", "teacher", "prune", "distill"):
                settings.pop(section, None)
            settings["base"] = str(args.base.resolve())
        self.recipe = Recipe.model_validate(settings | {"name": "posttrain"})
        self.seed, self.folder = seed, folder
        source = next(iter(settings["synthetic"].values()))
        self.tasks = folder / "held-out.jsonl"
        self._write_tasks(source)

    def _write_tasks(self, source: Mapping[str, Any]) -> None:
        from afm_mlx.synthetic.catalogue import KINDS
        from afm_mlx.synthetic.write import write_records

        section, maker = KINDS[source["kind"]]
        settings = section.model_validate(source["settings"])
        write_records(
            maker(settings), settings, self.tasks, count=TASKS, seed=self.seed, split="held_out"
        )

    def run(self) -> dict[str, Any]:
        """Run the stages, and measure their models."""
        from afm_mlx import pipeline
        from afm_mlx.progress import Progress

        began = time.monotonic()
        manifests = pipeline.run(self.recipe, self.folder, Progress())
        made = self.folder / self.recipe.name
        models = {
            "base": made / str(self.recipe.start_of("sft")) / "model",
            **{name: made / name / "model" for name in ("sft", "itec", "rl")},
        }
        rounds = next(m for m in manifests if m["stage"] == "itec")["metrics"]["rounds"]
        committee = {
            name: self._member(made, name) for name in rounds[-1]["next"] if name != "start"
        }
        committee["start"] = models["sft"]
        judge = made / "itec" / "reward"
        found = {
            "models": {
                name: self.measured(folder, models["sft"], judge) for name, folder in models.items()
            },
            "reward_accuracy": self.reward_accuracy(models["sft"], judge),
            "committee": self.committee(committee, judge),
            "rounds": rounds,
            "seconds": {m["stage"]: m["seconds"] for m in manifests},
        }
        return found | {"all_seconds": time.monotonic() - began}

    def _member(self, made: Path, name: str) -> Path:
        number, _, member = name.partition("-")
        return made / "itec" / f"round-{number}" / member / "model"

    def answers(
        self, folder: Path, *, temperature: float, samples: int = 1
    ) -> tuple[Any, list[Any], list[list[Any]]]:
        """A model, the held-out tasks, and its answers to them."""
        import mlx.core as mx

        from afm_mlx.alignment.prompts import read_prompts
        from afm_mlx.alignment.sampling import sample_answers
        from afm_mlx.decoder.checkpoint import open_checkpoint
        from afm_mlx.text.tokenizer import Tokenizer

        model, tokenizer = open_checkpoint(folder, dtype=mx.float32), Tokenizer.open(folder)
        most = self.recipe.itec.max_tokens
        prompts = read_prompts(
            [self.tasks],
            tokenizer,
            max_tokens=model.shape.max_tokens - most,
            skip_bad=False,
            say=lambda line: print(line, file=sys.stderr),
        )
        given = sample_answers(
            model,
            tokenizer,
            [prompt.ids for prompt in prompts],
            samples=samples,
            max_tokens=most,
            temperature=temperature,
            seed=self.seed,
            step=0,
        )
        return model, prompts, given

    def measured(self, folder: Path, reference: Path, judge: Path) -> dict[str, float]:
        """Tasks right, mean reward, and divergence from the model after [sft]."""
        import mlx.core as mx

        from afm_mlx.alignment.logps import answer_logps, pack_answers
        from afm_mlx.alignment.reward import open_reward_model
        from afm_mlx.decoder.checkpoint import open_checkpoint

        _, prompts, greedy = self.answers(folder, temperature=0.0)
        model, _, sampled = self.answers(folder, temperature=1.0)
        read = as_answers(prompts, sampled)
        other = open_checkpoint(reference, dtype=mx.float32)
        gaps = []
        for start in range(0, len(read), 32):
            packed = pack_answers(read[start : start + 32])
            own, old = (
                answer_logps(each, packed, chunk_bytes=2**26).answers for each in (model, other)
            )
            gaps += (own - old).tolist()
        lengths = [len(group[0].ids) for group in sampled]
        return {
            "greedy": share_right(prompts, greedy),
            "sampled": share_right(prompts, sampled),
            "reward": statistics.mean(open_reward_model(judge / "model").score_answers(read)),
            "kl": statistics.mean(gaps),
            "answer_tokens": statistics.mean(lengths),
            "different": len({group[0].text for group in sampled}) / len(sampled),
        }

    def reward_accuracy(self, folder: Path, judge: Path) -> dict[str, float]:
        """Pairs of answers to held-out tasks, one right and one wrong, that are told rightly."""
        from afm_mlx.alignment.reward import open_reward_model

        _, prompts, given = self.answers(folder, temperature=1.0, samples=PAIR_ANSWERS)
        scores = iter(open_reward_model(judge / "model").score_answers(as_answers(prompts, given)))
        won, pairs = 0.0, 0
        for prompt, group in zip(prompts, given, strict=True):
            rewards = [next(scores) for _ in group]
            right = [is_right(prompt, answer) for answer in group]
            if any(right) and not all(right):
                one, other = rewards[right.index(True)], rewards[right.index(False)]
                won, pairs = won + (one > other) + 0.5 * (one == other), pairs + 1
        return {"accuracy": won / pairs, "pairs": pairs}

    def committee(self, members: Mapping[str, Path], judge: Path) -> dict[str, Any]:
        """Each member's share right, and that of the answers which the reward model picks."""
        from afm_mlx.alignment.reward import open_reward_model

        scorer = open_reward_model(judge / "model")
        right, rewards = {}, {}
        for name, folder in members.items():
            _, prompts, given = self.answers(folder, temperature=1.0)
            pairs = zip(prompts, given, strict=True)
            right[name] = [is_right(prompt, group[0]) for prompt, group in pairs]
            rewards[name] = scorer.score_answers(as_answers(prompts, given))
        names = list(members)
        picked = [
            right[max(names, key=lambda name, at=at: rewards[name][at])][at] for at in range(TASKS)
        ]
        shares = {name: statistics.mean(found) for name, found in right.items()}
        return {"members": shares, "picked": statistics.mean(picked)}


def is_right(prompt: Any, answer: Any) -> bool:
    """Whether an answer ended by itself, and passes its task's check."""
    from afm_mlx.synthetic.checks import passes

    return bool(answer.finished and passes(prompt.conversation.check, answer.text))


def share_right(prompts: Sequence[Any], given: Sequence[Sequence[Any]]) -> float:
    """Share of the first answers that are right."""
    pairs = zip(prompts, given, strict=True)
    return statistics.mean(is_right(prompt, group[0]) for prompt, group in pairs)


def as_answers(prompts: Sequence[Any], given: Sequence[Sequence[Any]]) -> list[Any]:
    """Prompts with answers, as ids, in order."""
    from afm_mlx.alignment.logps import Answer

    return [
        Answer([*prompt.ids, *answer.ids], len(prompt.ids))
        for prompt, group in zip(prompts, given, strict=True)
        for answer in group
    ]


def tables(seeds: Mapping[str, Any]) -> str:
    """Tables in Markdown, and what was to be shown."""
    lines = [
        "| seed | model | right, greedy | right, sampled | mean reward | nats from [sft] | tokens "
        "| different answers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, found in seeds.items():
        for name, said in MODELS.items():
            one = found["models"][name]
            lines.append(
                f"| {seed} | {said} | {one['greedy']:.1%} | {one['sampled']:.1%} | "
                f"{one['reward']:.3f} | {one['kl']:.3f} | {one['answer_tokens']:.1f} | "
                f"{one['different']:.1%} |"
            )
    lines += [
        "",
        "| seed | on held-out | pairs told right | best member | picked by the reward model |",
    ]
    lines.append("|---|---|---|---|---|")
    for seed, found in seeds.items():
        last = found["rounds"][-1]
        accuracy, committee = found["reward_accuracy"], found["committee"]
        for where, right, pairs, members, picked in (
            ("prompts", last["reward_accuracy"], last["reward_pairs"], *on_prompts(last)),
            ("families", *accuracy.values(), committee["members"], committee["picked"]),
        ):
            best = max(members, key=members.get)
            lines.append(
                f"| {seed} | {where} | {right:.1%} of {pairs} | {members[best]:.1%} ({best}) | "
                f"{picked:.1%} |"
            )
    return "\n".join([*lines, "", *_claims(seeds)])


def on_prompts(last: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """Each member's share right on the held-out prompts of a round, and that of the picks."""
    measured = last["held_out"]
    members = {name: facts["worth"] for name, facts in measured["members"].items()}
    return members, measured["picked_by_reward"]


def figures(seeds: Mapping[str, Any]) -> dict[str, list[float]]:
    """What `make bench` shows, in percent: of each claim, the seed on which it holds least."""
    rows = []
    for seed in seeds.values():
        last, models = seed["rounds"][-1], seed["models"]
        members, picked = on_prompts(last)
        gain = models["rl"]["sampled"] - models["sft"]["sampled"]
        rows.append((last["reward_accuracy"], gain, picked - max(members.values())))
    least = [[100 * min(column)] for column in zip(*rows, strict=True)]
    return dict(zip(BENCH.figures, least, strict=True))


def _claims(seeds: Mapping[str, Any]) -> list[str]:
    lines = []
    for how in ("greedy", "sampled"):
        for worse, better in (("base", "sft"), ("sft", "itec"), ("itec", "rl"), ("sft", "rl")):
            gains = [
                seed["models"][better][how] - seed["models"][worse][how] for seed in seeds.values()
            ]
            lines.append(
                f"{how}: {better} above {worse} on {sum(gain > 0 for gain in gains)} of "
                f"{len(gains)} seeds, mean gain {statistics.mean(gains):.1%}"
            )
    kinds: dict[str, list[tuple[float, dict[str, float], float]]] = {
        "prompts": [
            (last["reward_accuracy"], *on_prompts(last))
            for last in (seed["rounds"][-1] for seed in seeds.values())
        ],
        "families": [
            (
                seed["reward_accuracy"]["accuracy"],
                seed["committee"]["members"],
                seed["committee"]["picked"],
            )
            for seed in seeds.values()
        ],
    }
    for where, found in kinds.items():
        gains = [picked - max(members.values()) for _, members, picked in found]
        right = [accuracy for accuracy, _, _ in found]
        lines.append(
            f"held-out {where}: picked by the reward model above the best member on "
            f"{sum(gain > 0 for gain in gains)} of {len(gains)} seeds, mean gain "
            f"{statistics.mean(gains):.1%}; it tells {statistics.mean(right):.1%} of pairs right, "
            f"at least {min(right):.1%}"
        )
    return lines


def main() -> None:
    """Run the recipe at each seed, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="afm-tiny", help="with [sft] to [rl] and [synthetic]")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--base", type=Path, help="folder of a finished base, for all seeds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=Path, nargs="+", help="only show what these files hold")
    args = parser.parse_args()
    seeds: dict[str, Any] = {}
    if args.read:
        for path in args.read:
            seeds |= json.loads(path.read_text())["seeds"]
    else:
        import afm_mlx  # noqa: F401  (loads the tuned BLAS before MLX)

        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                seeds[str(seed)] = Bench(args, seed, Path(folder)).run()
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    if args.json:
        arguments = {"recipe": args.recipe, "set": args.set, "base": str(args.base)}
        found = {"arguments": arguments, "machine": machine, "seeds": seeds}
        found |= {"figures": figures(seeds)}
        args.json.write_text(json.dumps(found))
    print(tables(seeds))


if __name__ == "__main__":
    main()
