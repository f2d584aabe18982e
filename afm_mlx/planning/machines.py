"""What a recipe costs on several machines of one kind: memory on each, and what they send.

Arithmetic of three ways to share the work. Nothing overlaps here: a step takes the time of its
computing, then of its messages. No two Macs have been measured by us.

Sources of links. OM: jundot/omlx, pull request 3118, between an M3 Ultra and an M5 Max: 6.1 to 6.5
GB/s and 27 to 31 us. TB: swellweb/targetBridge, issue 110: 20 Gbit/s of TCP over a link of 40. JG:
jeffgeerling.com, "1.5 TB of VRAM on Mac Studio": 300 us over TCP. EX: exo-explore/exo, issue 2295:
0.38 to 0.95 ms there and back over Thunderbolt's bridge, which agrees. All read in 2026.

Shapes. N machines, P parameters, T tokens of a micro-batch, L layers, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afm_mlx.decoder.parts import part_shape
from afm_mlx.errors import ModelError
from afm_mlx.planning.cost import (
    WEIGHT_BYTES,
    Memory,
    cache_bytes_per_token,
    count_by_part,
    flops_per_token,
    training_memory,
)
from afm_mlx.planning.hardware import Hardware
from afm_mlx.recipe import Recipe
from afm_mlx.settings.sections import Pretraining, Shape

MESSAGE_BYTES = 32 * 2**20
"""Gradients are added up in messages of this size, `ranks.MESSAGE_BYTES`."""

SUMS_OF_A_LAYER = 4
"""Of tensor parallelism in training: after attention and feed-forward, and in the backward pass."""

SUMS_AGAIN = 1
"""More of them where a block is computed again: attention's; nothing needs the last one twice."""


@dataclass(frozen=True)
class Link:
    """What connects the machines, each with its neighbours."""

    name: str
    backend: str
    """Who carries messages: "jaccl" or "ring"."""
    bytes_per_second: float
    latency: float
    """Seconds until a small message has arrived at a neighbour."""
    source: str
    """Where both are from, in words; letters are those of this file's head."""

    def seconds(self, sent: float, messages: int, machines: int) -> float:
        """Time of messages to all.

        JACCL reaches every machine at once; a ring goes round, once to add up and once to tell.

        Args:
            sent: bytes that each machine sends in them.
            messages: how many there are.
            machines: N.
        """
        hops = 1 if self.backend == "jaccl" else 2 * (machines - 1)
        return messages * hops * self.latency + sent / self.bytes_per_second


LINKS = (
    Link(
        "Thunderbolt 5, RDMA",
        "jaccl",
        6.1e9,
        31e-6,
        "others' measurement: OM",
    ),
    Link(
        "Thunderbolt, TCP",
        "ring",
        2.5e9,
        300e-6,
        "others' measurements: TB of Thunderbolt 3 and 4, JG, EX",
    ),
    Link(
        "Ethernet, 10 Gbit/s",
        "ring",
        1.18e9,
        300e-6,
        "its rate without the headers of TCP; latency assumed, that of TCP over Thunderbolt",
    ),
)
"""What Macs are connected with. Rates in one direction, of one cable between two."""


@dataclass(frozen=True)
class Way:
    """One way to share a training stage among machines."""

    name: str
    how: str
    """What to type; empty: it is what happens."""
    peak_bytes: int
    """Memory that each machine needs at most."""
    fits: bool
    computing: float
    """Seconds of a step without messages."""
    sent_bytes: float
    """Bytes that each machine sends in a step."""
    messages: int
    """Messages of a step that all wait for."""
    tokens_per_second: dict[str, float]
    """By link."""


@dataclass(frozen=True)
class StageOnMachines:
    """A training stage on one machine, and on several."""

    stage: str
    ways: tuple[Way, ...]
    """One machine alone first."""
    best: dict[str, str]
    """By link: the fastest way of those that fit; "" where none does."""
    not_possible: str
    """Why there is no tensor parallelism; empty where there is."""


