"""Processes that work on one model together: who they are, and what they tell each other.

`afm ... --hosts` starts them, on one machine or several, or `mlx.launch` does; MLX carries the
messages. A rank is the number of a process. Alone, there is one rank, and nothing here costs
anything or changes a bit.

Every rank must ask for every exchange, in the same order: one that does not leaves the others
waiting. So nothing here may depend on what only one of them knows.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from afm_mlx.errors import RunError
from afm_mlx.launch.told import RANKS, Together

MESSAGE_BYTES = 32 * 2**20
"""Arrays are added up in messages of about this size, as in `nn.average_gradients`."""

FORMATS = {str(each): each for each in vars(mx).values() if isinstance(each, mx.Dtype)}
"""Number formats by the names that MLX prints."""

OTHER_LAUNCHERS = ("MLX_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")
"""Variables by which `mlx.launch` and MPI's launchers say that a process is one of several."""

MEET_SECONDS = 60
"""Time for all ranks to start and find each other. Ours."""

SECONDS_BETWEEN_LOOKS = 0.1
"""How often a rank looks whether its leader is done. Ours: a directory is cheap to list."""


@dataclass(frozen=True)
class Ranks:
    """The processes that work together, seen from one of them."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """How many there are."""
    group: Any = None
    """MLX's group; None for one process alone."""
    hosts: tuple[str, ...] = ()
    """Machine of each rank, where it is known."""

    @property
    def speaks(self) -> bool:
        """Whether this process tells the user how things go."""
        return self.rank == 0

    def name(self, rank: int) -> str:
        """What a rank is called in messages."""
        return f"rank {rank} ({self.hosts[rank]})" if self.hosts else f"rank {rank}"

    def total(self, tree: Any) -> Any:
        """The sum over all ranks of a tree of arrays; every rank gets the same bits. Lazy."""
        if self.size == 1:
            return tree
        flat: Any = tree_flatten(tree)
        summed: list[tuple[str, mx.array]] = []
        for part in _messages(flat):
            message = mx.concatenate([array.reshape(-1) for _, array in part])
            whole = mx.distributed.all_sum(message, group=self.group)
            start = 0
            for name, array in part:
                summed.append((name, whole[start : start + array.size].reshape(array.shape)))
                start += array.size
        return tree_unflatten(summed)

    def own_sum(self, rows: mx.array) -> mx.array:
        """Row [1, n] of this rank in the sum over all ranks of `rows` [size, n]. Lazy."""
        if self.size == 1:
            return rows
        if _scatters(self.group):
            own = mx.distributed.sum_scatter(rows.reshape(-1), group=self.group)
        else:
            # Without the copy, the sums of all rows would stay in memory.
            own = mx.contiguous(mx.distributed.all_sum(rows, group=self.group)[self.rank])
        return own.reshape(1, -1)

    def gathered(self, row: mx.array) -> mx.array:
        """Rows [size, ...] of all ranks, from one [1, ...] of each. Lazy."""
        return row if self.size == 1 else mx.distributed.all_gather(row, group=self.group)

    def share(self, count: int) -> slice:
        """Which of `count` things are this rank's: as many as the others', or one more or less."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def most(self, values: Sequence[int]) -> list[int]:
        """The largest that any rank has, of each of some integers."""
        told = self.gathered(mx.array([[*values]], mx.int64))
        return [int(value) for value in np.array(told).max(axis=0)]

    def any(self, value: bool) -> bool:
        """Whether it is so on any rank."""
        if self.size == 1:
            return value
        return bool(mx.distributed.all_sum(mx.array(int(value)), group=self.group).item())

    def all_texts(self, text: str) -> list[str]:
        """What each rank has to say, by rank."""
        if self.size == 1:
            return [text]
        told = self._all_bytes(mx.array(np.frombuffer(text.encode(), np.uint8)))
        return [bytes(np.array(row)).decode() for row in told]

    def all_arrays(self, arrays: Sequence[mx.array]) -> list[list[mx.array]]:
        """The arrays of each rank, by rank. Their number, shapes and formats may differ."""
        if self.size == 1:
            return [[*arrays]]
        kinds = [(str(array.dtype), array.shape) for array in arrays]
        mine = [array.reshape(-1).view(mx.uint8) for array in arrays if array.size]
        told = self.all_texts(json.dumps(kinds))
        rows = self._all_bytes(mx.concatenate([mx.zeros(0, mx.uint8), *mine]))
        return [_unpacked(row, json.loads(text)) for row, text in zip(rows, told, strict=True)]

    def _all_bytes(self, data: mx.array) -> list[mx.array]:
        """The bytes [n] of each rank, by rank."""
        lengths = [int(length) for length in np.array(self.gathered(mx.array([data.size])))]
        padded = mx.pad(data, (0, max(lengths) - data.size))
        rows = self.gathered(padded[None])
        mx.eval(rows)
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def wait(self) -> None:
        """Go on when every rank has come here."""
        self.any(False)

    def same(self, tree: Any) -> Any:
        """Rank 0's tree of arrays, on every rank; all have trees of these shapes. Lazy."""
        mine = tree if self.rank == 0 else tree_map(mx.zeros_like, tree)
        return self.total(mine)

    def agree(self, facts: Mapping[str, str], *, hint: str = "") -> None:
        """Check that every rank has the same facts, by their names.

        Raises:
            RunError: they differ; on every rank, with the same words.
        """
        told = [json.loads(text) for text in self.all_texts(json.dumps(dict(facts)))]
        for rank, others in enumerate(told):
            for name in sorted({*told[0], *others}):
                here, there = told[0].get(name, "none"), others.get(name, "none")
                if here != there:
                    raise RunError(
                        f"{name} is {here} on {self.name(0)}, and {there} on {self.name(rank)}",
                        hint=hint,
                    )

    def leader(self, folder: Path) -> int:
        """The lowest rank that sees the same files in `folder`, which is made where it is not.

        Machines may share a disk or not; whether they do is found out by files, not by names.
        """
        if self.size == 1:
            return self.rank
        token = self.all_texts(secrets.token_hex(8))[0]
        marks = [f".rank-{token}-{rank}" for rank in range(self.size)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / marks[self.rank]).touch()
        self.wait()
        seen = set(os.listdir(folder))
        self.wait()
        (folder / marks[self.rank]).unlink()
        return next(rank for rank, mark in enumerate(marks) if mark in seen)

    def leads(self, folder: Path) -> bool:
        """Whether this rank is the one that writes to `folder`, for all that see the same files."""
        return self.leader(folder) == self.rank

    def once(self, folder: Path, work: Callable[[], object]) -> None:
        """Let the leader of `folder` do `work`, once for all that see the same files.

        The others sleep meanwhile: to wait for a message would take a core's time. All go on when
        every leader is done. `work` must leave `folder` where it is.
        """
        if self.size == 1:
            work()
            return
        leader = self.leader(folder)
        mark = f".done-{self.all_texts(secrets.token_hex(8))[0]}"
        if leader == self.rank:
            work()
            (folder / mark).touch()
        # To list the folder: a network disk may not notice a new file of a known name for a while.
        while mark not in os.listdir(folder):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self.wait()
        if leader == self.rank:
            (folder / mark).unlink()


