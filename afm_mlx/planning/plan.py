"""What a recipe costs on a machine: parameters, operations, memory, time, disk. Runs nothing.

Each number says how it came about, so that a wrong one can be argued with. No weights exist, and
MLX is needed only to measure the machine when that is `this` one. GB is 10**9 bytes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from afm_mlx.planning.cost import (
    WEIGHT_BYTES,
    Memory,
    cache_bytes_per_token,
    count_by_part,
    flops_per_token,
    state_bytes,
    training_memory,
)
from afm_mlx.planning.hardware import Hardware
from afm_mlx.recipe import Recipe

LARGEST_SHORT_VOCABULARY = 2**16  # ids up to here take two bytes in a shard, others four


@dataclass(frozen=True)
class StagePlan:
    """One pre-training stage on one machine."""

    stage: str
    tokens: int
    """Tokens of all its steps."""
    steps: int
    tokens_per_step: int
    row_tokens: int
    rows_per_step: int
    micro_rows: int
    flops: dict[str, float]
    """Operations of the whole stage, by part of the model."""
    memory: tuple[Memory, ...]
    allowed_bytes: int
    """Memory at which the run would stop: `watch.memory_fraction` of what a job may use."""
    advice: str
    """What to change so that it fits; empty if it does."""
    seconds: float
    """Time at the assumed utilization."""
    shard_bytes: int
    """Token shards on disk, if no text is read twice."""

    @property
    def peak_bytes(self) -> int:
        """Memory that the stage needs at most."""
        return sum(part.bytes for part in self.memory)

    @property
    def fits(self) -> bool:
        """Whether the peak is within what is allowed."""
        return self.peak_bytes <= self.allowed_bytes


@dataclass(frozen=True)
class Plan:
    """A recipe on one machine."""

    recipe: str
    hardware: Hardware
    parameters: dict[str, int]
    """By part; `total` is their sum."""
    stages: tuple[StagePlan, ...]
    checkpoint_bytes: int
    """A stage's finished model."""
    snapshot_bytes: int
    """What an interrupted run resumes from; two are kept."""
    cache_bytes_per_token: int
    """Keys and values of one token, float16."""
    max_tokens: int
    """Longest context of the finished model."""
    not_built_yet: tuple[str, ...]
    """Sections of the recipe that are not planned, because their stages do not exist yet."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        values = asdict(self)
        for values_of, stage in zip(values["stages"], self.stages, strict=True):
            values_of |= {"peak_bytes": stage.peak_bytes, "fits": stage.fits}
        return values


def plan_recipe(recipe: Recipe, hardware: Hardware) -> Plan:
    """The plan of all pre-training stages of a recipe."""
    parameters = count_by_part(recipe.shape)
    total = parameters["total"]
    states = state_bytes(recipe.shape, recipe.optimizer.name)
    stages = recipe.pretraining_stages()
    return Plan(
        recipe=recipe.name,
        hardware=hardware,
        parameters=parameters,
        stages=tuple(_plan_stage(recipe, stage, hardware) for stage in stages),
        checkpoint_bytes=WEIGHT_BYTES * total,
        snapshot_bytes=WEIGHT_BYTES * total + states,
        cache_bytes_per_token=cache_bytes_per_token(recipe.shape),
        max_tokens=(recipe.shape_of(stages[-1]) if stages else recipe.shape).max_tokens,
        not_built_yet=tuple(recipe.not_built_yet()),
    )


def _plan_stage(recipe: Recipe, stage: str, hardware: Hardware) -> StagePlan:
    section, shape, training = recipe.pretraining(stage), recipe.shape_of(stage), recipe.training
    tokens = section.steps * section.tokens_per_step
    per_token = flops_per_token(
        shape, section.row_tokens, recompute=training.activation_checkpointing
    )
    flops = {part: each * tokens for part, each in per_token.items()}
    allowed = int(recipe.watch.memory_fraction * hardware.usable_bytes)
    id_bytes = 2 if shape.vocab_size <= LARGEST_SHORT_VOCABULARY else 4
    return StagePlan(
        stage=stage,
        tokens=tokens,
        steps=section.steps,
        tokens_per_step=section.tokens_per_step,
        row_tokens=section.row_tokens,
        rows_per_step=section.rows_per_step,
        micro_rows=training.rows_at_once(section.rows_per_step),
        flops=flops,
        memory=training_memory(shape, section, training, recipe.optimizer.name, hardware),
        allowed_bytes=allowed,
        advice=_advice(recipe, stage, hardware, allowed),
        seconds=sum(flops.values()) / (hardware.flops * hardware.utilization),
        shard_bytes=id_bytes * tokens,
    )


def _advice(recipe: Recipe, stage: str, hardware: Hardware, allowed: int) -> str:
    """Settings with which a stage fits: most rows first, then recomputing, then shorter rows."""
    shape, section = recipe.shape_of(stage), recipe.pretraining(stage)
    training, optimizer = recipe.training, recipe.optimizer.name

    def peak(rows: int, recompute: bool, row_tokens: int) -> int:
        changed = training.model_copy(
            update={"micro_rows": rows, "activation_checkpointing": recompute}
        )
        shorter = section.model_copy(update={"row_tokens": row_tokens})
        parts = training_memory(shape, shorter, changed, optimizer, hardware)
        return sum(part.bytes for part in parts)

    asked, full = training.activation_checkpointing, section.row_tokens
    now = training.rows_at_once(section.rows_per_step)
    if peak(now, asked, full) <= allowed:
        return ""
    # The setting holds for all stages, so it divides the rows of each.
    common = math.gcd(*(recipe.pretraining(s).rows_per_step for s in recipe.pretraining_stages()))
    choices = [rows for rows in range(min(now, common), 0, -1) if common % rows == 0]
    tries = [(rows, recompute, full) for recompute in {asked, True} for rows in choices]
    tries.sort(key=lambda each: each[1])
    tries += [(1, True, full >> halvings) for halvings in range(1, full.bit_length() - 1)]
    for rows, recompute, row_tokens in tries:
        needed = peak(rows, recompute, row_tokens)
        if needed <= allowed:
            changes = [f"training.micro_rows={rows}"] if rows != now else []
            if recompute != asked:
                changes.append("training.activation_checkpointing=true")
            if row_tokens != full:
                changes.append(f"{stage}.row_tokens={row_tokens}")
            settings = " ".join(f"--set {change}" for change in changes)
            return f"{settings} needs {gigabytes(needed)} GB"
    fixed = sum(
        part.bytes
        for part in training_memory(shape, section, training, optimizer, hardware)
        if part.name in ("weights", "optimizer", "gradients", "compute copy")
    )
    return f"no setting is enough: weights, averages and gradients take {gigabytes(fixed)} GB"


def format_plan(plan: Plan) -> str:
    """The plan as plain text."""
    machine, total = plan.hardware, plan.parameters["total"]
    rate = machine.flops / 1e12
    lines = [
        f"model       {plan.recipe}, {total:,} parameters",
        f"hardware    {machine.described}; {gigabytes(machine.usable_bytes)} GB for one job",
        f"speed       {rate:,.3g} TFLOP/s ({machine.flops_source}) x {machine.utilization:g} "
        "(assumed, not measured)",
        "",
        "parameters",
        *(f"  {part:14}{count:>18,}" for part, count in plan.parameters.items()),
    ]
    for stage in plan.stages:
        lines += ["", *_stage_lines(stage, machine)]
    lines += [
        "",
        "disk and cache",
        _row("checkpoint", plan.checkpoint_bytes, f"{WEIGHT_BYTES} bytes x {total:,}"),
        _row("snapshot", plan.snapshot_bytes, "weights and averages; two are kept"),
        _row(
            "cache",
            plan.cache_bytes_per_token * plan.max_tokens,
            f"{plan.cache_bytes_per_token:,} bytes of float16 x {plan.max_tokens:,} tokens",
        ),
    ]
    if plan.not_built_yet:
        lines += ["", f"not planned, not built yet: {', '.join(plan.not_built_yet)}"]
    return "\n".join(lines)


def _stage_lines(stage: StagePlan, machine: Hardware) -> list[str]:
    total = sum(stage.flops.values())
    parts = " + ".join(f"{each / total:.0%} {part}" for part, each in stage.flops.items())
    rate = stage.tokens / stage.seconds
    limit = f"of {gigabytes(stage.allowed_bytes)} at which a run stops"
    return [
        f"{stage.stage}",
        f"  steps           {stage.steps:,} of {stage.tokens_per_step:,} tokens "
        f"({stage.rows_per_step:,} rows x {stage.row_tokens:,}): {stage.tokens:,} tokens",
        f"  operations      {total:.2e} FLOP: {parts}",
        f"  time            {duration(stage.seconds)} at {rate:,.0f} tokens/s",
        _row("shards", stage.shard_bytes, "on disk, if no text is read twice"),
        f"  {'memory':14}{'GB':>8}  how",
        *(_row(f"  {part.name}", part.bytes, part.how) for part in stage.memory),
        _row("  peak", stage.peak_bytes, limit + ("" if stage.fits else ": does not fit")),
        *([f"  hint            {stage.advice}"] if stage.advice else []),
    ]


def _row(name: str, count: int, how: str) -> str:
    return f"  {name:14}{gigabytes(count):>8}  {how}"


def duration(seconds: float) -> str:
    """Time in the largest fitting unit: `4.2 minutes`."""
    units = (("years", 365.25 * 86_400), ("days", 86_400), ("hours", 3_600), ("minutes", 60))
    for unit, size in units:
        if seconds >= size:
            value = seconds / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def gigabytes(count: float) -> str:
    """Bytes in units of 10**9, with the digits that are worth reading."""
    value = count / 1e9
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.4f}" if value < 0.1 else f"{value:,.2f}"
