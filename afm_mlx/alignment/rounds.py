"""The rounds of a run of reinforcement learning: who makes them, and the files that keep them.

A round is a function of the seed, its number, and the weights that its answers were sampled from.
An interrupted run may go on in the middle of a round, when those weights are gone: so a round is a
file, written whole before its first step, and kept as long as a snapshot may need it.

Several ranks share a round's prompts. Nothing in it but the order of the answers depends on other
prompts, so each rank samples and scores its own, and tells the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from afm_mlx.alignment.logps import PackedAnswers
from afm_mlx.alignment.rollouts import PACKED, Scored
from afm_mlx.decoder.weights import write_file
from afm_mlx.errors import RunError
from afm_mlx.ranks import ALONE, Ranks

Batch = tuple[mx.array, ...]
"""A micro-batch of `rollouts.round_loss`."""

Make = Callable[[int, Ranks], list[Batch]]
"""From a round's number, and the ranks that share it, to this rank's part of it."""


class Source(Protocol):
    """Who makes rounds. A run enters one after the other, and may begin in the middle of one."""

    def begins(self, number: int) -> None:
        """A round begins: the policy has the weights that its first step starts from."""

    def make(self, number: int) -> list[Batch]:
        """The whole round, the same on every rank that trains."""

    def trains(self, number: int) -> None:
        """The round is in its file, and is trained on next."""


class OnPolicy:
    """Rounds that are sampled from the weights with which they begin, by all ranks."""

    def __init__(self, make: Make, *, ranks: Ranks, prepare: Callable[[], None]) -> None:
        """All `ranks` call `prepare` before they make a round together."""
        self.make_part, self.ranks, self.prepare = make, ranks, prepare

    def begins(self, number: int) -> None:
        """As `Source` says."""

    def make(self, number: int) -> list[Batch]:
        """As `Source` says."""
        self.prepare()
        return told_batches(self.make_part(number, self.ranks), self.ranks)

    def trains(self, number: int) -> None:
        """As `Source` says."""


class Rounds:
    """The rounds of a run, each in a file."""

    def __init__(
        self, snapshots: Path, source: Source, *, updates: int, ranks: Ranks = ALONE
    ) -> None:
        """Rounds of `updates` steps each, for all `ranks` that train.

        They are kept among the run's snapshots, and go with them when the run is done.
        """
        self.snapshots, self.folder = snapshots, rounds_folder(snapshots)
        self.source, self.ranks, self.updates = source, ranks, updates
        self._number, self._batches = 0, list[Batch]()

    def of_step(self, step: int) -> list[Batch]:
        """Micro-batches of an optimizer step, counted from 1.

        Raises:
            RunError: the step is in the middle of a round whose file is missing or damaged.
        """
        number, place = divmod(step - 1, self.updates)
        number += 1
        if number != self._number:
            file = round_file(self.folder, number)
            if not place:
                self.source.begins(number)
            if self.ranks.any(not file.exists()):
                if place:
                    raise RunError(
                        f"{file} is missing, and step {step:,} needs it",
                        hint=f"delete {self.snapshots} to begin anew",
                    )
                batches = self.source.make(number)
                self.folder.mkdir(parents=True, exist_ok=True)
                # Also where it is there, of an earlier process: it may have had other ranks.
                self.ranks.once(self.folder, lambda: self._write(file, number, batches))
            # Also what was just made: a run that goes on reads the same.
            self._number, self._batches = number, _read_batches(file)
            self.source.trains(number)
        return self._batches

    def _write(self, file: Path, number: int, batches: Sequence[Batch]) -> None:
        """Write a round, and delete what neither a snapshot nor the next step needs."""
        names = (path.name for path in self.snapshots.glob("step-*[0-9]"))
        steps = [int(name.removeprefix("step-")) for name in names]
        oldest = min((step // self.updates + 1 for step in steps), default=number)
        for older in range(1, oldest):
            round_file(self.folder, older).unlink(missing_ok=True)
            if older < oldest - 1:  # round `oldest` may be sampled from the one before
                weights_file(self.folder, older).unlink(missing_ok=True)
        _write_batches(file, batches)


def rounds_folder(snapshots: Path) -> Path:
    """Where rounds are, among a run's snapshots."""
    return snapshots / "rounds"


def round_file(folder: Path, number: int) -> Path:
    """File of a round."""
    return folder / f"round-{number:06d}.safetensors"


def weights_file(folder: Path, number: int) -> Path:
    """File of the weights with which a round began, where they are kept."""
    return folder / f"policy-{number:06d}.safetensors"


def told_batches(own: Sequence[Batch], ranks: Ranks) -> list[Batch]:
    """The micro-batches of all ranks, in their order, from this one's."""
    told = ranks.all_arrays([array for batch in own for array in batch])
    size = PACKED + len(Scored._fields)
    return [
        tuple(arrays[start : start + size])
        for arrays in told
        for start in range(0, len(arrays), size)
    ]


def _write_batches(file: Path, batches: Sequence[Batch]) -> None:
    """Write micro-batches: after a crash the file is whole or not there."""
    # An empty array has no bytes to write; the stored tokens of sequence mode are such.
    arrays = {
        f"{number:05d}.{place:02d}": array
        for number, batch in enumerate(batches)
        for place, array in enumerate(batch)
        if array.size
    }
    part = file.with_suffix(".part.safetensors")
    write_file(part, arrays)
    part.replace(file)


def _read_batches(file: Path) -> list[Batch]:
    try:
        arrays: Any = mx.load(str(file))
        count = 1 + max(int(name.partition(".")[0]) for name in arrays)
        return [_batch(arrays, number) for number in range(count)]
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise RunError(f"{file} is damaged: {error}", hint="delete it and the snapshots") from error


def _batch(arrays: dict[str, mx.array], number: int) -> Batch:
    places = arrays[f"{number:05d}.{PackedAnswers._fields.index('places'):02d}"]
    empty = {"stored": mx.int32, "stored_old": mx.float32}
    fields = [*PackedAnswers._fields, *Scored._fields]
    return tuple(
        arrays[name]
        if (name := f"{number:05d}.{place:02d}") in arrays
        else mx.zeros((places.size, 0), empty[field])
        for place, field in enumerate(fields)
    )
