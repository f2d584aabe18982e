"""The one training loop. Every stage that changes weights by gradients is a call of `train`.

A stage hands over a model, a loss, batches and an update rule. The trained weights are those that
the model has not frozen. They stay float32 here; the loss sees them in the compute format.

Losses are sums and come with the number of tokens they are sums over, and the gradient of a step
is the sum over its micro-batches divided by the tokens of all: uneven micro-batches give the
gradient of the full batch. So it is with several ranks, each of which has some of the
micro-batches: sums and gradients are added up once a step, and then all take the same step.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from afm_mlx import artifact, compat
from afm_mlx.errors import FitError, RunError
from afm_mlx.profile import BATCH, UPDATE, stage_profile
from afm_mlx.progress import Progress, bar, duration
from afm_mlx.settings.sections import Watch
from afm_mlx.training.micro_batches import Batch, Idle
from afm_mlx.training.schedule import warmup_cosine
from afm_mlx.training.sharding import WHOLE, Cast, Layout
from afm_mlx.training.state import State, load_snapshot, save_snapshot

Sums = dict[str, mx.array]
Loss = Callable[..., tuple[mx.array, Sums]]


class Rule(Protocol):
    """An update rule: see `optimizer.py`."""

    def init(self, params: Any) -> Any:
        """State before the first step."""

    def update(
        self,
        params: Any,
        grads: Any,
        state: Any,
        *,
        lr: float,
        schedule: Any,
        weight_decay: float,
        layout: Layout,
    ) -> tuple[Any, Any, Sums]:
        """New weights, new state, and numbers about the step."""


@dataclass(frozen=True)
class Course:
    """How long and how fast to train."""

    steps: int
    """Optimizer steps."""
    lr: float
    """Peak learning rate."""
    warmup_steps: int
    """Steps of linear warm-up."""
    final_lr_fraction: float
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float
    """Decoupled decay of a step, times the schedule."""
    most_skipped_steps: int
    """Stop when this many steps in a row were skipped for their gradient."""


@dataclass
class Outcome:
    """What a run did."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    """Logged (step, mean loss in nats per token) of this process."""
    evaluation: dict[str, Any] | None = None
    """What `evaluate` found after the last step."""
    earlier_seconds: float = 0.0
    """Time that interrupted processes of this run had spent before, in seconds."""
    peak_bytes: int = 0
    """Most memory that MLX held in this process."""
    rule: Any = None
    """The update rule's state after the last step."""

    def metrics(self) -> dict[str, Any]:
        """What every stage notes: last loss, earlier processes' time, most memory."""
        return {
            "loss": self.losses[-1][1] if self.losses else None,
            "earlier_seconds": self.earlier_seconds,
            "peak_gb": round(self.peak_bytes / 1e9, 3),
        }