@dataclass(frozen=True)
class Answering:
    """Answers of the finished model, one at a time."""

    weight_bytes: int
    """Weights on each machine, in the compute format."""
    cache_bytes: int
    """Keys and values of a full context on each machine, float16."""
    messages: int
    """Of a token."""
    alone: float
    """Tokens per second of one machine that holds all of it."""
    tokens_per_second: dict[str, float]
    """By link."""


@dataclass(frozen=True)
class MachinesPlan:
    """A recipe on several machines."""

    machines: int
    links: tuple[Link, ...]
    stages: tuple[StageOnMachines, ...]
    answering: Answering | None
    """None: the model cannot be cut among so many."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        return asdict(self)


def plan_machines(
    recipe: Recipe, hardware: Hardware, machines: int, *, backend: str = ""
) -> MachinesPlan:
    """How the pre-training stages of a recipe and its answers go on several machines.

    Args:
        recipe: the recipe.
        hardware: each machine.
        machines: N, above 1.
        backend: who carries messages; empty: all links are looked at.
    """
    carrier = backend.partition("-")[0]
    links = tuple(link for link in LINKS if carrier in ("", link.backend))
    stages = recipe.pretraining_stages()
    last = recipe.shape_of(stages[-1]) if stages else recipe.shape
    return MachinesPlan(
        machines,
        links,
        tuple(_stage(recipe, hardware, stage, machines, links) for stage in stages),
        _answering(last, hardware, machines, links),
    )


def data_parallel_bytes(shape: Shape, machines: int) -> float:
    """Bytes that each machine sends in a step: gradients, float32, added up in a ring."""
    return 2 * (machines - 1) / machines * WEIGHT_BYTES * count_by_part(shape)["total"]


def fully_sharded_bytes(
    shape: Shape, machines: int, *, compute_bytes: int, micro_batches: int, again: bool, ring: bool
) -> float:
    """Bytes that each machine sends in a step: weights gathered, gradients added up and cut.

    For each micro-batch. Weights go in the compute format, twice where blocks are computed again;
    gradients in float32, and twice over MLX's ring, which has no sum that is cut (0.32.4).
    """
    gathers = (2 if again else 1) * compute_bytes
    sums = (2 if ring else 1) * WEIGHT_BYTES
    share = (machines - 1) / machines
    return micro_batches * share * (gathers + sums) * count_by_part(shape)["total"]


def tensor_parallel_bytes(
    shape: Shape, machines: int, *, tokens: int, compute_bytes: int, again: bool
) -> float:
    """Bytes that each machine sends in a step: sums of the stream, T x D, in every layer."""
    sums = shape.num_layers * (SUMS_OF_A_LAYER + (SUMS_AGAIN if again else 0))
    return 2 * (machines - 1) / machines * sums * tokens * shape.hidden_size * compute_bytes


@dataclass(frozen=True)
class _Rows:
    """A machine's share of a step's rows."""

    row_tokens: int
    rows_per_step: int


def _stage(
    recipe: Recipe, hardware: Hardware, stage: str, machines: int, links: Sequence[Link]
) -> StageOnMachines:
    shape, section, settings = recipe.shape_of(stage), recipe.pretraining(stage), recipe.training
    again, size = settings.activation_checkpointing, hardware.compute_bytes
    allowed = int(recipe.watch.memory_fraction * hardware.usable_bytes)
    rows = _Rows(section.row_tokens, -(-section.rows_per_step // machines))
    micro_batches = -(-section.rows_per_step // settings.rows_at_once(section.rows_per_step))
    shared_batches = -(-rows.rows_per_step // settings.rows_at_once(rows.rows_per_step))
    layers = shape.num_layers

    def memory(shape: Shape, rows: Pretraining | _Rows) -> tuple[Memory, ...]:
        return training_memory(shape, rows, settings, recipe.optimizer.name, hardware)

    def seconds(shape: Shape, rows: int) -> float:
        per_token = sum(flops_per_token(shape, section.row_tokens, recompute=again).values())
        rate = hardware.flops * hardware.utilization
        return per_token * rows * section.row_tokens / rate

    def way(
        name: str, how: str, peak: int, computing: float, sent: dict[str, float], messages: int
    ) -> Way:
        speeds = {
            link.name: section.tokens_per_step
            / (computing + link.seconds(sent[link.backend], messages, machines))
            for link in links
        }
        most = max((sent[link.backend] for link in links), default=0.0)
        return Way(name, how, peak, peak <= allowed, computing, most, messages, speeds)

    nothing = dict.fromkeys(("jaccl", "ring"), 0.0)
    shared = seconds(shape, rows.rows_per_step)
    gradients = data_parallel_bytes(shape, machines)
    ways = [
        way("one machine", "", _sum(memory(shape, section)), seconds(shape, section.rows_per_step),
            nothing, 0),
        way("data parallel", "", _sum(memory(shape, rows)), shared,
            dict.fromkeys(nothing, gradients),
            math.ceil(WEIGHT_BYTES * count_by_part(shape)["total"] / MESSAGE_BYTES)),
        way("fully sharded", "--set training.shard=full",
            _sum(_sharded(memory(shape, rows), shape, machines, size, again=again)), shared,
            {
                backend: fully_sharded_bytes(
                    shape, machines, compute_bytes=size, micro_batches=shared_batches,
                    again=again, ring=backend == "ring",
                )
                for backend in nothing
            },
            shared_batches * (layers + 1) * (3 if again else 2)),
    ]  # fmt: skip
    not_possible = ""
    try:
        part = part_shape(shape, machines)
    except ModelError as error:
        not_possible = str(error)
    else:
        tokens = section.tokens_per_step
        sent = tensor_parallel_bytes(
            shape, machines, tokens=tokens, compute_bytes=size, again=again
        )
        sums = layers * (SUMS_OF_A_LAYER + (SUMS_AGAIN if again else 0))
        ways.append(
            way("tensor parallel", "--set training.shard=tensor", _sum(memory(part, section)),
                seconds(part, section.rows_per_step), dict.fromkeys(nothing, sent),
                micro_batches * sums)
        )  # fmt: skip
    best = {link.name: _fastest(ways, link.name) for link in links}
    return StageOnMachines(stage, tuple(ways), best, not_possible)


def _sharded(
    memory: Sequence[Memory], shape: Shape, machines: int, compute_bytes: int, *, again: bool
) -> list[Memory]:
    """Memory of a stage whose weights, averages and gradients are cut.

    The compute copy is of what is gathered: all of it, or two blocks and the rest where blocks are
    computed again.
    """
    counts = count_by_part(shape)
    blocks = counts["attention"] + counts["feed-forward"]
    gathered = counts["total"]
    if again:
        gathered -= blocks - 2 * blocks // shape.num_layers
    cut = ("weights", "optimizer", "gradients")
    return [
        *(
            Memory(each.name, -(-each.bytes // machines), f"a {machines}th")
            if each.name in cut
            else each
            for each in memory
            if each.name != "compute copy"
        ),
        Memory("gathered", compute_bytes * gathered, f"{compute_bytes} bytes x {gathered:,}"),
    ]


def _answering(
    shape: Shape, hardware: Hardware, machines: int, links: Sequence[Link]
) -> Answering | None:
    try:
        part = part_shape(shape, machines)
    except ModelError:
        return None
    size, rate = hardware.compute_bytes, hardware.bandwidth * hardware.bandwidth_share
    read, whole = (size * count_by_part(each)["total"] for each in (part, shape))
    messages = 2 * shape.num_layers + 2  # and the token, and whether it was the last one
    share = 2 * (machines - 1) / machines
    sent = share * 2 * shape.num_layers * shape.hidden_size * size
    speeds = {
        link.name: 1 / (read / rate + link.seconds(sent, messages, machines)) for link in links
    }
    cache = cache_bytes_per_token(part) * shape.max_tokens
    return Answering(read, cache, messages, rate / whole, speeds)


def _fastest(ways: Sequence[Way], link: str) -> str:
    fitting = [way for way in ways if way.fits]
    return max(fitting, key=lambda way: way.tokens_per_second[link]).name if fitting else ""


def _sum(memory: Sequence[Memory]) -> int:
    return sum(part.bytes for part in memory)
