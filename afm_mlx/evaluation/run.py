"""A task on a subject: asks item by item, keeps every reply, and sums up.

FOLDER/
    samples.jsonl    a line per item, appended as it is answered: an interrupted run goes on
    asked.json       what was asked of whom; a folder belongs to one such
    result.json      the scores
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from afm_mlx.artifact import write_text
from afm_mlx.errors import DataError, RunError
from afm_mlx.evaluation.items import (
    Answer,
    Choice,
    Item,
    Likelihood,
    Mark,
    Passage,
    Question,
    Refusal,
    Reply,
    Task,
)
from afm_mlx.evaluation.scores import Score, by_name, mean_of
from afm_mlx.evaluation.subject import Subject
from afm_mlx.progress import Progress, bar, duration

Each = TypeVar("Each")

SAMPLES, ASKED, RESULT = "samples.jsonl", "asked.json", "result.json"


@dataclass(frozen=True)
class Result:
    """What a task gave."""

    task: str
    model: str
    items: int
    scores: Mapping[str, Score]
    groups: Mapping[str, Mapping[str, Score]]
    """Scores of each group, where there are groups."""
    refused: Mapping[str, int]
    """Items that were not asked, by the reason. They are marked like no answer."""
    seconds: float
    settings: Mapping[str, Any]
    """Of the task and the subject, and the prompts' hash."""
    folder: Path
    """Where the samples are."""

    def to_json(self) -> dict[str, Any]:
        """As a table of JSON."""
        return {
            **{name: value for name, value in asdict(self).items() if name != "folder"},
            "scores": {name: score.to_json() for name, score in self.scores.items()},
            "groups": {
                group: {name: score.to_json() for name, score in scores.items()}
                for group, scores in self.groups.items()
            },
        }


@dataclass
class Sample:
    """What became of one item: a line of `samples.jsonl`."""

    key: str
    marks: dict[str, Mark]
    group: str = ""
    refused: str = ""
    """Why it was not asked."""
    seconds: float = 0.0
    """From the beginning of the run, earlier parts of an interrupted one included."""
    kept: dict[str, Any] = field(default_factory=dict)
    """The reply, and what the task wants to be seen beside it."""

    def to_line(self) -> str:
        """As a line of JSON."""
        marks = {name: [mark.value, mark.weight] for name, mark in self.marks.items()}
        row = {**asdict(self), "marks": marks}
        return json.dumps({name: row[name] for name in row if row[name] != ""}, ensure_ascii=False)

    @classmethod
    def of_line(cls, line: str) -> Sample:
        """From such a line. Raises ValueError, KeyError or TypeError where it is none."""
        row = json.loads(line)
        row["marks"] = {name: Mark(*mark) for name, mark in row["marks"].items()}
        return cls(**row)


def run_task(
    task: Task,
    subject: Subject,
    folder: Path,
    progress: Progress,
    *,
    limit: int | None = None,
    apart: bool = False,
) -> Result:
    """Ask a subject all items, or go on where an earlier run stopped.

    Args:
        task: what is asked.
        subject: who is asked.
        folder: for samples and result; another task's or subject's is refused.
        progress: where to tell.
        limit: ask this many, taken evenly from all groups, the first ones of each.
        apart: use a folder in `folder` of a name that only this run has.

    Raises:
        DataError: as `Task.items`, or there is no item.
        RunError: the folder holds samples of something else.
    """
    items = take_evenly(task.items(), limit, group=lambda item: item.group)
    if not items:
        raise DataError(f"task {task.name} has no item", hint="check --data and --limit")
    settings = {
        **task.settings,
        **subject.facts,
        "prompt_hash": prompt_hash(items),
    }
    asked = {"task": task.name, "subject": subject.name, **settings}
    if apart:
        folder = folder / f"{task.name.replace(':', '-')}-{_hash_of(asked)}"
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, asked)
    samples = _read_samples(folder / SAMPLES, {item.key for item in items})
    left = [item for item in items if item.key not in samples]
    earlier = max((sample.seconds for sample in samples.values()), default=0.0)
    if samples and left:
        progress.say(f"{task.name}: going on after {len(samples):,} of {len(items):,} items")
    began = time.monotonic()
    with (folder / SAMPLES).open("a", encoding="utf-8") as file:
        for item, reply in ask(subject, left):
            seconds = round(earlier + time.monotonic() - began, 2)
            sample = _sample(task, item, reply, seconds)
            file.write(sample.to_line() + "\n")
            file.flush()
            samples[item.key] = sample
            done = len(samples), len(items)
            progress.status(_status(task.name, *done, seconds), last=done[0] == done[1])
    result = Result(
        task=task.name,
        model=subject.name,
        items=len(items),
        **sum_up(task, [samples[item.key] for item in items]),
        seconds=max(sample.seconds for sample in samples.values()),
        settings=settings,
        folder=folder,
    )
    write_text(folder / RESULT, json.dumps(result.to_json(), indent=2) + "\n")
    return result


