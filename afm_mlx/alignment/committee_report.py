"""Rounds of a committee in words: for the terminal, and as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def told(found: Mapping[str, Any]) -> str:
    """A round in a few lines."""
    held_out = found["held_out"]
    width = max(map(len, held_out["members"]))
    lines = [
        f"  {name:{width}}  {facts['worth']:6.1%}, {facts['to_start']:7.3f} nats from the start"
        for name, facts in held_out["members"].items()
    ]
    return "\n".join(
        [*lines, f"  {'picked':{width}}  {held_out['picked_by_reward']:6.1%} by the reward model"]
    )


def report(rounds: Sequence[Mapping[str, Any]]) -> str:
    """All rounds in Markdown: who won, where, and what the members are worth."""
    parts = []
    for found in rounds:
        accuracy = found["reward_accuracy"]
        lines = [
            f"## Round {found['round']}",
            "",
            f"{found['comparisons']:,} comparisons; the reward model tells "
            f"{'' if accuracy is None else f'{accuracy:.1%} of '}held-out ones right. "
            f"{found['picked']:,} prompts have a picked answer, {found['pairs']:,} a pair.",
            "",
            "Whose answers were picked:",
            "",
            picks_table(found["committee"], found["picks"]),
            "",
            "On held-out prompts, sampled at temperature 1:",
            "",
            "| model | worth | ended | reward | nats from the start |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, facts in found["held_out"]["members"].items():
            lines.append(
                f"| {name} | {facts['worth']:.1%} | {facts['finished']:.1%} | "
                f"{facts['reward']:.3f} | {facts['to_start']:.3f} |"
            )
        together = found["held_out"]["picked_by_reward"]
        lines += [
            f"| picked among all by the reward model | {together:.1%} | | | |",
            "",
            f"Next committee: {', '.join(found['next'])}.",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def picks_table(members: Sequence[str], picks: Mapping[str, Mapping[str, int]]) -> str:
    """Who won, where: a table in Markdown."""
    names = [*members, "nobody"]
    lines = ["| prompts | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    total: Counter[str] = Counter()
    for where, counts in picks.items():
        total.update(counts)
        lines.append(f"| {where} | " + " | ".join(str(counts.get(n, 0)) for n in names) + " |")
    if len(picks) > 1:
        lines.append("| all | " + " | ".join(str(total.get(name, 0)) for name in names) + " |")
    return "\n".join(lines)
