"""A plan as plain text."""

from __future__ import annotations

from afm_mlx.planning.answers import Work
from afm_mlx.planning.cost import WEIGHT_BYTES
from afm_mlx.planning.examples import absent
from afm_mlx.planning.hardware import Hardware
from afm_mlx.planning.plan import Plan, TeacherPlan
from afm_mlx.planning.post_training import PostTrainingPlan
from afm_mlx.planning.pretraining import StagePlan
from afm_mlx.planning.units import duration, gigabytes


def format_plan(plan: Plan) -> str:
    """The plan as plain text."""
    machine, total = plan.hardware, plan.parameters["total"]
    rate = machine.flops / 1e12
    lines = [
        f"model       {plan.recipe}, {total:,} parameters",
        *_teacher_lines(plan.teacher),
        f"hardware    {machine.described}; {gigabytes(machine.usable_bytes)} GB for one job",
        f"speed       {rate:,.3g} TFLOP/s ({machine.flops_source}) x {machine.utilization:g} "
        "(assumed, not measured)",
        *(_bandwidth_lines(machine) if plan.post_training else []),
        "",
        "parameters",
        *(f"  {part:14}{count:>18,}" for part, count in plan.parameters.items()),
    ]
    for stage in plan.stages:
        lines += ["", *_stage_lines(stage, machine)]
    for after in plan.post_training:
        lines += ["", *_post_training_lines(after)]
    lines += [
        "",
        "disk and cache",
        _row("checkpoint", plan.checkpoint_bytes, f"{WEIGHT_BYTES} bytes x {total:,}"),
        _row("snapshot", plan.snapshot_bytes, "weights and averages; two are kept"),
        *(
            [_row("wide snapshot", plan.wide_snapshot_bytes, "of a stage that trains the teacher")]
            if plan.wide_snapshot_bytes
            else []
        ),
        _row(
            "cache",
            plan.cache_bytes_per_token * plan.max_tokens,
            f"{plan.cache_bytes_per_token:,} bytes of float16 x {plan.max_tokens:,} tokens",
        ),
    ]
    if plan.not_planned:
        lines += ["", f"not planned: {', '.join(plan.not_planned)}"]
    return "\n".join(lines)


def _teacher_lines(teacher: TeacherPlan | None) -> list[str]:
    if teacher is None:
        return []
    name = teacher.model or "trained here"
    if teacher.parameters is None:
        return [f"teacher     {name}, not planned: its shape is not known here"]
    return [f"teacher     {name}, {teacher.parameters:,} parameters"]


def _stage_lines(stage: StagePlan, machine: Hardware) -> list[str]:
    total = sum(stage.flops.values())
    seen = {part: each / total for part, each in stage.flops.items() if each > 0.005 * total}
    parts = " + ".join(f"{share:.0%} {part}" for part, share in seen.items())
    rate = stage.tokens / stage.seconds if stage.seconds else 0.0
    if stage.steps:
        work = (
            f"  steps           {stage.steps:,} of {stage.tokens_per_step:,} tokens "
            f"({stage.rows_per_step:,} rows x {stage.row_tokens:,}): {stage.tokens:,} tokens"
        )
    else:
        work = f"  reads           {stage.tokens:,} tokens in rows of {stage.row_tokens:,}, once"
    lines = [stage.stage, work]
    if total:
        lines += [
            f"  operations      {total:.2e} FLOP: {parts}",
            f"  time            {duration(stage.seconds)} at {rate:,.0f} tokens/s",
        ]
    lines.append(_row("shards", stage.shard_bytes, "on disk, if no text is read twice"))
    if stage.label_bytes:
        each = stage.label_bytes // stage.tokens
        lines.append(_row("labels", stage.label_bytes, f"on disk, {each} bytes x {stage.tokens:,}"))
    if stage.memory:
        lines += _memory_lines(stage)
    lines += [f"  note            {note}" for note in stage.notes]
    return lines + ([f"  hint            {stage.advice}"] if stage.advice else [])


def _bandwidth_lines(machine: Hardware) -> list[str]:
    rate = machine.bandwidth / 1e9
    return [
        f"bandwidth   {rate:,.3g} GB/s ({machine.bandwidth_source}) x "
        f"{machine.bandwidth_share:g} (assumed, not measured)"
    ]


def _post_training_lines(stage: PostTrainingPlan) -> list[str]:
    lines = [stage.stage]
    if stage.rounds:
        lines.append(f"  rounds          {stage.rounds:,}")
    if stage.steps:
        lines.append(f"  steps           {stage.steps:,}")
    if stage.of:
        lines.append(f"  length          depends on its data: {absent(stage.missing)}")
        lines.append(f"  here            {stage.of}")
    for name, tokens in (("trained", stage.trained_tokens), ("sampled", stage.sampled_tokens)):
        if tokens:
            lines.append(f"  {name:16}{tokens:,} tokens")
    lines.append(f"  {'work':17}{'tokens':>16}{'FLOP':>9}{'time':>13}  how")
    lines += [_work(each.name, f"{each.tokens:,}", each, each.how) for each in stage.work]
    if len(stage.work) > 1:
        lines.append(_work("together", "", stage, ""))
    return [
        *lines,
        *_memory_lines(stage),
        *(f"  assumes         {each}" for each in stage.assumptions),
        *(f"  note            {note}" for note in stage.notes),
        *([f"  hint            {stage.advice}"] if stage.advice else []),
    ]


def _work(name: str, tokens: str, cost: Work | PostTrainingPlan, how: str) -> str:
    numbers = f"{tokens:>16}{cost.flops:>9.2e}{duration(cost.seconds):>13}"
    return f"    {name:15}{numbers}  {how}".rstrip()


def _memory_lines(stage: StagePlan | PostTrainingPlan) -> list[str]:
    limit = f"of {gigabytes(stage.allowed_bytes)} at which a run stops"
    return [
        f"  {'memory':14}{'GB':>8}  how",
        *(_row(f"  {part.name}", part.bytes, part.how) for part in stage.memory),
        _row("  peak", stage.peak_bytes, limit + ("" if stage.fits else ": does not fit")),
    ]


def _row(name: str, count: int, how: str) -> str:
    return f"  {name:14}{gigabytes(count):>8}  {how}"