def read_answers(folder: Path, count: int) -> dict[str, str]:
    """The first answers of a run's samples by what was asked, where the task keeps that."""
    found: dict[str, str] = {}
    lines = (folder / SAMPLES).read_text(encoding="utf-8").splitlines()
    for sample in sorted(map(Sample.of_line, lines), key=lambda sample: sample.key):
        if len(found) < count and {"prompt", "answer"} <= sample.kept.keys():
            found[sample.kept["prompt"]] = sample.kept["answer"]
    return found


def ask(subject: Subject, items: Sequence[Item]) -> Iterator[tuple[Item, Reply]]:
    """Items of any kind with their replies, as these come."""
    choices = [item for item in items if isinstance(item, Choice)]
    passages = [item for item in items if isinstance(item, Passage)]
    questions = [item for item in items if isinstance(item, Question)]
    yield from ((choices[place], reply) for place, reply in subject.choose(choices))
    yield from ((passages[place], reply) for place, reply in subject.read(passages))
    yield from ((questions[place], reply) for place, reply in subject.answer(questions))


def take_evenly(
    items: Sequence[Each], limit: int | None, *, group: Callable[[Each], str]
) -> list[Each]:
    """The first `limit` items, taken in turn from each group; in their own order.

    >>> items = [f"{group}{n}" for group in "abc" for n in range(3)]
    >>> take_evenly(items, 5, group=lambda item: item[0])
    ['a0', 'a1', 'b0', 'b1', 'c0']
    """
    if limit is None or limit >= len(items):
        return list(items)
    turns: Counter[str] = Counter()
    order = []
    for place, item in enumerate(items):
        order.append((turns[group(item)], place))
        turns[group(item)] += 1
    # Sorted by turn: all groups' first items, then their second ones.
    return [items[place] for place in sorted(place for _, place in sorted(order)[:limit])]


def prompt_hash(items: Iterable[Item]) -> str:
    """Hash of all that a model reads of items, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for item in items:
        read = asdict(item)
        for name in ("right", "facts"):
            read.pop(name, None)
        digest.update(json.dumps(read, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def sum_up(task: Task, samples: Sequence[Sample]) -> dict[str, Any]:
    """`scores`, `groups` and `refused` of samples, scores in the order of the task's figures."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.group:
            groups.setdefault(sample.group, []).append(sample)
    counts = getattr(task, "counts", ())
    by_group = {name: _scores(some, counts) for name, some in groups.items()}
    scores = _scores(samples, counts)
    for name, of in getattr(task, "averages", {}).items():
        scores[name] = mean_of([each[of] for each in by_group.values()])
    return {
        "scores": {name: scores[name] for name in (*task.figures, *scores) if name in scores},
        "groups": by_group,
        "refused": dict(Counter(sample.refused for sample in samples if sample.refused)),
    }


def _scores(samples: Iterable[Sample], counts: Collection[str]) -> dict[str, Score]:
    return by_name((pair for sample in samples for pair in sample.marks.items()), counts)


def _sample(task: Task, item: Item, reply: Reply, seconds: float) -> Sample:
    marks = dict(task.mark(item, reply))
    kept = {**_shown(reply), **task.kept(item, reply)}
    refused = reply.reason if isinstance(reply, Refusal) else ""
    return Sample(item.key, marks, item.group, refused, seconds, kept)


def _shown(reply: Reply) -> dict[str, Any]:
    if isinstance(reply, Refusal):
        return {}
    if isinstance(reply, Answer):
        return {"answer": reply.text, "finished": reply.finished, "tokens": reply.tokens}
    if isinstance(reply, Likelihood):
        return {"nats": round(reply.nats, 4), "tokens": reply.tokens}
    return {"nats": [round(each.nats, 4) for each in reply]}


def _hash_of(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]


def _claim(folder: Path, asked: dict[str, Any]) -> None:
    """Let a folder belong to what is asked of whom.

    Raises:
        RunError: it belongs to something else.
    """
    file = folder / ASKED
    if not file.exists():
        write_text(file, json.dumps(asked, indent=2) + "\n")
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        different = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    except (ValueError, AttributeError, TypeError):
        raise RunError(f"{file} is damaged", hint=f"delete {folder}, and run again") from None
    if different:
        raise RunError(
            f"{folder} holds samples of another run: its {', '.join(different)} differ",
            hint="give another --out, or delete that folder",
        )


def _read_samples(file: Path, keys: set[str]) -> dict[str, Sample]:
    """Samples of an earlier run by key. A last line that was cut is taken away."""
    if not file.exists():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with file.open("r+b") as opened:
            opened.truncate(len(whole))
    found = {}
    for number, line in enumerate(whole.decode("utf-8", "replace").splitlines(), start=1):
        try:
            sample = Sample.of_line(line)
        except (ValueError, KeyError, TypeError):
            raise RunError(
                f"{file}, line {number:,}: no sample", hint=f"delete {file.parent}, and run again"
            ) from None
        if sample.key in keys:
            found[sample.key] = sample
    return found


def _status(task: str, done: int, total: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    left = duration((total - done) / max(rate, 1e-9))
    return f"{task} {bar(done, total)} {done:,}/{total:,}  {rate:.2f} items/s  {left} left"
