"""Steps over record shards: each shard is read, filtered and written again, whole or not at all.

IN/00000.jsonl.gz     records, one line of JSON each
OUT/00000.jsonl.gz            those that are left, in the same order
OUT/00000.drops.jsonl.gz      the others, and why
OUT/00000.counts.json         what came in and went out; written last: the shard is done
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from afm_mlx.artifact import write_text, writing
from afm_mlx.corpus.counts import Tally, add_counts, counts_of, drops_of, read_counts, read_facts
from afm_mlx.corpus.record import Drop, Record, drop
from afm_mlx.corpus.record_shards import (
    broken_shard,
    first_line,
    list_shards,
    read_shard,
    to_line,
    whole_file,
    writing_lines,
)
from afm_mlx.corpus.workers import Begin, Failed, run_jobs
from afm_mlx.errors import AfmError, DataError

PREPARED, DECIDED = "prepared", "decided"
"""Folders of a step over the whole corpus: what each shard contributes, and what was decided."""


Filter = Callable[[Record], Record | Drop]
"""A step on one record: gives it on, perhaps changed, or drops it."""

Told = Callable[[str], None]
"""Told where a long job stands, in a line."""


@dataclass(frozen=True)
class Step:
    """A step on single records."""

    name: str
    make: Callable[[], Filter]
    """Makes the filter, once in each worker; pickled, so a class with `partial`, no lambda."""
    sources: frozenset[str] | None = None
    """Data sources whose records it looks at; the others pass. `None`: all."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What decides its result, ready for JSON."""


class Corpus(Protocol):
    """What decides over the whole corpus."""

    def prepare(self, shard: Path, out: Path) -> Any:
        """Write to the file `out` what one record shard contributes."""

    def decide(self, prepared: Sequence[Path], out: Path) -> dict[str, Any]:
        """Write out/NNNNN.drops.jsonl for the shards, and return metrics."""


@dataclass(frozen=True)
class CorpusStep:
    """A step that looks at the whole corpus before it drops a record."""

    name: str
    make: Callable[[], Corpus]
    """Makes the step; pickled, as `Step.make`."""
    sources: frozenset[str] | None = None
    """Data sources that may lose records to it; `None`: all."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What decides its result, ready for JSON."""


def run_steps(
    shards: Sequence[Path],
    out: Path,
    steps: Sequence[Step],
    *,
    after: CorpusStep | None = None,
    workers: int,
    told: Told = lambda line: None,
) -> dict[str, Any]:
    """Take record shards through `after`, if given, then `steps`, and write them to `out`.

    Shards that are finished in `out` are kept. Memory holds one record in each worker, and what
    `after` needs to decide.

    Args:
        shards: the record shards, each of another number.
        out: folder for the shards, their drops and counts.
        steps: run in order on each record.
        after: step over the whole corpus, whose drops go before `steps`.
        workers: processes.
        told: told where it stands.

    Returns:
        The counts of all shards added up, with `metrics` of `after`.

    Raises:
        DataError: a shard is broken, a package is missing, or `out` holds another step's result.
    """
    names = [*([after.name] if after else []), *map(_name, steps)]
    claim_steps(shards, out, steps, after)
    clear_parts(out)
    metrics = _decide(after, shards, out, workers=workers, told=told) if after else {}
    jobs = [shard for shard in shards if not is_filtered(shard, out)]
    finished = len(shards) - len(jobs)

    def done(job: Path, counts: dict[str, Any]) -> None:
        nonlocal finished
        finished += 1
        told(f"  {', '.join(names)}: {finished:,} of {len(shards):,} shards")

    run_jobs(Filtering(tuple(steps), out, after), jobs, workers=workers, done=done)
    clear_parts(out)  # of workers that died
    total = add_counts(read_counts(out))
    return total | ({"metrics": metrics} if after else {})


