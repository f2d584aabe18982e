"""What a benchmark declares for `make bench`: how to run it, and the figures that it leaves.

`BENCH` stands at the top of a benchmark, in literals, so that `bench.py` reads it from the file and
imports nothing of it. The benchmark leaves its figures as JSON in the file that --json names:
"figures" has values by name, one of each round, and "missing" why one could not be measured.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PATIENCE = 6  # times the declared seconds, after which a benchmark is stopped
LEAST_SECONDS = 120  # before one is stopped


@dataclass(frozen=True)
class Declaration:
    """One benchmark, as `make bench` runs it."""

    seconds: float
    """About how long it takes on two quiet cores; it is stopped after some times that."""
    figures: Mapping[str, str] = field(default_factory=dict)
    """What it measures, by name, and what that must be: "at least 1.3", "at most 50 ms". With
    nothing to reach, the unit alone."""
    small: str = ""
    """Arguments for two cores; {data} is the folder of data, {folder} that of benchmarks."""
    large: str = ""
    """Arguments for a machine with a GPU; where there are none, those of `small`."""
    needs: tuple[str, ...] = ()
    """Packages without which it cannot run."""
    peers: tuple[str, ...] = ()
    """Packages that it measures beside where they are installed, besides those it needs."""
    data: tuple[str, ...] = ()
    """Files and folders that it needs of the folder of data."""
    long: str = ""
    """Why `make bench` leaves it out, and only `bench.py --only` runs it."""
    results: str = ""
    """Heading of its findings in RESULTS.md, where it is left out."""


@dataclass(frozen=True)
class Goal:
    """What a figure must be."""

    text: str
    """As declared."""

    @property
    def is_least(self) -> bool:
        """Larger is better."""
        return self.text.startswith("at least ")

    @property
    def number(self) -> float | None:
        """The number to reach; None where there is nothing to reach."""
        if not self.text.startswith(("at least ", "at most ")):
            return None
        return float(self.text.split()[2].replace(",", ""))

    @property
    def unit(self) -> str:
        """Of the figure: `ms`, `%`, or nothing for a ratio."""
        return self.text if self.number is None else " ".join(self.text.split()[3:])

    def is_met(self, value: float) -> bool | None:
        """Whether a value reaches it; None where there is nothing to reach."""
        if self.number is None:
            return None
        return value >= self.number if self.is_least else value <= self.number


def read_bench(file: Path) -> Declaration | None:
    """What a benchmark declares; None for a file that declares nothing.

    Raises:
        ValueError: something in the declaration is no literal.
    """
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "BENCH":
            assert isinstance(node.value, ast.Call)
            return Declaration(
                **{str(k.arg): ast.literal_eval(k.value) for k in node.value.keywords}
            )
    return None


def installed(package: str) -> str | None:
    """Version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Job:
    """A benchmark on this machine."""

    name: str
    bench: Declaration
    arguments: tuple[str, ...]
    command: str
    """What one would type, DATA in place of the folder of data."""
    left_out: str
    """Why it does not run; empty when it does."""

    @property
    def limit(self) -> float:
        """Seconds after which it is stopped."""
        return max(LEAST_SECONDS, PATIENCE * self.bench.seconds)
