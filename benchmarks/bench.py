"""`make bench`: every benchmark at a size for this machine, and one table of what they found.

One after the other, each in a process of its own with a time limit, as it declares (declared.py).
One whose packages or data are not here is left out, and the table says why; one that fails is named
with its last line, and the rest goes on. Interrupted, the same command goes on; when all is
done, the next one begins anew, as it does with other versions or another commit.

    python benchmarks/bench.py                       # all; writes benchmarks/BENCH.md, bench.png
    python benchmarks/bench.py --list                # what would run, and how long it may take
    python benchmarks/bench.py --only serve guided   # these again, the others as they were
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from declared import Declaration, Goal, read_bench

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
PATIENCE = 6  # times the declared seconds, after which a benchmark is stopped
LEAST_SECONDS = 120  # before one is stopped
OURS = ("afm-mlx", "mlx", "mlx-lm", "numpy")

MACHINE = """
import json, os, platform
from afm_mlx import compat
blas = compat.load_blas()
from afm_mlx.planning.hardware import describe_device
print(json.dumps({
    "device": describe_device(), "gpu": compat.on_gpu(), "blas": blas.rsplit("/")[-1],
    "format": str(compat.compute_dtype()).removeprefix("mlx.core."),
}))
"""


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


def jobs(folder: Path, data: Path, *, gpu: bool, only: Sequence[str]) -> list[Job]:
    """All that is declared in a folder of benchmarks, by name."""
    found = []
    for file in sorted(folder.glob("*.py")):
        bench = read_bench(file)
        if bench is None:
            continue
        words = bench.large if gpu and bench.large else bench.small
        places = {"{data}": str(data), "{folder}": str(folder)}
        arguments = tuple(filled(word, places) for word in shlex.split(words))
        why = missing(bench, data)
        if not why and bench.long and file.stem not in only:
            why = bench.long
        found.append(Job(file.stem, bench, arguments, typed(file.stem, words), why))
    return found


def typed(name: str, words: str) -> str:
    """A command as one would type it."""
    places = {"{data}": "DATA", "{folder}": "benchmarks"}
    return f"python benchmarks/{name}.py {filled(words, places)}".strip()


def filled(word: str, places: Mapping[str, str]) -> str:
    """A word with names of places in it."""
    for name, place in places.items():
        word = word.replace(name, place)
    return word


def missing(bench: Declaration, data: Path) -> str:
    """What a benchmark needs that is not here."""
    packages = [name for name in bench.needs if installed(name) is None]
    files = [name for name in bench.data if not (data / name).exists()]
    if packages:
        return f"not installed: {', '.join(packages)}"
    return f"no data: {', '.join(files)}" if files else ""


def installed(package: str) -> str | None:
    """Version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """What figures depend on: device, BLAS, versions, commit."""
    asked = subprocess.run([sys.executable, "-c", MACHINE], capture_output=True, text=True)
    if asked.returncode:
        sys.exit(f"error: afm-mlx does not run here: {last_line(asked.stderr)}")
    commit = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return json.loads(asked.stdout) | {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in OURS},
        "commit": commit.stdout.strip() or "unknown",
    }


class Work:
    """Results so far of the run under way, a file for each benchmark."""

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        self.folder, self._done = folder, folder / "done"
        text = json.dumps(machine, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        kept = folder / "key"
        self.is_same = kept.is_file() and kept.read_text() == key
        self._key = key

    def begin(self, *, anew: bool) -> None:
        """Keep what an interrupted run of the same has found, else nothing."""
        if not self.is_same or (anew and self._done.exists()):
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "key").write_text(self._key)

    def read(self, name: str) -> dict[str, Any] | None:
        """What a benchmark has left."""
        file = self.folder / f"{name}.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def write(self, name: str, result: Mapping[str, Any]) -> None:
        """Keep what a benchmark has left: whole, or not at all."""
        part = self.folder / f"{name}.part"
        part.write_text(json.dumps(result, indent=1))
        part.replace(self.folder / f"{name}.json")

    def forget(self, name: str) -> None:
        """So that it runs again."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def end(self) -> None:
        """The next run begins anew."""
        self._done.touch()


def run(job: Job, folder: Path, work: Path) -> dict[str, Any]:
    """Run a benchmark to its end or its limit; what it found, and how it ended."""
    out, log = work / f"{job.name}.figures", work / f"{job.name}.log"
    out.unlink(missing_ok=True)
    load, began = os.getloadavg()[0], time.monotonic()
    words = [sys.executable, str(folder / f"{job.name}.py"), *job.arguments, "--json", str(out)]
    with log.open("w") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(job.limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # its own children, too
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = last_line(log.read_text(errors="replace"))
    found = json.loads(out.read_text()) if out.is_file() else {}
    ended = "" if code == 0 else f"failed: {said}"
    if code is None:
        ended = f"stopped after {job.limit:,.0f} s; its last line: {said}"
    return {
        "command": job.command,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.monotonic() - began, 1),
        "load": round(load, 1),
        "ended": ended,
        "figures": found.get("figures", {}),
        "missing": found.get("missing", {}),
    }


def last_line(text: str) -> str:
    """The last line that is not empty, cut to what a table can hold."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160].replace("|", "/") if lines else "it said nothing"


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

    @property
    def value(self) -> float:
        """The median of all rounds."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or no value."""
        return self.goal.is_met(self.value) if self.values else None