@dataclass(frozen=True)
class Filtering:
    """The task of a worker: steps on the records of one shard."""

    steps: tuple[Step, ...]
    out: Path
    after: CorpusStep | None = None

    def open(self) -> Callable[[Path, Begin, Failed], dict[str, Any]]:
        """Make the filters; the function that filters one shard and returns its counts."""
        filters = [(step, step.make()) for step in self.steps]

        def work(shard: Path, begin: Begin, failed: Failed) -> dict[str, Any]:
            started = time.perf_counter()
            tally = Tally([*([self.after.name] if self.after else []), *map(_name, self.steps)])
            decided = _read_decided(self.out, shard) if self.after else {}
            with (
                writing_lines(self.out / shard.name) as kept,
                writing_lines(drops_of(self.out / shard.name)) as dropped,
            ):
                for number, record in enumerate(read_shard(shard)):
                    begin(number)
                    size = _size(record.text)
                    tally.came_in(record, size)
                    result: Record | Drop = record
                    if self.after:
                        result = self._decided(record, decided.get(number))
                        tally.passed(self.after.name, record, size, result, size, 0.0)
                    if number in failed and isinstance(result, Record):
                        result = drop(record, "step.failed", failed[number])
                    for step, filter in filters:
                        if isinstance(result, Drop):
                            break
                        if step.sources is not None and record.source not in step.sources:
                            continue
                        before, size_before, now = result, size, time.perf_counter()
                        result = _apply(step.name, filter, before)
                        seconds = time.perf_counter() - now
                        if isinstance(result, Record) and result.text is not before.text:
                            size = _size(result.text)
                        tally.passed(step.name, before, size_before, result, size, seconds)
                    (kept if isinstance(result, Record) else dropped).write(to_line(result))
                    tally.went_out(record, result, size)
            counts = tally.counts(time.perf_counter() - started)
            write_text(counts_of(self.out / shard.name), json.dumps(counts, indent=1) + "\n")
            return counts

        return work

    def _decided(self, record: Record, decision: tuple[str, str] | None) -> Record | Drop:
        assert self.after is not None
        sources = self.after.sources
        if decision is None or (sources is not None and record.source not in sources):
            return record
        return drop(record, *decision)


def is_filtered(shard: Path, out: Path) -> bool:
    """Whether a shard's records, drops and counts are in `out`."""
    here = out / shard.name
    return here.exists() and drops_of(here).exists() and counts_of(here).exists()


def _name(step: Step) -> str:
    return step.name


def _apply(name: str, filter: Filter, record: Record) -> Record | Drop:
    """The filter's answer; whatever it raises for one record is a drop and not the run's end."""
    try:
        return filter(record)
    except (AfmError, ImportError):  # not about the record: a package or a file is missing
        raise
    except Exception as error:
        return drop(record, "step.failed", f"{name}: {type(error).__name__}: {first_line(error)}")


@dataclass(frozen=True)
class Preparing:
    """The task of a worker: what one shard contributes to a step of the whole corpus."""

    step: CorpusStep
    out: Path

    def open(self) -> Callable[[Path, Begin, Failed], None]:
        """Make the step; the function that writes `out`/prepared/NNNNN of one shard."""
        corpus, folder = self.step.make(), self.out / PREPARED
        folder.mkdir(parents=True, exist_ok=True)

        def work(shard: Path, begin: Begin, failed: Failed) -> None:
            started = time.perf_counter()
            with whole_file(folder / shard.name.partition(".")[0]) as part:
                corpus.prepare(shard, part)
            seconds = round(time.perf_counter() - started, 6)
            write_text(counts_of(folder / shard.name), json.dumps({"seconds": seconds}))

        return work


def _decide(
    step: CorpusStep, shards: Sequence[Path], out: Path, *, workers: int, told: Told
) -> dict[str, Any]:
    """Prepare all shards and decide, where that is not done; returns the step's metrics."""
    if not (out / DECIDED).exists():
        clear_parts(out / PREPARED)
        jobs = [shard for shard in shards if not is_prepared(shard, out)]
        told(f"  {step.name}: {len(jobs):,} of {len(shards):,} shards to prepare")
        run_jobs(Preparing(step, out), jobs, workers=workers)
        told(f"  {step.name}: deciding")
    return decide(step, shards, out)


