"""How soon the command line answers: `afm --help` and `afm doctor`, each in a process of its own.

python benchmarks/commands.py
python benchmarks/commands.py --rounds 20
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from declared import Declaration

BENCH = Declaration(
    seconds=15,
    figures={"afm --help": "at most 0.4 s", "afm doctor": "at most 3 s"},
)
CODE = "import sys; from afm_cli import main; sys.exit(main(sys.argv[1:]))"


def seconds(words: list[str]) -> float:
    """Seconds of a command, from nothing to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", CODE, *words], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = {}
    for name in BENCH.figures:
        words = name.split()[1:]
        seconds(words)  # files come into memory
        figures[name] = [seconds(words) for _ in range(args.rounds)]
        print(f"{name:12} {statistics.median(figures[name]):.2f} s, median of {args.rounds}")
    if args.json:
        args.json.write_text(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
