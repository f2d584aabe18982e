"""The page and the picture that `bench.py` makes of what benchmarks have left."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from declared import Goal, Job, installed

Results = Mapping[str, Mapping[str, Any]]
"""What each benchmark that ran has left, by name; see `bench.run`."""

OURS = ("afm-mlx", "mlx", "mlx-lm", "numpy")


@dataclass(frozen=True)
class Line:
    """A figure of the table."""

    name: str
    goal: Goal
    values: tuple[float, ...]
    """One of each round; none where it was not measured."""
    why: str
    """Why it was not measured."""
    source: str
    """Name of its benchmark."""
    when: str = ""
    """Date of a longer run that is not one of these."""

    @property
    def value(self) -> float:
        """The median of all rounds."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or no value."""
        return self.goal.is_met(self.value) if self.values else None


def lines(all_jobs: Sequence[Job], results: Results, kept: Results) -> Iterator[Line]:
    """All figures, declared or not; of `kept`, those of longer runs that are not in `results`."""
    for job in all_jobs:
        earlier = kept.get(job.name, {}) if job.bench.long else {}
        result = results.get(job.name, earlier)
        when = result.get("date", "") if result is earlier else ""
        figures, why = result.get("figures", {}), result.get("missing", {})
        instead = job.left_out or result.get("ended") or "not measured"
        for name in dict.fromkeys([*job.bench.figures, *figures, *why]):
            goal = Goal(job.bench.figures.get(name, ""))
            values = tuple(figures.get(name, ()))
            yield Line(name, goal, values, why.get(name, instead), job.name, when)


HEAD = (
    "Written by `make bench`. Longer runs, read and explained, are in [RESULTS.md](RESULTS.md),",
    "and [performance.md](../docs/performance.md) says what the figures mean. In a ratio both",
    "sides took turns on this machine; do not compare it with those of another.",
)
GOALS = (
    "Goals are those that each part was built to. A figure is the median of its rounds, beside",
    "the lowest and the highest.",
)
LONGER = (
    "What they found when they were last run is above, with its date, and explained in RESULTS.md.",
    "`python benchmarks/bench.py --only NAME` runs one again.",
)


def report(
    all_jobs: Sequence[Job],
    results: Results,
    kept: Results,
    facts: Mapping[str, Any],
    pictures: Sequence[str] = (),
) -> str:
    """The page, in Markdown; with pictures that benchmarks have left, as lines."""
    found = list(lines(all_jobs, results, kept))
    with_goal = [line for line in found if line.goal.number is not None]
    measured = [line for line in with_goal if line.values]
    longer = [line for line in measured if line.when]
    here = [line for line in with_goal if line.values or not is_long(all_jobs, line.source)]
    met = sum(bool(line.is_met) for line in measured)
    unmeasured = len(here) - len(measured)
    jobs_here = [job for job in all_jobs if not job.bench.long or job.name in results]
    minutes = sum(result["seconds"] for result in results.values()) / 60
    dates = sorted({result["date"] for result in results.values()})
    text = [
        "# What `make bench` found",
        "",
        *HEAD,
        "",
        f"**{met} of {len(measured)} goals that were measured are met**"
        + (f"; {unmeasured} could not be measured here" if unmeasured else "")
        + (f". Of these, {len(longer)} are of longer runs, each with its date." if longer else "."),
        "",
        f"{facts['device']} ({facts['system']}), {facts['format']}, "
        f"BLAS {facts['blas'] or 'none'}, Python {facts['python']}; {versions(all_jobs)}. "
        f"Commit {facts['commit']}, "
        f"{' to '.join(dict.fromkeys([dates[0], dates[-1]])) if dates else 'nothing ran'}; "
        f"{minutes:.1f} minutes in all.",
        "",
        "## Goals",
        "",
        *GOALS,
        "",
        "| figure | measured | rounds | goal | met | benchmark |",
        "|---|---|---|---|---|---|",
        *(row(line) for line in here),
        "",
        "![Figures and their goals](bench.png)",
        "",
        *pictures,
        "## Without a goal",
        "",
        "| figure | measured | rounds | benchmark |",
        "|---|---|---|---|",
        *(row(line) for line in found if line.goal.number is None),
        "",
        "## What ran",
        "",
        "Load is that of the machine just before: above a few tenths, other work took part.",
        "",
        "| benchmark | command | seconds | load | |",
        "|---|---|---|---|---|",
        *(job_row(job, results.get(job.name)) for job in jobs_here),
        "",
        "## Longer runs",
        "",
        *LONGER,
        "",
        "| benchmark | how long | goal | findings |",
        "|---|---|---|---|",
        *(long_row(job) for job in all_jobs if job not in jobs_here),
    ]  # fmt: skip
    return "\n".join(text) + "\n"


