"""The data card, as a part of the report."""

from __future__ import annotations

from typing import Any

from afm_mlx.evaluation.report import figures
from afm_mlx.evaluation.report.blocks import Block, Text, table
from afm_mlx.evaluation.report.facts import Facts, number_at, numbers, table_at, words_at
from afm_mlx.evaluation.report.folders import RunFolder


def data_blocks(run: RunFolder) -> list[Block | None]:
    """Sources, licenses, what was left out and why, and what the recipe made itself."""
    return [*(_card(run.card) if run.card else []), *_synthetic(run)]


def _card(card: Facts) -> list[Block | None]:
    sources = [source for source in _list(card.get("sources")) if isinstance(source, dict)]
    return [
        _summary(table_at(card, "total")),
        table(
            ["source", "kind", "license", "read", "documents", "text", "tokens", "held out"],
            (_source(source) for source in sources),
            words=3,
            title="Sources",
        ),
        table(
            ["source", "data set and commit"],
            ([words_at(each, "name"), str(each["hub"])] for each in sources if each.get("hub")),
            words=2,
            title="From the hub",
        ),
        _counted("Licenses", "license", card, "license_counts"),
        _counted("Languages", "language", card, "languages"),
        _counted("Source code", "language", card, "code_languages", folded=True),
        table(
            ["rule", "documents", "share of read"],
            (
                [
                    words_at(one, "rule"),
                    figures.count(number_at(one, "documents")),
                    figures.share(number_at(one, "share")),
                ]
                for one in _list(card.get("drops"))
            ),
            title="Left out by the filters",
        ),
        table(
            ["source", "reason", "documents"],
            (
                [words_at(source, "name"), reason, figures.count(many)]
                for source in sources
                for reason, many in numbers(source.get("skipped")).items()
            ),
            words=2,
            title="Skipped while reading",
        ),
        _duplicates(table_at(card, "duplicates")),
        _contamination(table_at(card, "contamination", "benchmarks")),
    ]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _summary(total: Facts) -> Text:
    documents, read, size, tokens = (
        number_at(total, name) for name in ("documents", "documents_read", "bytes", "tokens")
    )
    found = [
        f"{figures.count(documents)} documents",
        f"{figures.size(size)} of text",
        f"{figures.count(tokens)} tokens" if tokens else "",
    ]
    more = f"; of {figures.count(read)} documents read" if read != documents else ""
    return Text(f"{', '.join(filter(None, found))}{more}.")


def _source(source: Facts) -> list[str]:
    return [
        words_at(source, "name"),
        words_at(source, "kind"),
        ", ".join(map(str, _list(source.get("licenses")))) or "not stated",
        figures.count(number_at(source, "documents_read")),
        figures.count(number_at(source, "documents")),
        figures.size(number_at(source, "bytes")),
        figures.count(number_at(source, "tokens") or None),
        figures.count(number_at(source, "held_out_tokens") or None),
    ]


def _counted(title: str, kind: str, card: Facts, key: str, *, folded: bool = False) -> Block | None:
    """Documents by what they are; nothing where that was asked of none."""
    counts = numbers(table_at(card, "total", key))
    if not set(counts) - {""}:
        return None
    every = sum(counts.values())
    return table(
        [kind, "documents", "share"],
        (
            [name or "not stated", figures.count(many), figures.share(many / every)]
            for name, many in counts.items()
            if every
        ),
        title=title,
        folded=folded,
    )


def _duplicates(found: Facts) -> Block | None:
    return table(
        ["duplicates", "documents", "share"],
        (
            [
                f"{kind} ones",
                figures.count(number_at(found, f"{kind}_duplicates")),
                figures.share(number_at(found, f"{kind}_duplicate_rate")),
            ]
            for kind in ("exact", "near")
            if found
        ),
        title="Duplicates",
    )


def _contamination(benchmarks: Facts) -> Block | None:
    return table(
        ["benchmark", "items", "items found", "share", "documents dropped"],
        (
            [
                str(name),
                figures.count(number_at(one, "items")),
                figures.count(number_at(one, "items_found")),
                figures.share(number_at(one, "found_fraction")),
                figures.count(number_at(one, "documents")),
            ]
            for name, one in benchmarks.items()
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
