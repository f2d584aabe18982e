"""Two runs side by side: what was set differently, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain

from afm_mlx.evaluation.report import figures
from afm_mlx.evaluation.report.blocks import (
    Answer,
    Block,
    Cell,
    Problem,
    Ranges,
    Report,
    Samples,
    Text,
    parts_of,
    table,
)
from afm_mlx.evaluation.report.curves import both_curves
from afm_mlx.evaluation.report.facts import flat, number_at, table_at
from afm_mlx.evaluation.report.folders import RunFolder, StageFolder, State
from afm_mlx.evaluation.report.one import (
    MOST_PROMPTS,
    glance_rows,
    samples_of,
    stage_speed,
    subtitle,
    total_seconds,
)
from afm_mlx.evaluation.report.scores import (
    MEASURED,
    Score,
    as_range,
    as_words,
    columns_of,
    difference,
    is_safety,
    read_scores,
    score_cell,
    titled,
)
from afm_mlx.evaluation.report.sizes import model_sizes

NOT_SET = "not set"

Names = tuple[str, str]


def comparison_of(first: RunFolder, second: RunFolder) -> Report:
    """What differs between two runs, and what is alike in name."""
    runs = (first, second)
    names = names_of(first, second)
    glance = _glance(runs, names)
    found = [read_scores(run.scores) for run in runs]
    results = [[score for score in scores if not is_safety(score)] for scores in found]
    safety = [[score for score in scores if is_safety(score)] for scores in found]
    return Report(
        title=" and ".join(names),
        subtitle=subtitle(runs),
        head=(
            *([glance] if glance else []),
            *(
                Problem(f"{name}: {text}")
                for name, run in zip(names, runs, strict=True)
                for text in run.problems
            ),
        ),
        parts=parts_of(
            [
                ("What differs", [_settings(runs, names), _stages(runs, names)]),
                ("Scores", [*_scores(runs, names, results), *_measured(runs, names)]),
                ("Training", list(_curves(runs, names))),
                ("Answers side by side", list(_answers(runs, names))),
                ("Safety", _scores(runs, names, safety)),
                ("Size and bits", [_sizes(runs, names)]),
                ("Time, memory and speed", [_costs(runs, names)]),
            ]
        ),
    )


def names_of(first: RunFolder, second: RunFolder) -> Names:
    """Names that tell the runs apart: their own, else those of their folders, else numbers."""
    if first.name != second.name:
        return first.name, second.name
    folders = first.folder.resolve(), second.folder.resolve()
    if folders[0].name != folders[1].name:
        return folders[0].name, folders[1].name
    return f"{first.name} (1)", f"{second.name} (2)"


def _glance(runs: Sequence[RunFolder], names: Names) -> Block | None:
    first, second = (glance_rows(run) for run in runs)
    rows = ((name, one, two) for (name, one), (_, two) in zip(first, second, strict=True))
    return table(["", *names], [row for row in rows if row[1] or row[2]], words=3)


def _settings(runs: Sequence[RunFolder], names: Names) -> Block | None:
    """Settings of the stages that both have finished, where they differ."""
    shared = list(_shared(runs))
    one, two = (_all_settings([both[number] for both in shared]) for number in (0, 1))
    keys = [key for key in dict.fromkeys(chain(one, two)) if one.get(key) != two.get(key)]
    rows = [[key, one.get(key, NOT_SET), two.get(key, NOT_SET)] for key in keys]
    return table(["setting", *names], rows, words=3)


def _all_settings(stages: Sequence[StageFolder]) -> dict[str, str]:
    """Every setting with its values: several, where it changed between two stages."""
    found: dict[str, list[str]] = {}
    for stage in stages:
        for name, value in flat(table_at(stage.manifest, "settings")):
            words = value if isinstance(value, str) and value else json.dumps(value)
            if words not in (values := found.setdefault(name, [])):
                values.append(words)
    return {name: "; ".join(values) for name, values in found.items()}


def _stages(runs: Sequence[RunFolder], names: Names) -> Block | None:
    """Stages that only one of them has finished."""
    return _only(names, [[stage.name for stage in run.finished] for run in runs], "has")


def _scores(
    runs: Sequence[RunFolder], names: Names, scores: Sequence[Sequence[Score]]
) -> list[Block | None]:
    """Each score that both have and the difference, pictures of them, and who has others."""
    whole = [[score for score in each if not score.group] for each in scores]
    one, two = ({(s.task, s.metric, s.stage): s for s in each} for each in whole)
    stages = columns_of(runs[0], whole[0])
    tasks = list(dict.fromkeys((task, metric) for task, metric, _ in one))
    keys = sorted(
        (key for key in one if key in two),
        key=lambda key: (tasks.index(key[:2]), stages.index(key[2])),
    )
    rows: list[list[Cell | str]] = [
        [
            Cell(key[0], as_words(key[1])),
            key[2],
            *(score_cell(each[key]) for each in (one, two)),
            _gain(one[key], two[key]),
        ]
        for key in keys
    ]
    pictures: list[Block | None] = []
    for task, metric in tasks:
        both = [key for key in keys if key[:2] == (task, metric)]
        ranges = [
            as_range(each[key], f"{key[2]}, {name}", number)
            for key in both
            for number, (name, each) in enumerate(zip(names, (one, two), strict=True))
        ]
        if ranges:
            share = figures.is_share(metric)
            pictures.append(Ranges(titled(task, metric), tuple(ranges), share))
    numbers = table(["task", "stage", *names, "difference"], rows, words=2)
    asked = [
        list(dict.fromkeys(f"{task} ({stage})" for task, _, stage in each)) for each in (one, two)
    ]
    return [numbers, *pictures, _only(names, asked, "has scores of")]


def _only(names: Names, things: Sequence[Sequence[str]], has: str) -> Block | None:
    """What one of them has and the other has not."""
    said = []
    for name, mine, others in zip(names, things, reversed(things), strict=True):
        if more := [thing for thing in mine if thing not in others]:
            said.append(f"Only {name} {has} {', '.join(more)}.")
    return Text(" ".join(said)) if said else None


def _gain(first: Score, second: Score) -> Cell:
    """Second less first, with the interval of the difference."""

    def write(gain: float) -> str:
        return figures.gain(gain, first.value, first.metric)

    interval = difference(first, second)
    note = ""
    if interval is not None:
        note = figures.both(write(interval[1]), write(interval[2]))
    return Cell(write(second.value - first.value), note)


def _measured(runs: Sequence[RunFolder], names: Names) -> list[Block | None]:
    rows: list[list[Cell | str]] = []
    for measured in MEASURED:
        for one, two in _shared(runs):
            values = [number_at(stage.metrics, measured.metric) for stage in (one, two)]
            if not measured.of(one) or values[0] is None or values[1] is None:
                continue
            share = measured.write is figures.share
            gain = (figures.points if share else figures.signed)(values[1] - values[0])
            rows.append([measured.name, one.name, *map(measured.write, values), gain])
    return [table(["measured", "by", *names, "difference"], rows, words=2, title="Held out")]


def _shared(runs: Sequence[RunFolder]) -> Iterator[tuple[StageFolder, StageFolder]]:
    """Stages that both have finished, in the order of the first."""
    others = {stage.name: stage for stage in runs[1].finished}
    for stage in runs[0].finished:
        if stage.name in others:
            yield stage, others[stage.name]


def _curves(runs: Sequence[RunFolder], names: Names) -> Iterator[Block]:
    others = {stage.name: stage for stage in runs[1].stages if stage.state is not State.DAMAGED}
    for stage in runs[0].stages:
        if stage.name in others and stage.state is not State.DAMAGED:
            yield from both_curves(stage, others[stage.name], names)


def _answers(runs: Sequence[RunFolder], names: Names) -> Iterator[Block]:
    """Answers of the newest stage that both have answers of, to the same prompts."""
    one, two = (samples_of(run) for run in runs)
    stages = [stage for stage in one if stage in two and set(one[stage]) & set(two[stage])]
    if not stages:
        return
    newest = stages[-1]
    prompts = [prompt for prompt in one[newest] if prompt in two[newest]]
    for prompt in prompts[:MOST_PROMPTS]:
        yield Samples(
            prompt,
            tuple(
                Answer(f"{name}, {newest}", each[newest][prompt])
                for name, each in zip(names, (one, two), strict=True)
            ),
        )


def _sizes(runs: Sequence[RunFolder], names: Names) -> Block | None:
    one, two = ({size.stage: size for size in model_sizes(run)} for run in runs)
    rows = []
    for stage in dict.fromkeys(chain(one, two)):
        both = [each.get(stage) for each in (one, two)]
        rows.append(
            [
                stage,
                *(figures.count(size.parameters) if size else "" for size in both),
                *(figures.size(size.num_bytes) if size else "" for size in both),
                *(figures.decimal(size.bits, 2) if size else "" for size in both),
            ]
        )
    columns = [
        f"{name}: {what}" for what in ("parameters", "on disk", "bits per weight") for name in names
    ]
    return table(["stage", *columns], rows)


def _costs(runs: Sequence[RunFolder], names: Names) -> Block | None:
    one, two = ({stage.name: stage for stage in run.finished} for run in runs)
    rows: list[list[str]] = []
    for name in dict.fromkeys(chain(one, two)):
        both = [each.get(name) for each in (one, two)]
        rows.append(
            [
                name,
                *(_time(stage) for stage in both),
                *(_peak(stage) for stage in both),
                *(stage_speed(stage) if stage else "" for stage in both),
            ]
        )
    totals = [figures.duration(total_seconds(run)) for run in runs]
    rows.append(["all", *totals, "", "", "", ""])
    columns = [f"{name}: {what}" for what in ("time", "peak memory", "speed") for name in names]
    return table(["stage", *columns], rows)


def _time(stage: StageFolder | None) -> str:
    seconds = stage.seconds if stage else None
    return "" if seconds is None else figures.duration(seconds)


def _peak(stage: StageFolder | None) -> str:
    peak = number_at(stage.metrics, "peak_gb") if stage else None
    return "" if peak is None else f"{peak:.2f} GB"
