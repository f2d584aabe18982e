"""The same steps as tasks of datatrove, for its executors: one machine, Slurm, Ray.

    LocalPipelineExecutor([FilterShards(shards, out, steps)], tasks=64, workers=8)

Each task takes every n-th shard, and leaves out those that are finished. A step over the whole
corpus is three executors, each of which depends on the one before: `PrepareShards`, `DecideCorpus`
with tasks=1, and `FilterShards` with `after`. Shards, drops and counts are those of
`steps.run_steps`, byte for byte; but a record at which a process dies is not left out here: its
task fails each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from afm_mlx.corpus.record_shards import list_shards
from afm_mlx.corpus.steps import (
    DECIDED,
    PREPARED,
    CorpusStep,
    Filtering,
    Preparing,
    Step,
    claim_steps,
    clear_parts,
    decide,
    is_filtered,
    is_prepared,
)
from afm_mlx.errors import DataError

try:
    from datatrove.pipeline.base import PipelineStep
except ImportError as error:
    raise DataError(
        f"running steps on datatrove needs the package datatrove: {error}".lower(),
        hint="pip install 'afm-mlx[cluster]'",
    ) from None


class FilterShards(PipelineStep):  # type: ignore[misc]
    """Steps on records, over the shards of a folder."""

    name, type = "AFM steps", "FILTER"

    def __init__(
        self, shards: Path, out: Path, steps: Sequence[Step], after: CorpusStep | None = None
    ) -> None:
        super().__init__()
        self.shards, self.out = shards, out
        self.task = Filtering(tuple(steps), out, after)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Filter the shards of this rank that are not done. Gives no documents on.

        Raises:
            DataError: as `run_steps`.
        """
        yield from data or ()
        shards = list_shards(self.shards)
        claim_steps(shards, self.out, self.task.steps, self.task.after)
        work = self.task.open()
        mine = shards[rank::world_size]
        clear_parts(self.out, mine)
        for shard in mine:
            if not is_filtered(shard, self.out):
                counts = work(shard, lambda number: None, {})
                self.stat_update("in", value=counts["in"], unit="shard")
                self.stat_update("out", value=counts["out"], unit="shard")
                for rule, many in counts["dropped"].items():
                    self.stat_update(f"dropped.{rule}", value=many, unit="shard")


class PrepareShards(PipelineStep):  # type: ignore[misc]
    """First of a step over the whole corpus: what each shard contributes."""

    name, type = "AFM prepare", "DEDUP"

    def __init__(self, shards: Path, out: Path, step: CorpusStep) -> None:
        super().__init__()
        self.shards, self.out, self.step = shards, out, step

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Prepare the shards of this rank."""
        yield from data or ()
        if (self.out / DECIDED).exists():
            return
        work = Preparing(self.step, self.out).open()
        mine = list_shards(self.shards)[rank::world_size]
        clear_parts(self.out / PREPARED, mine)
        for shard in mine:
            if not is_prepared(shard, self.out):
                work(shard, lambda number: None, {})


class DecideCorpus(PipelineStep):  # type: ignore[misc]
    """Second: the decision over all shards; needs tasks=1."""

    name, type = "AFM decide", "DEDUP"

    def __init__(self, shards: Path, out: Path, step: CorpusStep) -> None:
        super().__init__()
        self.shards, self.out, self.step = shards, out, step

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Decide, on the first rank."""
        yield from data or ()
        shards = list_shards(self.shards)
        missing = [one.name for one in shards if not is_prepared(one, self.out)]
        if missing and not (self.out / DECIDED).exists():
            raise DataError(
                f"{len(missing):,} shards are not prepared, the first is {missing[0]}",
                hint="run PrepareShards before",
            )
        if rank == 0:
            decide(self.step, shards, self.out)