ALONE = Ranks()


_apart: list[None] = []  # one for each `apart` that we are in


def joined() -> Ranks:
    """The ranks that this process was started as one of; alone where it was started by itself.

    Raises:
        RunError: it was to be one of several, and the others could not be reached.
    """
    return ALONE if _apart else _started()


@contextmanager
def apart() -> Iterator[None]:
    """Be alone for a while: for work that only one of the ranks does."""
    _apart.append(None)
    try:
        yield
    finally:
        _apart.pop()


@cache
def _started() -> Ranks:
    if RANKS in os.environ:
        return _join(Together.of(os.environ[RANKS]))
    if not any(name in os.environ for name in OTHER_LAUNCHERS):
        return ALONE  # to ask MLX would start MPI where there is one
    group = mx.distributed.init()
    return Ranks(group.rank(), group.size(), group) if group.size() > 1 else ALONE


def _join(told: Together) -> Ranks:
    """Meet the other ranks, all of which must come."""
    size = len(told.hosts)
    del os.environ[RANKS]  # or what this process starts would take itself for this rank
    if size == 1:
        return ALONE
    with tempfile.TemporaryDirectory(prefix="afm-ranks-") as folder:
        for variable, text in told.files.items():
            path = Path(folder, variable)
            path.write_text(text, encoding="utf-8")
            os.environ[variable] = str(path)
        try:
            with _time_limit(MEET_SECONDS):
                group = mx.distributed.init(strict=True, backend=told.backend)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the {size} ranks cannot meet: {error}") from None
        for variable in ("MLX_RANK", *told.files):
            os.environ.pop(variable, None)
    if group.size() != size:
        raise RunError(f"{size} ranks were started, and {group.size()} have met")
    return Ranks(group.rank(), size, group, told.hosts)


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Let the system end this process after so many seconds: Python could not, while MLX waits."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _messages(flat: list[tuple[str, mx.array]]) -> list[list[tuple[str, mx.array]]]:
    """Arrays in groups of one number format, each of about `MESSAGE_BYTES`, in their order."""
    groups: list[list[tuple[str, mx.array]]] = []
    room = 0
    for name, array in flat:
        if not groups or room < array.nbytes or groups[-1][0][1].dtype != array.dtype:
            groups.append([])
            room = MESSAGE_BYTES
        groups[-1].append((name, array))
        room -= array.nbytes
    return groups


def _unpacked(data: mx.array, kinds: Iterable[tuple[str, list[int]]]) -> list[mx.array]:
    """Arrays from their bytes [n], one behind the other; `kinds` are their formats and shapes."""
    arrays, start = [], 0
    for name, shape in kinds:
        dtype = FORMATS[name]
        end = start + math.prod(shape) * dtype.size
        # In memory of its own: a part of the message may not begin where its format must.
        part = mx.contiguous(data[start:end])
        arrays.append(part.view(dtype).reshape(shape) if end > start else mx.zeros(shape, dtype))
        start = end
    return arrays


@cache
def _scatters(group: Any) -> bool:
    """Whether MLX can sum and scatter in one: not with its ring (MLX 0.32.4)."""
    try:
        mx.eval(mx.distributed.sum_scatter(mx.zeros(group.size()), group=group))
    except RuntimeError:
        return False
    return True
