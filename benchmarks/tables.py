"""Fitting of tables: `fit_tables` beside scikit-learn's KMeans, one group of 16 rows after another.

Values are Gaussian, with columns of log-normal scales and importances, as real matrices have. Both
fit the same groups by the same weights; ways take turns in rounds, and each round is one ratio.
`fit_tables` then fits the whole matrix once. scikit-learn is asked for one start by k-means++
(`n_init=1`, its default), on one thread, and seconds are those of the CPU: a busy machine does not
change them.

    python benchmarks/tables.py                     # some minutes; needs scikit-learn
    python benchmarks/tables.py --rows 576 --columns 1536 --rounds 5 --json tables.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from declared import Declaration
from numpy.typing import NDArray

from afm_mlx.compression.tables import fit_tables

BENCH = Declaration(
    seconds=60,
    figures={
        "tables of 4 bits, groups/s beside scikit-learn's KMeans": "at least 10",
        "tables of 4 bits, squared error / scikit-learn's": "at most 1",
        "tables of 4 bits, a matrix of 3,072 x 8,064, CPU": "s",
        "tables of 2 bits, groups/s beside scikit-learn's KMeans": "at least 10",
        "tables of 2 bits, squared error / scikit-learn's": "at most 1",
        "tables of 2 bits, a matrix of 3,072 x 8,064, CPU": "s",
    },
    small="--rounds 3",
    needs=("scikit-learn", "threadpoolctl"),
)

GROUP_ROWS = 16
SEED = 0

Array = NDArray[np.float32]


def draw(rows: int, columns: int) -> tuple[Array, Array]:
    """A matrix [rows, columns], and the importance of its columns."""
    random = np.random.default_rng(SEED)
    scales = np.exp(0.5 * random.normal(size=columns))
    weight = (0.02 * scales * random.normal(size=(rows, columns))).astype(np.float32)
    return weight, np.exp(random.normal(size=columns)).astype(np.float32)


def relative(values: Array, entries: Array, weights: Array) -> float:
    """Weighted squared error of the nearest entries, as a part of the weighted sum of squares."""
    entries = np.sort(entries.astype(np.float64))
    at = np.searchsorted((entries[1:] + entries[:-1]) / 2, values)
    left = np.square(values - entries[at])
    return float((weights * left).sum() / (weights * np.square(values, dtype=np.float64)).sum())


def compare(weight: Array, importance: Array, bits: int, rounds: int) -> list[dict[str, float]]:
    """CPU seconds a group and errors of both, one dictionary a round."""
    from sklearn.cluster import KMeans

    groups = len(weight) // GROUP_ROWS
    weights = np.tile(importance, GROUP_ROWS)
    found = []
    for turn in range(rounds):
        at = groups * turn // rounds * GROUP_ROWS
        rows = weight[at : at + GROUP_ROWS]
        values = rows.reshape(-1)
        started = time.process_time()
        ours = fit_tables(rows, bits=bits, group_rows=GROUP_ROWS, importance=importance)
        middle = time.process_time()
        theirs = KMeans(2**bits, n_init=1, random_state=turn)
        theirs.fit(values[:, None], sample_weight=weights)
        ended = time.process_time()
        found.append(
            {
                "ours_seconds": middle - started,
                "sklearn_seconds": ended - middle,
                "ratio": (ended - middle) / (middle - started),
                "ours_error": relative(values, ours.tables[0], weights),
                "sklearn_error": relative(values, theirs.cluster_centers_[:, 0], weights),
            }
        )
    return found


def main() -> None:
    """Compare, print a table, and leave the figures as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_072)
    parser.add_argument("--columns", type=int, default=8_064)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    try:
        import sklearn
        from threadpoolctl import threadpool_limits
    except ImportError:
        sys.exit("error: scikit-learn is not installed\nhint: pip install scikit-learn")
    warnings.filterwarnings("ignore", module="sklearn")
    weight, importance = draw(chosen.rows, chosen.columns)
    report: dict[str, object] = {
        "rows": chosen.rows,
        "columns": chosen.columns,
        "machine": platform.processor() or platform.machine(),
        "sklearn": sklearn.__version__,
    }
    print("| bits | KMeans CPU s/group | ours | times faster | KMeans error | ours |")
    print("|---|---|---|---|---|---|")
    figures: dict[str, list[float]] = {}
    for bits in (4, 2):
        with threadpool_limits(1):
            found = compare(weight, importance, bits, chosen.rounds)
        middle = {key: statistics.median(each[key] for each in found) for key in found[0]}
        print(
            f"| {bits} | {middle['sklearn_seconds']:.2f} | {middle['ours_seconds']:.3f} "
            f"| {middle['ratio']:.0f} | {middle['sklearn_error']:.5f} "
            f"| {middle['ours_error']:.5f} |",
            flush=True,
        )
        started, used = time.perf_counter(), time.process_time()
        fit_tables(weight, bits=bits, group_rows=GROUP_ROWS, importance=importance)
        whole = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}
        print(f"  whole matrix: {whole['seconds']:.1f} s, {whole['cpu']:.1f} s of CPU", flush=True)
        report[f"bits_{bits}"] = {"rounds": found, "median": middle, "whole": whole}
        speed, error, seconds = (name for name in BENCH.figures if f"{bits} bits" in name)
        figures[speed] = [each["ratio"] for each in found]
        figures[error] = [each["ours_error"] / each["sklearn_error"] for each in found]
        figures[seconds] = [whole["cpu"]]
    if chosen.json:
        text = json.dumps(report | {"figures": figures}, indent=2)
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
