"""Scores of the evaluation, and what the stages themselves measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from afm_mlx.evaluation.report import figures
from afm_mlx.evaluation.report.blocks import Block, Cell, Range, Ranges, Text, table
from afm_mlx.evaluation.report.facts import Facts, flat, number_at, table_at, words_at
from afm_mlx.evaluation.report.folders import RunFolder, StageFolder

SAFETY = "safety"
"""Begins the names of tasks that stand in a part of their own."""

CONVERSATIONS = ("sft", "itec")
"""Stages whose held-out loss is of conversations; of adapters it is, too."""

BEFORE = ("base_", "start_")
"""Begins the name of a number that was measured before the stage."""


@dataclass(frozen=True)
class Score:
    """One number of one task."""

    task: str
    metric: str
    stage: str
    """Of which stage's model; the model's name where that is none of the run's."""
    value: float
    low: float | None
    high: float | None
    """Ends of the 95 % interval."""
    group: str = ""
    """Part of the task's items; "" for all."""


@dataclass(frozen=True)
class Measured:
    """A number that stages note in their manifests."""

    name: str
    metric: str
    write: Callable[[float | None], str]
    of: Callable[[StageFolder], bool]


def _of_conversations(stage: StageFolder) -> bool:
    return stage.name in CONVERSATIONS


def _of_texts(stage: StageFolder) -> bool:
    return not (_of_conversations(stage) or stage.is_adapter)


def _of_any(stage: StageFolder) -> bool:
    return not stage.is_adapter


MEASURED = (
    Measured("texts, nats per token", "held_out_nats", figures.decimal, _of_texts),
    Measured("texts, bits per byte", "bits_per_byte", figures.decimal, _of_texts),
    Measured("texts, KL to 16 bits", "held_out_kl", figures.decimal, _of_texts),
    Measured("answers, nats per token", "held_out_nats", figures.decimal, _of_conversations),
    Measured("answers, nats per token", "answers_nats", figures.decimal, _of_any),
    Measured("answers, KL to 16 bits", "answers_kl", figures.decimal, _of_any),
    Measured("comparisons told right", "held_out_accuracy", figures.share, _of_any),
    Measured("prompts answered right", "held_out_right", figures.share, _of_any),
    Measured("prompts answered to the end", "held_out_finished", figures.share, _of_any),
)


def read_scores(results: Iterable[Facts]) -> list[Score]:
    """Every number of the results, those of groups after those of all items.

    A task that was asked twice of the same model is told apart by its number.
    """
    found: list[Score] = []
    asked: Counter[tuple[str, str]] = Counter()
    for result in results:
        stage = words_at(result, "stage") or words_at(result, "model") or "model"
        task = words_at(result, "task")
        asked[task, stage] += 1
        if (times := asked[task, stage]) > 1:
            task = f"{task} ({times})"
        found += _numbers(table_at(result, "scores"), task, stage, "")
        for group in table_at(result, "groups"):
            found += _numbers(table_at(result, "groups", group), task, stage, str(group))
    return found


def _numbers(scores: Facts, task: str, stage: str, group: str) -> list[Score]:
    found = []
    for metric in scores:
        facts = table_at(scores, metric)
        value = number_at(facts, "value")
        if value is not None:
            low, high = number_at(facts, "low"), number_at(facts, "high")
            found.append(Score(task, str(metric), stage, value, low, high, group))
    return found


def is_safety(score: Score) -> bool:
    """Whether it belongs to the part on safety."""
    return score.task.startswith(SAFETY)


def columns_of(run: RunFolder, scores: Sequence[Score]) -> list[str]:
    """Stages that have scores, in the order of the pipeline, and models of no stage after them."""
    asked = list(dict.fromkeys(score.stage for score in scores))
    ours = [stage.name for stage in run.stages if stage.name in asked]
    return list(dict.fromkeys([*ours, *asked]))


def score_blocks(run: RunFolder, scores: Sequence[Score]) -> list[Block | None]:
    """A table of scores by stage, pictures of them, and tables of groups."""
    whole = [score for score in scores if not score.group]
    stages = columns_of(run, whole)
    columns = ["task", *stages]
    by_group = [score for score in scores if score.group]
    tasks = dict.fromkeys(score.task for score in by_group)
    return [
        table(columns, _rows(whole, stages, with_group=False)),
        *ranges(whole, stages),
        *(
            table(
                ["group", *stages],
                _rows([score for score in by_group if score.task == task], stages, with_group=True),
                title=f"{task}, by group",
                folded=True,
            )
            for task in tasks
        ),
    ]


def _rows(
    scores: Sequence[Score], stages: Sequence[str], *, with_group: bool
) -> Iterable[list[Cell | str]]:
    keys = dict.fromkeys(
        (score.group if with_group else score.task, score.metric) for score in scores
    )
    found = {
        (score.group if with_group else score.task, score.metric, score.stage): score
        for score in scores
    }
    for name, metric in keys:
        there = [found.get((name, metric, stage)) for stage in stages]
        yield [Cell(name, as_words(metric)), *(score_cell(score) for score in there)]


