"""Products with look-up weights beside dense ones and MLX's own 4-bit kernels, by rows of x.

Sizes are those of AFM-on-device; the weights are random. Ways take turns in rounds, so that a busy
machine slows them alike; a figure is the median over rounds of the time of one product. On a GPU
"look-up" is our kernel up to 8 rows of x, and beyond that a weight made anew; on the CPU it is the
dense copy that the layer keeps, and "plain" is what it does without one.

    python benchmarks/lookup.py
    python benchmarks/lookup.py --rows 1 8 512 --rounds 5 --divide 2    # smaller weights
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from functools import partial
from pathlib import Path

from afm_mlx import compat  # before MLX: it loads the BLAS  # isort: skip
import mlx.core as mx
from declared import Declaration

from afm_mlx.decoder.palette import PaletteLinear, pack

BENCH = Declaration(
    seconds=40,
    figures={
        "products with 4-bit tables, 1 row: dense / tables, made anew": "",
        "products with 4-bit tables, 1 row: dense / tables": "",
        "products with 4-bit tables, 1 row: MLX's 4-bit kernel / tables": "",
    },
    small="--rows 1 16 --rounds 3 --divide 2",
    large="--rows 1 8 64 --rounds 5",
)

SIZES = {"q, o": (3_072, 3_072), "k, v": (1_024, 3_072), "gate, up": (8_064, 3_072)}
SIZES |= {"down": (3_072, 8_064)}
REPEATS = 8  # products timed at once, so that starting one is not what is measured


def ways(rows: int, columns: int, dtype: mx.Dtype) -> dict[str, object]:
    """Functions of x, by name."""
    weight = (columns**-0.5 * mx.random.normal((rows, columns))).astype(dtype)
    four_bits = mx.quantize(weight, group_size=64, bits=4)
    found = {
        str(dtype).removeprefix("mlx.core."): lambda x: x @ weight.T,
        "MLX 4-bit": lambda x: mx.quantized_matmul(x, *four_bits, group_size=64, bits=4),
    }
    for bits in (4, 2):
        ids = pack(mx.random.randint(0, 2**bits, (rows, columns)), bits)
        tables = mx.random.normal((rows // 16, 2**bits)).astype(mx.float16)
        layer = PaletteLinear(ids, tables, bits=bits, group_rows=16, in_features=columns)
        found[f"look-up {bits}-bit"] = layer
        found[f"plain {bits}-bit"] = partial(plain, layer)
        mx.eval(layer.parameters())
    mx.eval(weight, four_bits)
    return found


def plain(layer: PaletteLinear, x: mx.array) -> mx.array:
    """What a layer gives, by a weight that is made anew in plain operations."""
    return x @ layer.dense(x.dtype).T


def milliseconds(way: object, x: mx.array) -> float:
    """Milliseconds of one product."""
    started = time.perf_counter()
    mx.eval([way(x + number) for number in range(REPEATS)])
    return 1_000 * (time.perf_counter() - started) / REPEATS


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 64, 512])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--divide", type=int, default=1, help="sides of the weights by this")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    figures: dict[str, list[float]] = {name: [] for name in BENCH.figures}
    dtype = compat.compute_dtype()
    print(f"{platform.platform()}, {mx.default_device()}, MLX {mx.__version__}\n")
    heads = None
    for name, (rows, columns) in SIZES.items():
        found = ways(rows // asked.divide, columns // asked.divide, dtype)
        if heads is None:
            heads = list(found)
            print(f"| ms | rows of x | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 2)}")
        for count in asked.rows:
            x = mx.random.normal((count, columns // asked.divide)).astype(dtype)
            for way in found.values():
                milliseconds(way, x)
            times = [[milliseconds(way, x) for way in found.values()] for _ in range(asked.rounds)]
            if count == 1:
                for each in times:
                    way = dict(zip(heads, each, strict=True))
                    dense, mlx, tables, anew = list(way.values())[:4]
                    ratios = (dense / anew, dense / tables, mlx / tables)
                    for name_, ratio in zip(figures, ratios, strict=True):
                        figures[name_].append(ratio)
            medians = [statistics.median(each) for each in zip(*times, strict=True)]
            cells = " | ".join(f"{each:.3f}" for each in medians)
            print(f"| {name} | {count} | {cells} |", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"figures": {n: v for n, v in figures.items() if v}}))


if __name__ == "__main__":
    main()
