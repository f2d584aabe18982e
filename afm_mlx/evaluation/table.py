"""Scores as a table of text: a row for each stage or model, a column for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afm_mlx.evaluation.scores import Score


def score_table(results: Sequence[Mapping[str, Any]]) -> str:
    """The first score of each result with its interval, "none" where no item has one, in lines.

    Args:
        results: as `Result.to_json` makes them, with `stage` and `name` of the task where a recipe
            asked.
    """
    rows: dict[str, dict[str, str]] = {}
    for result in results:
        cell = next((str(Score(**score)) for score in result["scores"].values()), "none")
        row = rows.setdefault(result.get("stage") or result["model"], {})
        row[result.get("name") or result["task"]] = cell
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    first = max(len("scores"), *map(len, rows)) + 2
    widths = {
        name: max(len(name), *(len(row.get(name, "")) for row in rows.values())) for name in names
    }
    lines = ["scores".ljust(first) + "  ".join(name.rjust(widths[name]) for name in names)]
    for label, row in rows.items():
        cells = (row.get(name, "").rjust(widths[name]) for name in names)
        lines.append(label.ljust(first) + "  ".join(cells).rstrip())
    return "\n".join(lines)
