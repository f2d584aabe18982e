"""Trains small decoders as one of several ranks: `python on_ranks.py JOBS OUT`, see test_ranks.py.

JOBS is a file with a list of `Job` tables, which are done one after the other. What was seen goes
to OUT with the rank's number behind it.
"""

import hashlib
import io
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import afm_mlx  # noqa: F401  # loads the BLAS before MLX

# isort: split
import mlx.core as mx
from mlx.utils import tree_flatten

from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.decoder.tensor_parallel import cut_decoder
from afm_mlx.progress import Progress
from afm_mlx.ranks import joined
from afm_mlx.settings.sections import Optimizer, Shape, Training, Watch
from afm_mlx.training.loop import Course, train
from afm_mlx.training.micro_batches import micro_batches
from afm_mlx.training.objectives import text_loss
from afm_mlx.training.optimizer import UpdateRule
from afm_mlx.training.sharding import layout_of, whole_decoder

SHAPE = Shape(
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=64,
    vocab_size=125,  # of which 2 and 4 are no divisors: cut along its other axis
    rope_base=10_000,
    norm_eps=1e-5,
    max_tokens=16,
)


@dataclass(frozen=True)
class Job:
    """A training run."""

    work: str
    shard: str = "none"
    rule: str = "afm"
    steps: int = 6
    rows: int = 8
    micro_rows: int | None = None
    checkpointing: bool = False
    stop_at: int = 0
    """Step in which the last rank is interrupted."""
    hidden_size: int = 32
    kv_heads: int = 2


class Watching(Progress):
    """Notes the memory that is held between steps."""

    def __init__(self) -> None:
        super().__init__(stream=io.StringIO())
        self.held: list[int] = []

    def status(self, line: str, *, last: bool = False) -> None:
        """Once a step."""
        self.held.append(mx.get_active_memory())


def run(job: Job) -> dict:
    """What was seen in a run."""
    ranks = joined()
    before = mx.get_active_memory()
    shape = SHAPE.model_copy(
        update={
            "hidden_size": job.hidden_size,
            "intermediate_size": 2 * job.hidden_size,
            "num_kv_heads": job.kv_heads,
        }
    )
    settings = Training(
        shard=job.shard,
        micro_rows=job.micro_rows,
        activation_checkpointing=job.checkpointing,
    )
    model = Decoder(shape)
    initialize(model, 0)
    if job.shard == "tensor" and ranks.size > 1:
        model = cut_decoder(model, ranks)
    layout = layout_of(model, settings)
    most_rows = settings.rows_at_once(job.rows)
    read = []

    def batches(step):
        if step == job.stop_at and ranks.rank == ranks.size - 1:
            os.kill(os.getpid(), signal.SIGINT)
        tokens = mx.random.randint(0, shape.vocab_size, (job.rows, 16), key=mx.random.key(step % 5))
        made = micro_batches(lambda rows: (tokens[rows],), job.rows, most_rows, layout.data)
        read.append([len(rows) for (rows,) in made])
        return made

    def loss(model, rows):
        return text_loss(model, rows, eos_id=0, settings=settings)

    Path(job.work).mkdir(parents=True, exist_ok=True)
    progress = Watching()
    found = {"rank": ranks.rank, "size": ranks.size, "job": asdict(job)}
    eps = 1e-30 if job.rule == "afm" else 1e-8
    try:
        outcome = train(
            model,
            loss,
            batches,
            UpdateRule(Optimizer(name=job.rule, eps=eps), hidden_size=shape.hidden_size),
            Course(
                steps=job.steps,
                lr=0.01,
                warmup_steps=2,
                final_lr_fraction=0.1,
                weight_decay=1e-4,
                most_skipped_steps=3,
            ),
            compute=mx.float32,
            work=Path(job.work),
            watch=Watch(log_every_steps=1),
            progress=progress,
            layout=layout,
        )
    except KeyboardInterrupt as stop:
        return found | {"stopped": str(stop)}
    weights = dict(tree_flatten(whole_decoder(model, shape, layout).parameters()))
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(memoryview(weights[name]))
    return (
        found
        | {
            "losses": outcome.losses,
            "weights": digest.hexdigest(),
            "whole_bytes": 3 * sum(each.nbytes for each in weights.values()),  # two of the rule
            "held_bytes": max(progress.held[1:-1], default=0) - before,
            "read": read[-1] if read else [],
        }
    )


if __name__ == "__main__":
    jobs, out = map(Path, sys.argv[1:])
    seen = [run(Job(**table)) for table in json.loads(jobs.read_text())]
    Path(f"{out}{joined().rank}").write_text(json.dumps(seen))