def is_prepared(shard: Path, out: Path) -> bool:
    """Whether a shard's contribution is in `out`/prepared."""
    here = out / PREPARED / shard.name
    return here.with_name(shard.name.partition(".")[0]).exists() and counts_of(here).exists()


def decide(step: CorpusStep, shards: Sequence[Path], out: Path) -> dict[str, Any]:
    """Decide over all prepared shards, once, and return the step's metrics and its seconds.

    Writes `out`/decided, whole or not at all, and then deletes `out`/prepared.
    """
    decided, prepared = out / DECIDED, out / PREPARED
    if not decided.exists():
        started = time.perf_counter()
        part = out / f"{DECIDED}.making"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        files = [prepared / shard.name.partition(".")[0] for shard in shards]
        with writing(part):
            metrics = step.make().decide(files, part)
        metrics["prepare_seconds"] = round(sum(one["seconds"] for one in read_counts(prepared)), 6)
        metrics["decide_seconds"] = round(time.perf_counter() - started, 6)
        write_text(part / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        part.rename(decided)
    shutil.rmtree(prepared, ignore_errors=True)
    return read_facts(decided / "metrics.json", hint=f"delete {out}, and run again")


def _read_decided(out: Path, shard: Path) -> dict[int, tuple[str, str]]:
    """Rule and evidence of each record of a shard that goes, by its number."""
    path = out / DECIDED / f"{shard.name.partition('.')[0]}.drops.jsonl"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            rows = [json.loads(line) for line in file]
            return {row["line"]: (row["rule"], row["evidence"]) for row in rows}
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path} is damaged", hint=f"delete {out}, and run again") from None


def claim_steps(
    shards: Sequence[Path], out: Path, steps: Sequence[Step], after: CorpusStep | None
) -> None:
    """`claim` a folder for the result of steps. Several tasks may do so at once."""
    out.mkdir(parents=True, exist_ok=True)
    every: list[Step | CorpusStep] = [*([after] if after else []), *steps]
    claim(out, {"steps": [_facts(step) for step in every], "shards": _sizes(shards)})


def claim(out: Path, facts: Mapping[str, Any]) -> None:
    """Write into a folder what makes it, or compare with what is there.

    Raises:
        DataError: another step, or the same with other settings or input, has begun the folder.
    """
    path = out / "step.json"
    wanted = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    if not path.exists():
        if list_shards(out):
            raise DataError(
                f"{out} holds record shards, and does not say of which step",
                hint="name another folder for the result",
            )
        _write_claim(path, wanted)
    elif path.read_text(encoding="utf-8", errors="replace") != wanted:
        if not any(out.glob("*.counts.json")) and not any(
            (out / name).exists() for name in (PREPARED, DECIDED)
        ):
            _write_claim(path, wanted)  # nothing has been made there yet
            return
        raise DataError(
            f"{out} holds a result of other settings or other input",
            hint=f"name another folder for the result, or delete {out}",
        )


def _write_claim(path: Path, text: str) -> None:
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def clear_parts(folder: Path, shards: Sequence[Path] | None = None) -> None:
    """Delete what killed processes have left half written: all, or that of some shards."""
    chosen = None if shards is None else {shard.name.partition(".")[0] for shard in shards}
    for part in folder.glob("*.part"):
        if chosen is None or part.name.partition(".")[0] in chosen:
            part.unlink(missing_ok=True)


def _facts(step: Step | CorpusStep) -> dict[str, Any]:
    chosen = None if step.sources is None else sorted(step.sources)
    return {"step": step.name, "sources": chosen, "settings": step.settings}


def _sizes(shards: Sequence[Path]) -> dict[str, int]:
    try:
        return {shard.name: shard.stat().st_size for shard in shards}
    except FileNotFoundError as error:
        raise broken_shard(Path(error.filename), "no such file") from None


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
