"""lm-evaluation-harness: its tasks as ours, and our subjects as its models.

`harness_task("arc_easy")` is a task like any other: it resumes, keeps samples, and has intervals.
`harness_model(subject)` goes into `lm_eval.simple_evaluate`, for figures that are no means, such as
BLEU, and for whoever works with the harness already.

Written for lm-eval 0.4.13.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import (
    Answer,
    Choice,
    Item,
    Likelihood,
    Mark,
    Marks,
    Option,
    Passage,
    Question,
    Refusal,
    Reply,
)
from afm_mlx.evaluation.registry import HARNESS
from afm_mlx.evaluation.scores import FROM_ZERO, Ends
from afm_mlx.evaluation.subject import Subject

MAX_TOKENS = 256
"""Longest answer where a task says nothing. Source: lm-eval, `HFLM.max_gen_toks`."""

_NOT_READ = (-math.inf, False)


def harness_task(
    name: str, *, shots: int | None = None, include: Path | None = None
) -> HarnessTask:
    """A task of the harness, or a group of them.

    Args:
        name: as `lm_eval ls tasks` lists it, with or without "harness:".
        shots: examples before each item; None for the task's own number.
        include: folder with YAML files of further tasks.

    Raises:
        DataError: the package is not installed, there is no such task, or its data cannot be read.
    """
    name = name.removeprefix(HARNESS)
    manager = _manager(name, include)
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, n=1)
        raise DataError(
            f"lm-evaluation-harness has no task '{name}'",
            hint=f"did you mean {HARNESS}{near[0]}?" if near else "lm_eval ls tasks shows all",
        )
    try:
        tasks = manager.load([name])["tasks"]
    except (OSError, ValueError) as error:
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{HARNESS}{name}: its data cannot be read: {what}") from None
    if shots is not None:
        for task in tasks.values():
            task.set_config(key="num_fewshot", value=shots)
    return HarnessTask(f"{HARNESS}{name}", tasks)


@dataclass
class HarnessTask:
    """Tasks of the harness. Figures are those that are means, ratios of sums, or perplexities."""

    name: str
    tasks: Mapping[str, Any]
    """By name; where there are several, each is a group of items."""
    _asked: dict[str, tuple[Any, list[Any]]] = field(default_factory=dict)
    """By the item's key: the harness's task and requests."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        shots = {task.config.num_fewshot or 0 for task in self.tasks.values()}
        counts = shots.pop() if len(shots) == 1 else sorted(shots)
        return {"shots": counts, "lm_eval": version("lm_eval")}

    @property
    def figures(self) -> Mapping[str, str]:
        """See `Task`."""
        names = (name for task in self.tasks.values() for name in _figures(task))
        return {name: f"{name} of lm-evaluation-harness" for name in names}

    @property
    def ranges(self) -> Mapping[str, Ends]:
        """See `Task`. Of figures that are no means; what means are of, nobody says."""
        each = (pair for task in self.tasks.values() for pair in _figures(task).items())
        return {name: FROM_ZERO for name, is_mean in each if not is_mean}

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        items = []
        for name, task in self.tasks.items():
            with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own
                task.build_all_requests(rank=0, world_size=1)
            by_row: dict[int, list[Any]] = {}
            for request in task.instances:
                by_row.setdefault(request.doc_id, []).append(request)
            for row, requests in by_row.items():
                requests.sort(key=lambda request: request.idx)
                key = f"{name}/{row}"
                self._asked[key] = task, requests
                items.append(_item(key, name if len(self.tasks) > 1 else "", requests))
        return items

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        task, requests = self._asked[item.key]
        if isinstance(reply, Refusal):
            return {name: Mark(0.0) for name, is_mean in _figures(task).items() if is_mean}
        for request, response in zip(requests, _responses(item, reply), strict=True):
            request.resps = [response]
        marks = {}
        for ensemble in task._filters:
            ensemble.apply(requests)
            filtered = [request.filtered_resps[ensemble.name] for request in requests]
            values = task.process_results(requests[0].doc, filtered)
            for name, value in values.items():
                how = _HOW.get(_aggregation(task, name))
                if how is not None:
                    marks[_called(name, ensemble)] = how(value)
        return marks

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        task, requests = self._asked[item.key]
        right = task.doc_to_target(requests[0].doc)
        return {"right": right if isinstance(right, int | float | str) else str(right)}


