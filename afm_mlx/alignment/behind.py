"""Answers from the weights of one round before, so that some ranks sample while one trains.

Round r trains on answers of the policy with which round r - 1 began (round 1: its own), and its
objective's ratio is to that policy. So a round can be sampled while the one before is trained on:
rank 0 trains, and the others share the prompts. One rank alone does both in turn, from the same
weights and with the same result.

The weights with which a round began are kept in a file beside it, for a run that goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from afm_mlx.alignment.rounds import (
    Batch,
    Make,
    round_file,
    rounds_folder,
    told_batches,
    weights_file,
)
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.weights import write_file
from afm_mlx.ranks import ALONE, Ranks

DONE = 0
"""What samplers are told in place of a round's number when there is none left."""


class InTurn:
    """Rounds that one rank samples from a model of its own, before it trains on them."""

    def __init__(self, snapshots: Path, policy: Decoder, sampler: Decoder, make: Make) -> None:
        """`policy` is trained; `make` samples from `sampler`, a model of its shape."""
        self.kept = _Kept(rounds_folder(snapshots), policy)
        self.sampler, self.make_part = sampler, make

    def begins(self, number: int) -> None:
        """As `Source` says."""
        self.kept.begins(number)

    def make(self, number: int) -> list[Batch]:
        """As `Source` says."""
        self.sampler.update(self.kept.weights_for(number))
        return self.make_part(number, ALONE)

    def trains(self, number: int) -> None:
        """As `Source` says."""


class Trainer:
    """Rounds that the other ranks sample while this one, rank 0, trains."""

    def __init__(self, snapshots: Path, policy: Decoder, ranks: Ranks, *, rounds: int) -> None:
        """`rounds` is how many there are in all."""
        self.kept = _Kept(rounds_folder(snapshots), policy)
        self.ranks, self.rounds, self._asked = ranks, rounds, DONE

    def begins(self, number: int) -> None:
        """As `Source` says."""
        self.kept.begins(number)

    def make(self, number: int) -> list[Batch]:
        """As `Source` says."""
        self._ask(number)
        return told_batches([], self.ranks)

    def trains(self, number: int) -> None:
        """As `Source` says."""
        after = number + 1
        if after <= self.rounds and not round_file(self.kept.folder, after).exists():
            self._ask(after)

    def _ask(self, number: int) -> None:
        """Let the others sample a round, unless they do already."""
        if number != self._asked:
            self._asked, weights = number, self.kept.weights_for(number)
            _tell(self.ranks, number)
            _share(self.ranks, weights)

    def end(self, metrics: Mapping[str, Any]) -> None:
        """Tell the others what came of it all."""
        _tell(self.ranks, DONE)
        self.ranks.all_texts(json.dumps(metrics))
        _share(self.ranks, self.kept.policy.parameters())


def sample_for(ranks: Ranks, sampler: Decoder, make: Make) -> dict[str, Any]:
    """Sample rounds from `sampler`, with the other ranks but 0, until rank 0 has trained on all.

    Returns:
        The metrics of rank 0; `sampler` has its weights.
    """
    fellows = Ranks(ranks.rank - 1, ranks.size - 1)
    while number := _tell(ranks):
        sampler.update(_share(ranks, sampler.parameters()))
        told_batches(make(number, fellows), ranks)
    (told, *_) = ranks.all_texts("")
    trained: Any = tree_map(lambda each: mx.zeros(each.shape), sampler.parameters())
    sampler.update(_share(ranks, trained))
    metrics: dict[str, Any] = json.loads(told)
    return metrics


def _tell(ranks: Ranks, number: int = DONE) -> int:
    """Rank 0's number, on every rank."""
    return int(ranks.same(mx.array(number)).item())


def _share(ranks: Ranks, weights: Any) -> Any:
    """Rank 0's weights, on every rank; all have such of these shapes and formats."""
    flat: Any = tree_flatten(weights)
    names = sorted(name for name, _ in flat)  # one order on all: a file has another than a model
    arrays = dict(flat)
    shared = ranks.same([arrays[name] for name in names])
    mx.eval(shared)
    return tree_unflatten(list(zip(names, shared, strict=True)))


class _Kept:
    """Files of the weights with which rounds began."""

    def __init__(self, folder: Path, policy: Decoder) -> None:
        self.folder, self.policy = folder, policy

    def begins(self, number: int) -> None:
        """Keep the policy's weights."""
        file = weights_file(self.folder, number)
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.safetensors")
            flat: Any = tree_flatten(self.policy.parameters())
            write_file(part, dict(flat))
            part.replace(file)

    def weights_for(self, number: int) -> Any:
        """What a round is sampled from."""
        loaded: Any = mx.load(str(weights_file(self.folder, max(number - 1, 1))))
        return tree_unflatten(list(loaded.items()))
