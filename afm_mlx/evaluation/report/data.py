"""The data card, as a part of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afm_mlx.corpus.card import Card
from afm_mlx.evaluation.report import figures
from afm_mlx.evaluation.report.blocks import Block, Text, table
from afm_mlx.evaluation.report.facts import Facts, number_at, numbers, words_at
from afm_mlx.evaluation.report.folders import RunFolder


def data_blocks(run: RunFolder) -> list[Block | None]:
    """Sources, licenses, what was left out and why, and what the recipe made itself."""
    return [*(_card(run.card) if run.card else []), *_synthetic(run)]


def _card(card: Card) -> list[Block | None]:
    total = card["total"]
    tokens = f", {total['tokens']:,} tokens" if total["tokens"] else ""
    read = f"; of {total['documents_read']:,} documents read"
    return [
        Text(
            f"{total['documents']:,} documents, {figures.size(total['bytes'])} of text{tokens}"
            f"{read if total['documents_read'] != total['documents'] else ''}."
        ),
        table(
            ["source", "kind", "license", "read", "documents", "text", "tokens", "held out"],
            (
                [
                    source["name"],
                    source["kind"],
                    ", ".join(source["licenses"]) or "not stated",
                    figures.count(source["documents_read"]),
                    figures.count(source["documents"]),
                    figures.size(source["bytes"]),
                    figures.count(source["tokens"]),
                    figures.count(source["held_out_tokens"]),
                ]
                for source in card["sources"]
            ),
            words=3,
            title="Sources",
        ),
        table(
            ["source", "data set and commit"],
            ([each["name"], str(each["hub"])] for each in card["sources"] if each["hub"]),
            words=2,
            title="From the hub",
        ),
        _counted("Licenses", "license", total["license_counts"]),
        _counted("Languages", "language", _known(total["languages"])),
        _counted("Source code", "language", total["code_languages"], folded=True),
        table(
            ["rule", "documents", "share of read"],
            (
                [one["rule"], figures.count(one["documents"]), figures.share(one["share"])]
                for one in card["drops"]
            ),
            title="Left out by the filters",
        ),
        table(
            ["source", "reason", "documents"],
            (
                [source["name"], reason, figures.count(many)]
                for source in card["sources"]
                for reason, many in source["skipped"].items()
            ),
            words=2,
            title="Skipped while reading",
        ),
        _duplicates(card["duplicates"]),
        _contamination(card["contamination"]),
    ]


def _known(languages: Mapping[str, int]) -> Mapping[str, int]:
    """Nothing where languages were not asked for."""
    return languages if set(languages) - {""} else {}


def _counted(
    title: str, kind: str, counts: Mapping[str, int], *, folded: bool = False
) -> Block | None:
    every = sum(counts.values())
    return table(
        [kind, "documents", "share"],
        (
            [name or "not stated", figures.count(many), figures.share(many / max(every, 1))]
            for name, many in counts.items()
        ),
        title=title,
        folded=folded,
    )


def _duplicates(found: Mapping[str, Any]) -> Block | None:
    if not found:
        return None
    return table(
        ["duplicates", "documents", "share"],
        [
            [
                kind.replace("_", " ") + "s",
                figures.count(number_at(found, f"{kind}s")),
                figures.share(number_at(found, f"{kind}_rate")),
            ]
            for kind in ("exact_duplicate", "near_duplicate")
        ],
        title="Duplicates",
    )


def _contamination(found: Mapping[str, Any]) -> Block | None:
    if not found:
        return None
    return table(
        ["benchmark", "items", "items found", "share", "documents dropped"],
        (
            [
                name,
                figures.count(one["items"]),
                figures.count(one["items_found"]),
                figures.share(one["found_fraction"]),
                figures.count(one["documents"]),
            ]
            for name, one in found["benchmarks"].items()
        ),
        title="Texts of benchmarks in the data",
    )


def _synthetic(run: RunFolder) -> list[Block | None]:
    return [
        table(
            ["generated", "kind", "dropped", "records", "candidates"],
            ([name, *_made(facts)] for name, facts in run.synthetic.items()),
            words=3,
            title="Made by the recipe itself",
        )
    ]


def _made(facts: Facts) -> list[str]:
    dropped = numbers(facts.get("dropped"))
    return [
        words_at(facts, "kind"),
        ", ".join(f"{figures.count(many)} {reason}" for reason, many in dropped.items()),
        figures.count(number_at(facts, "kept")),
        figures.count(number_at(facts, "candidates")),
    ]
