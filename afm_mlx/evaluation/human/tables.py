"""The results of people's grades as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afm_mlx.evaluation.human.study import Kind

UNNAMED = "(none)"
"""In place of a prompt's category that has no name."""


def tables(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines that say what `results` found."""
    yield from _head(found)
    if not found["grades"]:
        return
    if found["kind"] == Kind.PAIRS:
        for pair in found["pairs"]:
            if pair["cards"]:
                yield ""
                yield from _pair(pair)
    else:
        for answers in found["answers"]:
            if answers["cards"]:
                yield ""
                yield from _answers(answers)
    yield ""
    yield from _agreement(found)
    yield from _graders(found)
    if found["comments"]:
        yield f"{len(found['comments']):,} comments: --json FILE has them"


def _head(found: Mapping[str, Any]) -> Iterator[str]:
    what = "comparisons" if found["kind"] == Kind.PAIRS else "answers"
    yield (
        f"{found['graded_cards']:,} of {found['cards']:,} {what} graded, {found['grades']:,} "
        f"grades of {len(found['graders']):,} people; intervals are of 95 %"
    )


def _pair(pair: Mapping[str, Any]) -> Iterator[str]:
    first, second = pair["models"]
    head = [f"{first} against {second}", "win %", "tie %", "lose %", "prompts"]
    yield from _aligned([head, *_rows(pair)])


def _answers(answers: Mapping[str, Any]) -> Iterator[str]:
    head = [answers["model"], "good %", "poor %", "answers"]
    dimensions = [_row(_words(name), shares) for name, shares in answers["dimensions"].items()]
    yield from _aligned([head, *_rows(answers), ["by dimension", *[""] * 3], *dimensions])


def _rows(table: Mapping[str, Any]) -> list[list[str]]:
    groups = [_row(name or UNNAMED, shares) for name, shares in table["groups"].items()]
    return [_row("all", table["scores"]), *(groups if len(groups) > 1 else [])]


def _words(dimension: str) -> str:
    return dimension.replace("_", " ")


def _row(name: str, shares: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"  {name}", *map(_share, shares.values()), f"{next(iter(shares.values()))['n']:,}"]


def _share(share: Mapping[str, Any]) -> str:
    low, high = 100 * share["low"], 100 * share["high"]
    return f"{100 * share['value']:.1f} ({low:.1f} to {high:.1f})"


def _agreement(found: Mapping[str, Any]) -> Iterator[str]:
    agreement = found["agreement"]
    if found["kind"] == Kind.PAIRS:
        yield f"left side   won {_share(found['left_won'])} % of what was decided"
        if agreement["cards"]:
            yield (
                f"agreement   {agreement['equal']:.1%} equal on win, tie or lose, over "
                f"{agreement['cards']:,} cards of several graders; Krippendorff's alpha "
                f"{_alpha(agreement['alpha'])}, of strengths {_alpha(agreement['alpha_strength'])}"
            )
        return
    for name, each in agreement.items():
        if each["cards"]:
            yield (
                f"agreement   {_words(name)}: {each['equal']:.1%} equal over {each['cards']:,} "
                f"answers of several graders; Krippendorff's alpha {_alpha(each['alpha'])}"
            )


def _alpha(value: float | None) -> str:
    return "undefined (all said the same)" if value is None else f"{value:.2f}"


def _graders(found: Mapping[str, Any]) -> Iterator[str]:
    compares = found["kind"] == Kind.PAIRS
    head = ["grader", "graded", "skipped", *(["left %", "tie %", "right %"] if compares else [])]
    rows = [[*head, "seconds"]]
    for each in found["graders"]:
        sides = (
            [
                f"{100 * each[side] / max(each['graded'], 1):.0f}"
                for side in ("left", "tie", "right")
            ]
            if compares
            else []
        )
        median = each["median_seconds"]
        seconds = "" if median is None else f"{median:.0f}"
        rows.append(
            [f"  {each['name']}", f"{each['graded']:,}", f"{each['skipped']:,}", *sides, seconds]
        )
    yield ""
    yield from _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines: the first column to the left, the others to the right."""
    wide = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for first, *others in rows:
        cells = [first.ljust(wide[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, wide[1:], strict=True)]
        yield "  ".join(cells).rstrip()