def train(
    model: Any,
    loss: Loss,
    batches: Callable[[int], Sequence[Batch]],
    rule: Rule,
    course: Course,
    *,
    compute: mx.Dtype,
    exact: Collection[str] = (),
    fuse: bool = True,
    work: Path,
    watch: Watch,
    progress: Progress,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
    counted: str = "tokens",
    layout: Layout = WHOLE,
) -> Outcome:
    """Train `model` in place; resume from the newest snapshot in `work`, if there is one.

    Args:
        model: an `nn.Module`. Its unfrozen weights, float32, are trained.
        loss: `loss(model, *batch)` gives a sum over tokens to descend on, and sums to log, of
            which "tokens" is the number of tokens that count and "nll" their loss in nats. What
            is counted may be something else, such as pairs: then a sum is over these.
        batches: micro-batches of a step, numbered from 1; of several ranks, this one's, see
            `micro_batches`. A function of the step, and where they depend on it of the weights that
            the step starts from: `model` holds them, in the compute format, whenever it is called.
        rule: the update rule.
        course: steps, learning rate, decay.
        compute: number format of the forward and backward pass.
        exact: first names of the paths of weights that stay float32 there, such as scores.
        fuse: compile the step on a GPU. False for a loss with parts on the CPU, for which MLX would
            call a C++ compiler.
        work: the stage's folder in the making: snapshots/ and metrics.jsonl.
        watch: when to log, validate and snapshot; how much memory to use at most.
        progress: where the journey is told.
        evaluate: called with the model at validations; its numbers go to the log.
        counted: what "tokens" counts, in the plural; only for the log.
        layout: how the trained weights lie on the ranks of this run; see `layout_of`. Every rank
            makes the same call, and in the end has the same whole weights.

    Raises:
        FitError: memory came near the device's limit; the run is saved.
        RunError: too many steps in a row were skipped; the run is saved.
        KeyboardInterrupt: the run was interrupted; it is saved.
    """
    snapshots, log = work / artifact.SNAPSHOTS, work / artifact.LOG
    ranks, writes, cast = layout.ranks, layout.ranks.leads(work), partial(_cast, compute, exact)
    state = load_snapshot(snapshots, layout)
    if state is None:
        state = State(0, layout.take(model), None)
        state.rule = rule.init(state.params)
    else:
        progress.say(f"going on from step {state.step:,}")
        # A file has no order, and the order of the weights is that of the sum in the gradient's
        # norm: in another one, a clipped step would end with other bits.
        kept = dict(tree_flatten(state.params))
        wanted = dict(tree_flatten(model.trainable_parameters()))
        state.params = tree_unflatten([(name, kept[name]) for name in wanted])
        del kept, wanted
    if writes:
        _cut_log(log, state.step)
    profile = stage_profile(_stage(work), course.steps - state.step, progress.say)
    if not (fuse and compat.on_gpu()):  # then the loss can be asked for by itself
        loss = profile.timed("forward", loss)
    gradient, apply = _halves(model, loss, rule, course, layout, cast)
    if fuse:
        gradient, apply = compat.compiled(gradient), compat.compiled(apply)
    batches, gradient = profile.timed(BATCH, batches), profile.timed("gradients", gradient)
    apply, save = profile.timed(UPDATE, apply), profile.timed("snapshot", save_snapshot)
    evaluate = profile.timed("evaluation", evaluate) if evaluate else None
    total = profile.timed("exchange", layout.total) if ranks.size > 1 else layout.total
    outcome = Outcome(earlier_seconds=state.seconds)
    memory_limit = watch.memory_fraction * compat.device_memory_bytes()
    started = saved = lap = time.monotonic()
    lap_tokens, skipped = 0.0, 0
    mx.reset_peak_memory()

    with interrupts() as interrupted, compat.memory_settings():
        layout.place(model, state.params, cast)
        batch = batches(state.step + 1) if state.step < course.steps else ()
        while state.step < course.steps:
            step = state.step + 1
            schedule = warmup_cosine(
                step,
                steps=course.steps,
                warmup_steps=course.warmup_steps,
                final_fraction=course.final_lr_fraction,
            )
            sums, grads = total(*_accumulate(gradient, state.params, batch))
            state.params, state.rule, stats = apply(
                state.params, grads, state.rule, sums["tokens"], mx.array(schedule)
            )
            del grads
            mx.async_eval(state.params, state.rule, stats, sums)
            if step < course.steps:
                layout.place(model, state.params, cast)
                batch = batches(step + 1)  # while the device is busy
            mx.eval(state.params, state.rule, stats, sums)
            now = time.monotonic()
            peak = max(outcome.peak_bytes, mx.get_peak_memory())
            late = now - saved >= watch.snapshot_every_seconds
            # What only one rank knows, all must know in the same step.
            outcome.peak_bytes, full, asked, due = ranks.most(
                [peak, peak > memory_limit, interrupted.is_set(), late]
            )
            state.step = step
            state.seconds = outcome.earlier_seconds + now - started
            lap_tokens += float(sums["tokens"])
            skipped = skipped + 1 if float(stats["skipped"]) else 0

            record: dict[str, Any] = {}
            if step % watch.log_every_steps == 0 or step == course.steps:
                record = _record(step, sums, stats, schedule * course.lr)
                record[f"{counted}_per_second"] = _speed(lap_tokens / max(now - lap, 1e-9))
                record["peak_gb"] = round(outcome.peak_bytes / 1e9, 3)
                if step == course.steps and not math.isfinite(record["loss"]):
                    raise RunError(
                        f"the loss of the last step, {step:,}, is {record['loss']}; see {log}",
                        hint="--set STAGE.lr=... with a smaller value",
                    )
                outcome.losses.append((step, record["loss"]))
                lap, lap_tokens = now, 0.0
                progress.status(_line(record, state, course, counted), last=step == course.steps)
            if evaluate and (step % watch.evaluate_every_steps == 0 or step == course.steps):
                layout.place(model, state.params, cast)
                layout.gather(model)
                outcome.evaluation = evaluate(model)
                record |= {"step": step} | outcome.evaluation
                lap, lap_tokens = time.monotonic(), 0.0
            if record:
                if writes:
                    _append(log, record)
                progress.record({"stage": _stage(work)} | record)
            stop = _reason_to_stop(
                bool(asked), skipped, course, bool(full), outcome.peak_bytes, memory_limit
            )
            if stop or due:
                save(snapshots, state, layout)
                saved = time.monotonic()
            if stop:
                raise _with_place(stop, step, snapshots)

    profile.end()
    layout.restore(model, state.params)
    outcome.rule = layout.whole(state.rule)
    return outcome


