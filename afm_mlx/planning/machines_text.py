"""A plan for several machines as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from afm_mlx.planning.machines import Answering, Link, MachinesPlan, StageOnMachines, Way
from afm_mlx.planning.units import gigabytes, short_duration


def machines_lines(plan: MachinesPlan) -> list[str]:
    """What several machines are good for."""
    lines = [
        f"on {plan.machines} machines, each as above; tokens/s by what connects them",
        *(
            f"  {link.name:20}{link.bytes_per_second / 1e9:5.3g} GB/s, "
            f"{link.latency * 1e6:,.0f} us: {link.source.partition(':')[0]}"
            for link in plan.links
        ),
        "  computing and messages one after the other (assumed, not measured)",
    ]
    for stage in plan.stages:
        lines += ["", *_stage_lines(stage, plan.links)]
    lines.append("")
    if plan.answering is None:
        return [*lines, f"answers on {plan.machines} machines: the model cannot be cut so"]
    return lines + _answering_lines(plan.answering, plan)


def _stage_lines(stage: StageOnMachines, links: Sequence[Link]) -> list[str]:
    head = "".join(f"{link.name:>21}" for link in links)
    lines = [
        f"{stage.stage:18}{'GB each':>10}{'computes':>10}{'sends GB':>10}{head}",
        *(_way_line(way, stage.ways[0], links) for way in stage.ways),
    ]
    if stage.not_possible:
        lines.append(f"  no tensor parallel: {stage.not_possible}")
    chosen = sorted(set(stage.best.values()) - {""}, key=[way.name for way in stage.ways].index)
    if not chosen:
        return [*lines, "  none of these fits: see the hints above"]
    for name in chosen:
        over = [link for link, best in stage.best.items() if best == name]
        how = next(way.how for way in stage.ways if way.name == name)
        lines.append(f"  best{f' over {_listed(over)}' if len(chosen) > 1 else ''}: {name}"
                     + (f", {how}" if how else ""))  # fmt: skip
    return lines


def _way_line(way: Way, alone: Way, links: Sequence[Link]) -> str:
    size = gigabytes(way.peak_bytes) + ("" if way.fits else "!")
    sent = gigabytes(way.sent_bytes) if way.sent_bytes else ""
    speeds = ""
    for link in links:
        speed = way.tokens_per_second[link.name]
        times = f" x{speed / alone.tokens_per_second[link.name]:.2f}"
        speeds += f"{speed:>15,.0f}{times:>6}" if way is not alone else f"{speed:>15,.0f}{'':6}"
    return (
        f"  {way.name:16}{size:>10}{short_duration(way.computing):>10}{sent:>10}{speeds}".rstrip()
    )


def _answering_lines(answering: Answering, plan: MachinesPlan) -> list[str]:
    head = "".join(f"{link.name:>21}" for link in plan.links)
    speeds = "".join(
        f"{answering.tokens_per_second[link.name]:>15,.0f}"
        f"{f' x{answering.tokens_per_second[link.name] / answering.alone:.2f}':>6}"
        for link in plan.links
    )
    weights = gigabytes(answering.weight_bytes)
    return [
        f"{'answers':18}{'GB each':>10}{'messages':>10}{'one alone':>10}{head}",
        f"  {'tensor parallel':16}{weights:>10}{answering.messages:>10}"
        f"{answering.alone:>10,.0f}{speeds}",
        f"  and {gigabytes(answering.cache_bytes)} GB of cache for a full context; messages are "
        "those of a token",
        f"  afm chat MODEL --hosts FILE, with {plan.machines} machines in it",
    ]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