def harness_model(subject: Subject) -> Any:
    """A subject as a model of the harness (`lm_eval.api.model.LM`); `refused` counts by reason.

    Raises:
        DataError: the package is not installed.
    """
    base = _import("lm_eval.api.model").LM

    class HarnessModel(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.subject = subject
            self.refused: dict[str, int] = {}

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            # Options of one context are one choice.
            together: dict[str, list[int]] = {}
            for place, request in enumerate(requests):
                together.setdefault(request.args[0], []).append(place)
            places = list(together.values())
            choices = [_choice(str(n), "", [requests[place] for place in some])
                       for n, some in enumerate(places)]  # fmt: skip
            found = [_NOT_READ] * len(requests)
            for number, reply in subject.choose(choices):
                if not self._is_refused(reply):
                    for place, one in zip(places[number], reply, strict=True):  # type: ignore[arg-type]
                        found[place] = one.nats, one.greedy
            return found

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            passages = [Passage(str(n), request.args[0]) for n, request in enumerate(requests)]
            found = [-math.inf] * len(requests)
            for place, reply in subject.read(passages):
                if not self._is_refused(reply):
                    found[place] = reply.nats  # type: ignore[union-attr]
            return found

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            questions = [_question(str(n), "", request) for n, request in enumerate(requests)]
            found = [""] * len(requests)
            for place, reply in subject.answer(questions):
                if not self._is_refused(reply):
                    found[place] = reply.text  # type: ignore[union-attr]
            return found

        def _is_refused(self, reply: Any) -> bool:
            if not isinstance(reply, Refusal):
                return False
            self.refused[reply.reason] = self.refused.get(reply.reason, 0) + 1
            return True

    return HarnessModel()


def _manager(name: str, include: Path | None) -> Any:
    """The harness's list of tasks: of a folder alone where it has the task, for all take long."""
    manager = _import("lm_eval.tasks").TaskManager
    if include is None:
        return manager()
    own = manager(include_path=str(include), include_defaults=False)
    return own if name in own.all_tasks else manager(include_path=str(include))


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "lm_eval":
            missing = f"lm-evaluation-harness needs the package {error.name}"
            raise DataError(missing, hint=f"pip install {error.name}") from None
        raise DataError(
            f"tasks that begin with {HARNESS} need lm-evaluation-harness",
            hint="pip install lm-eval",
        ) from None


def _item(key: str, group: str, requests: Sequence[Any]) -> Item:
    kind = requests[0].request_type
    if kind in ("loglikelihood", "multiple_choice"):
        return _choice(key, group, requests)
    [request] = requests
    if kind == "loglikelihood_rolling":
        return Passage(key, request.args[0], group)
    return _question(key, group, request)


def _choice(key: str, group: str, requests: Iterable[Any]) -> Choice:
    # Which is right, the harness knows.
    return Choice(key, tuple(Option(*request.args) for request in requests), 0, group)


def _question(key: str, group: str, request: Any) -> Question:
    text, settings = request.args
    until = settings.get("until") or ()
    return Question(
        key,
        text,
        int(settings.get("max_gen_toks", MAX_TOKENS)),
        stop=(until,) if isinstance(until, str) else tuple(until),
        group=group,
    )


def _responses(item: Item, reply: Reply) -> Iterator[Any]:
    """What the harness's models give for each request."""
    if isinstance(reply, Answer):
        yield reply.text
    elif isinstance(reply, Likelihood):
        yield reply.nats
    else:
        assert isinstance(reply, Sequence)
        yield from ((each.nats, each.greedy) for each in reply)


def _figures(task: Any) -> dict[str, bool]:
    """Figures of a task that we can sum up, and whether each is a mean of its items."""
    return {
        _called(name, ensemble): how == "mean"
        for ensemble in task._filters
        for name in task.aggregation()
        if (how := _aggregation(task, name)) in _HOW
    }


def _called(name: str, ensemble: Any) -> str:
    return name if ensemble.name == "none" else f"{name},{ensemble.name}"


def _aggregation(task: Any, name: str) -> str:
    how = task.aggregation().get(name)
    return getattr(how, "__name__", "")


_HOW: Mapping[str, Callable[[Any], Mark]] = {
    "mean": lambda value: Mark(float(value)),
    "perplexity": lambda nats: Mark(-nats),
    "weighted_perplexity": lambda pair: Mark(-pair[0] / pair[1], float(pair[1])),
    "bits_per_byte": lambda pair: Mark(-pair[0] / pair[1] / math.log(2), float(pair[1])),
}
"""Marks by how the harness sums values up. Perplexities are marked in nats, see `scores.by_name`.
"""