def _halves(
    model: Any, loss: Loss, rule: Rule, course: Course, layout: Layout, cast: Cast
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two halves of a step: gradient of one micro-batch, and update."""

    def objective(params: Any, counts: float, *batch: mx.array) -> tuple[mx.array, Sums]:
        layout.place(model, params, cast)
        total, sums = loss(model, *batch)
        if not counts:  # but the backward pass must run: ranks may exchange gradients in it
            total, sums = tree_map(lambda each: 0 * each, (total, sums))
        return total, sums

    def gradient(params: Any, counts: float, *batch: mx.array) -> tuple[Sums, Any]:
        (total, sums), grads = mx.value_and_grad(objective)(params, counts, *batch)
        return {"loss": total} | sums, grads

    def apply(
        params: Any, grads: Any, state: Any, tokens: mx.array, schedule: mx.array
    ) -> tuple[Any, Any, Sums]:
        grads = tree_map(lambda grad: grad / mx.maximum(tokens, 1), grads)
        return rule.update(
            params,
            grads,
            state,
            lr=course.lr,
            schedule=schedule,
            weight_decay=course.weight_decay,
            layout=layout,
        )

    return gradient, apply


def _stage(work: Path) -> str:
    """Name of the stage whose folder in the making this is."""
    return work.name.removesuffix(".part")


def _accumulate(
    gradient: Callable[..., Any], params: Any, micro_batches: Sequence[Batch]
) -> tuple[Sums, Any]:
    """Sums and gradients of a step's micro-batches, of which one at a time is in memory."""
    total: Any = None
    for batch in micro_batches:
        part = gradient(params, 0.0 if isinstance(batch, Idle) else 1.0, *batch)
        total = part if total is None else tree_map(mx.add, total, part)
        if len(micro_batches) > 1:
            mx.eval(total)
    return total


def _cast(dtype: mx.Dtype, exact: Collection[str], path: str, param: mx.array) -> mx.array:
    return param if path.partition(".")[0] in exact else param.astype(dtype)


def _record(step: int, sums: Sums, stats: Sums, lr: float) -> dict[str, Any]:
    """One line of the log. Losses in nats per token."""
    tokens = max(float(sums["tokens"]), 1.0)
    means = {name: float(value) / tokens for name, value in sums.items() if name != "tokens"}
    return {
        "step": step,
        **means,
        "lr": lr,
        **{name: float(value) for name, value in stats.items()},
    }


def _speed(per_second: float) -> float:
    """Whole tokens; of answers and pairs there may be few, or less than one: then two digits."""
    return round(per_second) if per_second >= 10 else float(f"{per_second:.2g}")


def _line(record: dict[str, Any], state: State, course: Course, counted: str) -> str:
    """The live line."""
    unit = "tok" if counted == "tokens" else counted
    left = state.seconds / state.step * (course.steps - state.step)
    return (
        f"  {bar(state.step, course.steps)} step {state.step:,}/{course.steps:,}"
        f"  loss {record['loss']:.4f}  {record[f'{counted}_per_second']:,} {unit}/s"
        f"  peak {record['peak_gb']:.2f} GB  {duration(left)} left"
    )


def _reason_to_stop(
    interrupted: bool,
    skipped: int,
    course: Course,
    full: bool,
    peak_bytes: int,
    memory_limit: float,
) -> BaseException | None:
    """Why the run must stop now, if it must."""
    if interrupted:
        return KeyboardInterrupt("interrupted")
    if skipped >= course.most_skipped_steps:
        return RunError(
            f"the last {skipped} steps were skipped: gradients not finite or too large",
            hint="--set STAGE.lr=... with a smaller value",
        )
    if full:
        return FitError(
            f"memory reached {peak_bytes / 1e9:.1f} GB, "
            f"and this run may use {memory_limit / 1e9:.1f} GB",
            hint="--set training.micro_rows=... with fewer rows, "
            "or --set training.activation_checkpointing=true",
        )
    return None


def _with_place(stop: BaseException, step: int, snapshots: Path) -> BaseException:
    """The same, with where the run is saved and how it goes on."""
    saved = f"saved at step {step:,} in {snapshots}"
    if isinstance(stop, FitError | RunError):
        return type(stop)(f"{stop} ({saved})", hint=stop.hint)
    return type(stop)(f"{stop}: {saved}; the same command goes on")


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or termination into an event; a second one acts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals belong to the main thread
        return
    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def note(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _append(path: Path, record: dict[str, Any]) -> None:
    with artifact.writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _cut_log(path: Path, step: int) -> None:
    """Drop lines of steps that will be done again, and a line cut by a crash."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            break
    artifact.write_text(path, "".join(kept))
