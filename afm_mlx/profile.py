"""Where the time of training goes: a trace of some steps of each stage, and a short table.

MLX computes when a result is asked for, so a clock beside work that nobody has asked for yet sees
nothing. While steps are traced, the result of each part is asked for by itself: batch, gradients,
update. Such steps take longer than usual ones, where the next batch is made while the device
computes; the table has both. Results keep their bits.

What MLX has compiled into one piece, as it does with gradients on a GPU, shows no parts of its own.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

WARM_STEPS = 2
"""Steps at the start of a stage that are not looked at: the first ones are slower. Ours."""
USUAL_STEPS = 5
"""Steps after those, timed as a whole. Ours."""
TRACED_STEPS = 20
"""Steps after those, timed part by part. Ours."""

BATCH, UPDATE = "batch", "update"
"""The part that begins a step, and the one that ends its arithmetic."""
ASIDE = ("evaluation", "snapshot")
"""Parts that are in the trace, and in no figure about a step: most steps have none."""
REST = "log, and the rest"

CAPTURE_VARIABLE = "MTL_CAPTURE_ENABLED"
"""Metal traces a process's GPU only where this is 1 from its start."""


@dataclass(frozen=True)
class Span:
    """Time that a part of a step took."""

    stage: str
    part: str
    step: int
    began: float
    """Seconds since the profile was opened."""
    seconds: float
    depth: int
    """How many parts it lies within."""


@dataclass
class Profile:
    """A trace in the making."""

    file: Path
    """Where it goes: JSON that chrome://tracing and Perfetto open."""
    rank: int = 0
    """Of this process; rank 0 writes."""
    spans: list[Span] = field(default_factory=list)
    opened: float = field(default_factory=time.perf_counter)

    def write(self) -> None:
        """Write all spans so far: a row for each stage."""
        if self.rank != 0:
            return
        stages = list(dict.fromkeys(span.stage for span in self.spans))
        events: list[dict[str, Any]] = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": row, "args": {"name": stage}}
            for row, stage in enumerate(stages)
        ]
        events += [
            {
                "name": span.part,
                "cat": "training",
                "ph": "X",
                "pid": 0,
                "tid": stages.index(span.stage),
                "ts": round(1e6 * span.began, 1),
                "dur": round(1e6 * span.seconds, 1),
                "args": {"step": span.step},
            }
            for span in self.spans
        ]
        text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
        self.file.write_text(text + "\n", encoding="utf-8")


_opened: list[Profile] = []
"""The profile that is open, if one is."""


def open_profile(file: Path, rank: int = 0) -> None:
    """From now on, stages that train in this process leave a trace in `file`.

    Raises:
        OSError: there can be no such file.
    """
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(file))
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(file))
    _opened[:] = [Profile(file, rank)]


def close_profile() -> None:
    """Trace no more."""
    _opened.clear()


def stage_profile(stage: str, steps: int, say: Callable[[str], None]) -> StageProfile:
    """What times a stage that will take `steps` steps; nothing, where no profile is open."""
    return TracedStage(_opened[0], stage, steps, say) if _opened else StageProfile()


class StageProfile:
    """A stage that is not traced."""

    def timed(self, part: str, function: Function) -> Function:
        """The function itself."""
        return function

    def end(self) -> None:
        """The last step is over."""


