"""Processes that share a list of jobs, and survive a record that kills one of them.

Workers are spawned, which works alike on macOS and Linux. Each says which record it is at; when a
process dies there twice, or stands still there, the record is left out and the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Protocol

from afm_mlx.errors import AfmError, RunError

# A worker that stays at one record for so long is ended. Ours: `benchmarks/worst_pages.py` found no
# page that takes a quarter of it, in seconds of CPU time.
STUCK_SECONDS = 120.0
_LOOK_SECONDS = 1.0

# A process may die for other reasons than the record, such as memory: one more try, then not. Ours.
_DEATHS = 2

Failed = dict[int, str]
"""Number of a record in its shard, from 0, and how a worker died of it."""
Begin = Callable[[int], None]
"""Called with the number of each record before work on it begins."""


class Task(Protocol):
    """What workers do. It is pickled, and opened once in each worker."""

    def open(self) -> Callable[[Any, Begin, Failed], Any]:
        """Prepare, and return the function for one job: (job, begin, records to leave out)."""


def run_jobs(
    task: Task,
    jobs: Sequence[Any],
    *,
    workers: int,
    done: Callable[[Any, Any], None] = lambda job, result: None,
    stuck_seconds: float = STUCK_SECONDS,
) -> None:
    """Do all jobs, in any order, and call `done(job, result)` here as each is finished.

    Args:
        task: what to do.
        jobs: each is pickled, and should name files rather than hold data.
        workers: processes; with 1, this one, which nothing saves from a crash.
        done: told of every finished job.
        stuck_seconds: a worker at one record for so long is ended, as if it had crashed.

    Raises:
        AfmError: as a job raised it.
        RunError: a worker died twice outside of any record.
        RuntimeError: a job raised something else.
    """
    if workers == 1:
        work = task.open()
        for job in jobs:
            done(job, work(job, lambda _: None, {}))
        return
    _Pool(task, jobs, done, stuck_seconds).run(min(workers, len(jobs)))


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    at: Any
    """Shared memory: number of the record it is at, or -1."""
    job: int = -1
    """Number of its job."""
    seen: tuple[int, int] = (-1, -1)
    since: float = 0.0


@dataclass
class _Pool:
    task: Task
    jobs: Sequence[Any]
    done: Callable[[Any, Any], None]
    stuck_seconds: float
    failed: dict[int, Failed] = field(default_factory=dict)
    deaths: Counter[tuple[int, int]] = field(default_factory=Counter)
    workers: list[_Worker] = field(default_factory=list)

    def run(self, count: int) -> None:
        self.todo = list(range(len(self.jobs)))[::-1]
        try:
            self.workers = [_start(self.task) for _ in range(count)]
            for worker in list(self.workers):
                self._next(worker)
            while self.workers:
                ready = connection.wait([one.pipe for one in self.workers], _LOOK_SECONDS)
                for worker in [one for one in self.workers if one.pipe in ready]:
                    self._answer(worker)
                self._end_stuck()
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()

    def _next(self, worker: _Worker) -> None:
        """Give a worker its next job, or let it go."""
        if not self.todo:
            worker.pipe.close()  # it reads the end, and leaves
            worker.process.join()
            self.workers.remove(worker)
            return
        worker.job = self.todo.pop()
        with suppress(OSError):  # it died: the next wait says so
            worker.pipe.send((self.jobs[worker.job], self.failed.get(worker.job, {})))

    def _answer(self, worker: _Worker) -> None:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            self._died(worker)
            return
        if kind == "error":
            raise value
        self.done(self.jobs[worker.job], value)
        self._next(worker)

    def _died(self, worker: _Worker, how: str = "") -> None:
        """Take another worker, and leave out the record at which two have died."""
        worker.process.join()
        self.workers.remove(worker)
        code = worker.process.exitcode
        how = how or (f"signal {-code}" if code < 0 else f"exit code {code}")
        at = worker.at.value
        place = (worker.job, at)
        self.deaths[place] += 1
        if at < 0 and self.deaths[place] >= _DEATHS:
            raise RunError(
                f"a worker process died ({how}) at {self.jobs[worker.job]}",
                hint="is there enough memory? with fewer workers each has more",
            )
        if self.deaths[place] >= _DEATHS:
            self.failed.setdefault(worker.job, {})[at] = f"the worker process died: {how}"
        self.todo.append(worker.job)
        fresh = _start(self.task)
        self.workers.append(fresh)
        self._next(fresh)

    def _end_stuck(self) -> None:
        now = time.monotonic()
        for worker in list(self.workers):
            place = (worker.job, worker.at.value)
            if place != worker.seen or place[1] < 0:
                worker.seen, worker.since = place, now
            elif now - worker.since > self.stuck_seconds:
                worker.process.kill()
                self.deaths[place] = _DEATHS  # no second try: it takes as long
                self._died(worker, f"no end after {self.stuck_seconds:.0f} s")


def _start(task: Task) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    at = context.Value("q", -1, lock=False)
    process = context.Process(target=_serve, args=(task, theirs, at), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, at)


def _serve(task: Task, pipe: connection.Connection, at: Any) -> None:
    """A worker's life: jobs from the pipe until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def begin(number: int) -> None:
        at.value = number

    try:
        work = task.open()
        with suppress(EOFError):
            while True:
                job, failed = pipe.recv()
                result = work(job, begin, failed)
                at.value = -1
                pipe.send(("result", result))
    except Exception as error:
        pipe.send(("error", _portable(error)))


def _end_with_parent() -> None:
    """End this process when its parent is gone: the next run writes the same files.

    A file takes its name only after `os.fsync`, which lets this thread run: what was begun before
    the parent died is not finished after it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """An error that survives the way to the parent: ours and the system's as they are."""
    if isinstance(error, (AfmError, OSError)):
        return error
    last = traceback.format_exc().rstrip()
    return RuntimeError(f"{type(error).__name__}: {error}\n{last}")