def lines(all_jobs: Sequence[Job], work: Work) -> Iterator[Line]:
    """All figures, declared or not."""
    for job in all_jobs:
        result = work.read(job.name) or {}
        figures, why = result.get("figures", {}), result.get("missing", {})
        instead = job.left_out or result.get("ended") or "not measured"
        for name in dict.fromkeys([*job.bench.figures, *figures, *why]):
            goal = Goal(job.bench.figures.get(name, ""))
            values = tuple(figures.get(name, ()))
            yield Line(name, goal, values, why.get(name, instead), job.name)


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
    "What they found when they were last run is in RESULTS.md.",
    "`python benchmarks/bench.py --only NAME` runs one and puts its figures above.",
)


def report(
    all_jobs: Sequence[Job], work: Work, facts: Mapping[str, Any], pictures: Sequence[str] = ()
) -> str:
    """The page, in Markdown; with pictures that benchmarks have left, as lines."""
    found = list(lines(all_jobs, work))
    with_goal = [line for line in found if line.goal.number is not None]
    measured = [line for line in with_goal if line.values]
    here = [line for line in with_goal if line.values or not is_long(all_jobs, line.source)]
    met = sum(bool(line.is_met) for line in measured)
    results = {job.name: work.read(job.name) for job in all_jobs}
    jobs_here = [job for job in all_jobs if not job.bench.long or results[job.name]]
    ran = {name: result for name, result in results.items() if result}
    minutes = sum(result["seconds"] for result in ran.values()) / 60
    dates = sorted({result["date"] for result in ran.values()})
    text = [
        "# What `make bench` found",
        "",
        *HEAD,
        "",
        f"**{met} of {len(measured)} goals that were measured are met**"
        + (f"; {len(here) - len(measured)} could not be measured here." if here else "."),
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
        *(job_row(job, results[job.name]) for job in jobs_here),
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
    return f"| {' | '.join([*cells, line.source])} |"


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


def main() -> int:
    """Run what is to be run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="run these alone")
    parser.add_argument("--list", action="store_true", help="show what would run, and stop")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AFM_TEST_DATA", DATA)))
    parser.add_argument("--folder", type=Path, default=HERE, help="of benchmarks, and of the page")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="results so far")
    args = parser.parse_args()
    facts = machine()
    all_jobs = jobs(args.folder, args.data, gpu=facts["gpu"], only=args.only)
    unknown = set(args.only) - {job.name for job in all_jobs}
    if unknown:
        names = ", ".join(job.name for job in all_jobs)
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {names}")
    if args.list:
        for job in all_jobs:
            how = f"left out: {job.left_out}" if job.left_out else f"{job.bench.seconds:4.0f} s"
            print(f"{job.name:14} {how:10} {job.command}")
        total = sum(job.bench.seconds for job in all_jobs if not job.left_out)
        print(f"about {total / 60:.0f} minutes on two quiet cores")
        return 0
    work = Work(args.work, facts)
    work.begin(anew=not args.only)
    for name in args.only:
        work.forget(name)
    chosen = [job for job in all_jobs if not args.only or job.name in args.only]
    failed = False
    try:
        for place, job in enumerate(chosen, start=1):
            told = f"[{place}/{len(chosen)}] {job.name}"
            if job.left_out:
                tell(f"{told}: left out, {job.left_out}")
            elif work.read(job.name) is not None:
                tell(f"{told}: done already")
            else:
                tell(f"{told}: about {job.bench.seconds:.0f} s")
                result = run(job, args.folder, args.work)
                work.write(job.name, result)
                tell(f"    {result['ended'] or 'done'} ({result['seconds']:.0f} s)")
            failed |= bool((work.read(job.name) or {}).get("ended"))
    except KeyboardInterrupt:
        tell("interrupted; the same command goes on")
        return 130
    why = plot(list(lines(all_jobs, work)), args.folder / "bench.png")
    if why:
        tell(why)
    page = args.folder / "BENCH.md"
    grows = args.folder / "growth.png"
    pictures = ["![How cost grows with the corpus](growth.png)", ""] if grows.exists() else []
    page.write_text(report(all_jobs, work, facts, pictures), encoding="utf-8")
    if not args.only:
        work.end()
    tell(f"written: {page}")
    return 1 if failed else 0


def tell(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