def score_cell(score: Score | None) -> Cell:
    """A score with its interval below."""
    if score is None:
        return Cell("")
    note = ""
    if score.low is not None and score.high is not None:
        low, high = (figures.score(end, score.metric) for end in (score.low, score.high))
        note = figures.both(low, high)
    return Cell(figures.score(score.value, score.metric), note)


def ranges(scores: Sequence[Score], stages: Sequence[str]) -> list[Block | None]:
    """A picture for each score that two stages have, or that has an interval."""
    found: list[Block | None] = []
    for task, metric in dict.fromkeys((score.task, score.metric) for score in scores):
        by_stage = {
            score.stage: score for score in scores if (score.task, score.metric) == (task, metric)
        }
        rows = [as_range(by_stage[stage], stage) for stage in stages if stage in by_stage]
        if len(rows) > 1 or any(row.low < row.high for row in rows):
            found.append(Ranges(titled(task, metric), tuple(rows), share=figures.is_share(metric)))
    return found


def as_range(score: Score, name: str, run: int = 0) -> Range:
    """A score for a picture; without an interval its ends are the value."""
    low = score.value if score.low is None else score.low
    high = score.value if score.high is None else score.high
    return Range(name, score.value, min(low, score.value), max(high, score.value), run)


def titled(task: str, metric: str) -> str:
    """A task and its score in words; once where they are the same."""
    return task if task == metric else f"{task}, {as_words(metric)}"


def as_words(metric: str) -> str:
    """A metric's name for people: words apart."""
    return metric.replace("_", " ")


def how_asked(run: RunFolder) -> Block | None:
    """How each task was asked, once for all stages where that is the same."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for result in run.scores:
        stage = words_at(result, "stage") or words_at(result, "model") or "model"
        settings = flat(table_at(result, "settings"))
        said = ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in settings)
        refused = table_at(result, "refused")
        left_out = ", ".join(f"{_value(many)} {reason}" for reason, many in refused.items())
        items = figures.count(number_at(result, "items"))
        rows.setdefault((words_at(result, "task"), items, said, left_out), []).append(stage)
    return table(
        ["task", "stages", "settings", "refused", "items"],
        ((task, ", ".join(of), said, out, items) for (task, items, said, out), of in rows.items()),
        words=4,
        title="How it was asked",
        folded=True,
    )


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def before(stage: StageFolder, metric: str) -> float | None:
    """The same number before the stage."""
    found = (number_at(stage.metrics, f"{start}{metric}") for start in BEFORE)
    return next((value for value in found if value is not None), None)


def measured_blocks(run: RunFolder) -> list[Block | None]:
    """What the stages measured on held-out data while they ran."""
    names = list(dict.fromkeys(measured.name for measured in MEASURED))
    rows: list[list[Cell | str]] = []
    for stage in run.finished:
        found: dict[str, Cell] = {}
        for measured in MEASURED:
            value = number_at(stage.metrics, measured.metric)
            if value is None or not measured.of(stage):
                continue
            earlier = before(stage, measured.metric)
            note = "" if earlier is None else f"before {measured.write(earlier)}"
            found[measured.name] = Cell(measured.write(value), note)
        if found:
            rows.append([stage.name, *(found.get(name, Cell("")) for name in names)])
    if not rows:
        return []
    said = (
        "Bits per byte of held-out texts can be compared between all stages. Answers, comparisons "
        "and prompts are each stage's own held-out ones."
    )
    return [table(["measured by", *names], rows, title="Held out"), Text(said)]


def committee_block(run: RunFolder) -> Block | None:
    """What the members of a committee were worth on held-out prompts, by round."""
    rows: list[list[Cell | str]] = []
    for stage in run.finished:
        rounds = stage.metrics.get("rounds")
        for found in rounds if isinstance(rounds, list) else ():
            number = figures.count(number_at(found, "round"))
            members = table_at(found, "held_out", "members")
            for name in members:
                worth, ended, reward, moved = (
                    number_at(members, name, key)
                    for key in ("worth", "finished", "reward", "to_start")
                )
                rows.append(
                    [
                        str(name),
                        number,
                        figures.share(worth),
                        figures.share(ended),
                        figures.decimal(reward, 3),
                        figures.decimal(moved, 3),
                    ]
                )
            picked = number_at(found, "held_out", "picked_by_reward")
            if picked is not None:
                everyone = "picked among all by the reward model"
                rows.append([everyone, number, figures.share(picked), "", "", ""])
    return table(
        ["member", "round", "worth", "ended", "reward", "nats from the start"],
        rows,
        title="The committee, on held-out prompts",
        folded=True,
    )


def difference(first: Score, second: Score) -> tuple[float, float, float] | None:
    """Second less first, with a 95 % interval; None without intervals.

    Taken for independent samples; the same items asked of both make the true interval narrower.
    Source: Newcombe, Statistics in Medicine 17 (1998), method 10.
    """
    if None in (first.low, first.high, second.low, second.high):
        return None
    assert first.low is not None
    assert first.high is not None
    assert second.low is not None
    assert second.high is not None
    gain = second.value - first.value
    down = math.hypot(second.value - second.low, first.high - first.value)
    up = math.hypot(second.high - second.value, first.value - first.low)
    return gain, gain - down, gain + up
