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
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_page import OURS, lines, plot, report
from declared import Declaration, Job, installed, read_bench

HERE = Path(__file__).parent
LONG = "long.json"  # figures of longer runs, in the folder of the page
WRITTEN = ("BENCH.md", "bench.png", "growth.png", LONG)  # by this program and what it runs
DATA = HERE.parents[1] / "shared" / "data"

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


def machine() -> dict[str, Any]:
    """What figures depend on: device, BLAS, versions, commit."""
    asked = subprocess.run([sys.executable, "-c", MACHINE], capture_output=True, text=True)
    if asked.returncode:
        sys.exit(f"error: afm-mlx does not run here: {last_line(asked.stderr)}")
    return json.loads(asked.stdout) | {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in OURS},
        "commit": commit(),
    }


def commit() -> str:
    """The commit that is measured, and whether files differ from it, those written here apart."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", ":/", *(f":!{name}" for name in WRITTEN))
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (", changed" if changed else "")


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


def read_long(file: Path) -> dict[str, Any]:
    """What longer benchmarks found when they were last run, by name."""
    return json.loads(file.read_text()) if file.is_file() else {}


def keep_long(file: Path, name: str, result: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Keep what a longer benchmark found, beside the others."""
    machine = f"{facts['device']} ({facts['system']}), {facts['format']}"
    found = {key: result[key] for key in ("date", "figures")} | {"machine": machine}
    file.write_text(json.dumps(read_long(file) | {name: found}, indent=1, sort_keys=True) + "\n")


def last_line(text: str) -> str:
    """The last line that is not empty, cut to what a table can hold."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160].replace("|", "/") if lines else "it said nothing"


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
                if job.bench.long and not result["ended"]:
                    keep_long(args.folder / LONG, job.name, result, facts)
                tell(f"    {result['ended'] or 'done'} ({result['seconds']:.0f} s)")
            failed |= bool((work.read(job.name) or {}).get("ended"))
    except KeyboardInterrupt:
        tell("interrupted; the same command goes on")
        return 130
    results = {job.name: found for job in all_jobs if (found := work.read(job.name))}
    kept = read_long(args.folder / LONG)
    why = plot(list(lines(all_jobs, results, kept)), args.folder / "bench.png")
    if why:
        tell(why)
    page = args.folder / "BENCH.md"
    grows = args.folder / "growth.png"
    pictures = ["![How cost grows with the corpus](growth.png)", ""] if grows.exists() else []
    page.write_text(report(all_jobs, results, kept, facts, pictures), encoding="utf-8")
    if not args.only:
        work.end()
    tell(f"written: {page}")
    return 1 if failed else 0


def tell(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
