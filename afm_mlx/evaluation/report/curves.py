"""Curves of training, from what the loop noted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from afm_mlx.evaluation.report import figures
from afm_mlx.evaluation.report.blocks import Curves, Line, table
from afm_mlx.evaluation.report.facts import Facts, number_at
from afm_mlx.evaluation.report.folders import Log, StageFolder

MOST_POINTS = 300
"""Points of a curve in a picture; of a longer one, neighbors are averaged. Ours."""

SHOWN_STEPS = 10
"""Steps of a curve that stand in its table, about. Ours."""

SHARE = "accuracy"
"""What is a share of 0 to 1 in the log."""

PER_SECOND = "_per_second"
"""Ends the name of what is counted, in a line of the log."""


@dataclass(frozen=True)
class Measure:
    """What is drawn of a log."""

    training: str
    held_out: str
    upward: str


MEASURES = (
    Measure("nll", "held_out_nats", "nats per token"),
    Measure(SHARE, "held_out_accuracy", "share of pairs told right"),
    Measure("reward", "held_out_reward", "reward"),
    Measure("loss", "held_out_loss", "loss"),
)
"""In this order: the first that a log has is drawn. The text's own nats before the objective, which
may hold a teacher's part; shares of pairs, since no held-out loss of them is measured."""


def title_of(stage: StageFolder, log: Log) -> str:
    """Name of a curve: its stage's, and the place in it."""
    return f"{stage.name}, {log.place}" if log.place else stage.name


def measure_of(logs: Sequence[Log]) -> Measure | None:
    """What can be drawn of these logs together."""
    for measure in MEASURES:
        if all(_points(log.lines, measure.training) for log in logs):
            return measure
    return None


def curves_of(stage: StageFolder) -> Iterator[Curves]:
    """Pictures of all that a stage trained."""
    for log in stage.logs:
        if picture := drawn([("", log)], title_of(stage, log)):
            yield picture


def drawn(runs: Sequence[tuple[str, Log]], title: str) -> Curves | None:
    """Curves of the same stage in one or two runs, which have a name then."""
    measure = measure_of([log for _, log in runs])
    if measure is None:
        return None
    lines, columns, merged = [], [], 1
    for number, (run, log) in enumerate(runs):
        for key, words in ((measure.training, "training"), (measure.held_out, "held out")):
            points = _points(log.lines, key)
            if not points:
                continue
            name = f"{run}, {words}" if run else words
            thinned, group = _thinned(points)
            merged = max(merged, group)
            held_out = key == measure.held_out
            lines.append(Line(name, thinned, run=number, marked=held_out))
            columns.append((name, dict(points)))
    steps = _shown([found for _, found in columns])
    rows = [
        [figures.count(step), *(_value(found, step, measure) for _, found in columns)]
        for step in steps
    ]
    numbers = table(
        ["step", *(name for name, _ in columns)], rows, words=0, title="Numbers", folded=True
    )
    assert numbers is not None  # each log has a training curve
    note = f"Each point is the mean of up to {merged:,} logged steps." if merged > 1 else ""
    share = measure.training == SHARE
    return Curves(title, "step", measure.upward, tuple(lines), numbers, share=share, note=note)


def speed(log: Log) -> tuple[str, float] | None:
    """What a log counts and the median of its speeds, per second."""
    last = log.lines[-1] if log.lines else {}
    for key in last:
        if key.endswith(PER_SECOND):
            found = [number_at(line, key) for line in log.lines]
            there = [value for value in found if value is not None]
            # The first steps warm up: compilation, caches.
            return key.removesuffix(PER_SECOND), median(there[1:] or there)
    return None


def both_curves(
    first: StageFolder, second: StageFolder, names: tuple[str, str]
) -> Iterator[Curves]:
    """Pictures with the curves of the same stage in two runs on the same axes."""
    others = {log.place: log for log in second.logs}
    for log in first.logs:
        if log.place in others:
            both = [(names[0], log), (names[1], others[log.place])]
            if picture := drawn(both, title_of(first, log)):
                yield picture


def _points(lines: Sequence[Facts], key: str) -> list[tuple[float, float]]:
    found = {}
    for line in lines:
        step, value = number_at(line, "step"), number_at(line, key)
        if step is not None and value is not None:
            found[step] = value
    return sorted(found.items())


def _thinned(points: list[tuple[float, float]]) -> tuple[tuple[tuple[float, float], ...], int]:
    """At most `MOST_POINTS`, each the mean of as many neighbors as is said with them."""
    group = -(-len(points) // MOST_POINTS)
    if group <= 1:
        return tuple(points), 1
    parts = [points[start : start + group] for start in range(0, len(points), group)]
    return tuple((fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts), group


def _shown(columns: Sequence[dict[float, float]]) -> list[float]:
    """Steps for the table: the first, the last, and some between, those with most values first."""
    every = sorted({step for column in columns for step in column})
    if len(every) <= SHOWN_STEPS:
        return every
    chosen = {every[0], every[-1]}
    for many in range(len(columns), 1, -1):
        alike = [step for step in every if sum(step in column for column in columns) == many]
        chosen |= set(_spread(alike, SHOWN_STEPS // 2 - len(chosen) + 2))
    return sorted(chosen | set(_spread(every, SHOWN_STEPS - len(chosen))))


def _spread(steps: Sequence[float], most: int) -> list[float]:
    """At most so many of them, at even distances, the last one among them."""
    if most < 1:
        return []
    if len(steps) <= most:
        return list(steps)
    return [steps[round((place + 1) * len(steps) / most) - 1] for place in range(most)]


def _value(found: dict[float, float], step: float, measure: Measure) -> str:
    value = found.get(step)
    if measure.training == SHARE:
        return figures.share(value)
    return figures.decimal(value)