def is_long(all_jobs: Sequence[Job], name: str) -> bool:
    """Whether `make bench` leaves a benchmark out for its length."""
    return any(job.name == name and job.bench.long for job in all_jobs)


def versions(all_jobs: Sequence[Job]) -> str:
    """Packages of ours and of all peers that are installed."""
    names = dict.fromkeys(OURS)
    for job in all_jobs:
        names |= dict.fromkeys([*job.bench.needs, *job.bench.peers])
    return ", ".join(f"{name} {found}" for name in names if (found := installed(name)))


def row(line: Line) -> str:
    """A figure as a row of its table."""
    unit = line.goal.unit
    if line.values:
        measured = f"{number(line.value)} {unit}".strip()
        low, high = min(line.values), max(line.values)
        rounds = f"{number(low)} to {number(high)}" if len(line.values) > 1 else ""
    else:
        measured, rounds = line.why, ""
    cells = [line.name, measured, rounds]
    if line.goal.number is not None:
        verdict = {True: "yes", False: "**no**", None: ""}[line.is_met]
        cells += [line.goal.text, verdict]
    return (
        f"| {' | '.join([*cells, f'{line.source}, {line.when}' if line.when else line.source])} |"
    )


def job_row(job: Job, result: Mapping[str, Any] | None) -> str:
    """A benchmark as a row."""
    if result is None:
        left_out = f"left out: {job.left_out}" if job.left_out else "not run"
        return f"| {job.name} | `{job.command}` | | | {left_out} |"
    return (
        f"| {job.name} | `{result['command']}` | {result['seconds']:,.0f} | {result['load']} "
        f"| {result['ended']} |"
    )


def long_row(job: Job) -> str:
    """A benchmark that is left out for its length, as a row."""
    goals = "; ".join(f"{name}: {goal}" for name, goal in job.bench.figures.items())
    heading = job.bench.results
    anchor = "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")
    link = f"[{heading.partition(': `')[0]}](RESULTS.md#{anchor})" if heading else ""
    return f"| {job.name} | {job.bench.long} | {goals} | {link} |"


def number(value: float) -> str:
    """Three digits, more of large numbers."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def plot(found: Sequence[Line], file: Path) -> str:
    """A picture of all figures that have a goal, in goals; why there is none, if so."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: matplotlib is not installed; pip install 'afm-mlx[bench]'"
    shown = [line for line in found if line.goal.number and line.values and line.value > 0]
    if not shown:
        return "no plot: nothing to show"
    figure = Figure(figsize=(9, 1.3 + 0.32 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for place, line in enumerate(reversed(shown)):
        assert line.goal.number is not None
        ratios = [value / line.goal.number for value in line.values]
        if not line.goal.is_least:
            ratios = [1 / ratio for ratio in ratios]  # right is better, in all rows
        color = "tab:blue" if line.is_met else "tab:red"
        axes.plot([min(ratios), max(ratios)], [place, place], color=color, alpha=0.4, linewidth=5)
        axes.plot(statistics.median(ratios), place, "o", color=color)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if in_range(tick, axes)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    labels = [f"{line.name}, {line.goal.text}" for line in reversed(shown)]
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.set_xlabel("times the goal: right of the line it is met")
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(file, dpi=130)
    return ""


def in_range(tick: float, axes: Any) -> bool:
    """Whether a tick is on the axis."""
    low, high = axes.get_xlim()
    return low <= tick <= high
