"""Several ranks that answer as one: rank 0 decides, and the others compute their parts with it.

Each rank has a part of every layer, see decoder/tensor_parallel.py, so all must make the same
passes. Before an answer, rank 0 tells what is read; each token is the one that rank 0 has chosen;
after each, it tells whether the answer goes on. So only rank 0 needs to know how an answer is
drawn, guided or ended, and ranks whose machines round differently do not come apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import import_mlx_lm
from afm_mlx.inference.choices import Sampler

if TYPE_CHECKING:
    import mlx.core as mx

    from afm_mlx.ranks import Ranks


class Lead:
    """What rank 0 tells the others while it answers. Alone, nothing is told."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def agree(self, model: Path) -> None:
        """Check that all ranks are to answer with the same model, and compute alike.

        Raises:
            RunError: they differ; on every rank, with the same words.
        """
        if self.ranks.size == 1:
            return
        from importlib.metadata import version

        from afm_mlx.decoder.base_hash import base_hash

        weights = {"the hash of the weights": base_hash(model)[:_SHOWN]}
        self.ranks.agree(weights, hint=f"copy '{model}' to every machine")
        self.ranks.agree({"the version of MLX": version("mlx")}, hint="install the same everywhere")

    def least(self, count: int) -> int:
        """The smallest that any rank has of something."""
        return min(int(each) for each in self.ranks.all_texts(str(count)))

    def tell(self, told: Mapping[str, Any] | None) -> None:
        """On rank 0: what the others are to do next; None: there is no more to do."""
        if self.ranks.size > 1:
            with _in_turn():
                self.ranks.all_texts("" if told is None else json.dumps(told))

    def hear(self) -> dict[str, Any] | None:
        """On the others: what rank 0 tells next. Waits for it, with a core at work."""
        with _in_turn():
            text = self.ranks.all_texts("")[0]
        return json.loads(text) if text else None

    def is_over(self, over: bool) -> bool:
        """Whether an answer is over, which rank 0 knows; to be asked by all after each token."""
        if self.ranks.size == 1:
            return over
        with _in_turn():
            return self.ranks.any(over)

    def chooser(self, sampler: Sampler) -> Sampler:
        """What chooses tokens on every rank as `sampler` does on rank 0."""
        if self.ranks.size == 1:
            return sampler
        first = int(self.ranks.rank == 0)

        def choose(logps: mx.array) -> mx.array:
            # The others multiply by zero: they must compute their part of what is chosen from.
            chosen: mx.array = self.ranks.total([sampler(logps) * first])[0]
            return chosen

        return choose


_SHOWN = 8  # digits of a hash in messages


@contextmanager
def _in_turn() -> Iterator[None]:
    """Exchange messages on the stream that mlx-lm generates on, and so in their order."""
    import mlx.core as mx

    with mx.stream(import_mlx_lm("mlx_lm.generate").generation_stream):
        yield