class TracedStage(StageProfile):
    """A stage of which some steps are traced."""

    def __init__(
        self, profile: Profile, stage: str, steps: int, say: Callable[[str], None]
    ) -> None:
        self._profile, self._stage, self._say = profile, stage, say
        # Steps up to these are: not looked at, timed as a whole, traced.
        self._warm = min(WARM_STEPS, steps // 3)
        self._usual = self._warm + min(USUAL_STEPS, steps // 3)
        self._traced = min(self._usual + TRACED_STEPS, steps)
        self._step = self._depth = 0
        self._starts: list[float] = []
        self._spans: list[Span] = []
        self._is_over = False

    def timed(self, part: str, function: Function) -> Function:
        """The function, timed until its result is computed, in the steps that are traced."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if part == BATCH:
                self._begin_step()
            after = self._warm if part in ASIDE else self._usual
            if self._is_over or not after < self._step <= self._traced:
                return function(*args, **kwargs)
            with self._span(part):
                result = function(*args, **kwargs)
                _compute(result)
            return result

        return call  # type: ignore[return-value]

    def end(self) -> None:
        """The last step is over: what is known is told, unless it has been."""
        if self._step:
            self._begin_step()
            self._finish()

    def _begin_step(self) -> None:
        """A step begins with the making of its batch."""
        if self._is_over:
            return
        self._step += 1
        self._starts.append(self._now())
        if self._step == self._usual + 1:
            _capture_gpu(self._profile.file)
        elif self._step == self._usual + 2:
            _end_capture()
        if self._step == self._traced + 1:
            self._finish()

    def _finish(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._profile.spans += self._spans
        self._profile.write()
        for line in self._table():
            self._say(line)

    def _now(self) -> float:
        return time.perf_counter() - self._profile.opened

    @contextmanager
    def _span(self, part: str) -> Iterator[None]:
        began = self._now()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            seconds = self._now() - began
            self._spans.append(Span(self._stage, part, self._step, began, seconds, self._depth))

    def _seconds(self, after: int, until: int) -> float:
        """Time of the steps after one number and up to another, without what is aside."""
        aside = [s for s in self._spans if s.part in ASIDE and after < s.step <= until]
        return self._starts[until] - self._starts[after] - sum(s.seconds for s in aside)

    def _table(self) -> Iterator[str]:
        """How long a step takes, and how much of it each part."""
        until = self._step - 1
        traced, usual = until - self._usual, self._usual - self._warm
        if traced < 1:
            return
        whole = self._seconds(self._usual, until)
        sums: dict[tuple[int, str], float] = {}
        for span in self._spans:
            if span.part not in ASIDE:
                key = span.depth, span.part
                sums[key] = sums.get(key, 0.0) + span.seconds
        yield f"  profile of {traced} steps of {self._stage}:"
        if usual:
            mean = self._seconds(self._warm, self._usual) / usual
            yield _line("a step as usual", mean)
        yield _line("a step, one part after the other", whole / traced)
        for (depth, part), seconds in sums.items():
            if depth == 0:
                yield _line(f"  {part}", seconds / traced, seconds / whole)
                for (deeper, inner), within in sums.items():
                    if deeper == 1 and inner != part and self._within(inner, part):
                        yield _line(f"    of that, {inner}", within / traced, within / whole)
        rest = whole - sum(seconds for (depth, _), seconds in sums.items() if depth == 0)
        yield _line(f"  {REST}", rest / traced, rest / whole)
        yield f"  trace: {self._profile.file}" + _hint()

    def _within(self, inner: str, outer: str) -> bool:
        """Whether the first span of one part lies in one of the other."""
        one = next(span for span in self._spans if span.part == inner)
        return any(
            span.part == outer and span.began <= one.began < span.began + span.seconds
            for span in self._spans
        )


def _line(name: str, seconds: float, share: float | None = None) -> str:
    line = f"    {name:36}{1e3 * seconds:>10,.1f} ms"
    return line if share is None else f"{line}{share:>8.1%}"


def _compute(result: Any) -> None:
    """Wait until all arrays of a result are computed."""
    import mlx.core as mx

    mx.eval(result)


def _capture_gpu(trace: Path) -> None:
    """On Metal, begin a trace of the GPU beside ours, where the process may."""
    import mlx.core as mx

    file = trace.with_suffix(".gputrace")
    if mx.metal.is_available() and os.environ.get(CAPTURE_VARIABLE) == "1" and not file.exists():
        mx.metal.start_capture(str(file))
        _captures.append(file)


_captures: list[Path] = []
"""The trace of the GPU that is under way, if one is."""


def _end_capture() -> None:
    if _captures:
        import mlx.core as mx

        mx.metal.stop_capture()
        _captures.clear()


def _hint() -> str:
    """On Metal, how to see what the GPU does within a step."""
    import mlx.core as mx

    if not mx.metal.is_available() or os.environ.get(CAPTURE_VARIABLE) == "1":
        return ""
    return f"; with {CAPTURE_VARIABLE}=1 before the command, one step of the GPU, too, for Xcode"
