"""Whether an exported model says what the model it came from says, token by token.

Both read the same tokens: a prompt, then the tokens that the model in MLX finds likeliest, so one
slip does not make all that follows incomparable. Their logits are compared at the end of the prompt
and after each token.

Shapes. V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import ExportError

if TYPE_CHECKING:
    from afm_mlx.decoder.decoder import Decoder

Logits = np.ndarray[Any, np.dtype[np.float32]]
"""[V] float32, of the token that comes next."""

STEPS = 64
"""Tokens that are decoded after each prompt."""


@dataclass(frozen=True)
class Prompt:
    """What both models read first."""

    name: str
    """One or two words, for the table."""
    text: str
    ids: tuple[int, ...]
    """What the text is to the model's own tokenizer."""
    chats: bool
    """Whether the text is a message of the user, in the chat template."""


class Runtime(Protocol):
    """An exported model that runs: what it was exported for, or what stands in for that here."""

    @property
    def name(self) -> str:
        """Program, version and number format: `transformers 5.24.0, float32`."""

    @property
    def is_stand_in(self) -> bool:
        """Whether this is another program than the one that the export is for."""

    @property
    def context_tokens(self) -> int | None:
        """Most tokens that it can read; None: as many as the model."""

    def prompt_ids(self, text: str, *, chats: bool) -> Sequence[int] | None:
        """Ids of a prompt by the export's own tokenizer, in its chat template where it `chats`.

        None where it has none of its own, but for copies of the model's files.
        """

    def reset(self) -> None:
        """Forget what was read."""

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Read a prompt from the beginning; what comes next."""

    def step(self, token: int) -> Logits:
        """Read one more token; what comes next."""


@dataclass(frozen=True)
class Thresholds:
    """What an export must reach to be published."""

    cosine: float
    """Least cosine at any step, of the logits less their mean (which no probability depends on)."""
    error: float
    """Largest error of a logit at any step, in standard deviations of the step's logits."""
    agreement: float
    """Least share of steps at which both find the same token likeliest, or are tied; 0 to 1."""
    tie: float
    """Two tokens are tied when the model in MLX gives them logits that differ by less than this, in
    standard deviations of the step's logits: rounding decides between them."""


@dataclass(frozen=True)
class PromptResult:
    """How near two models are over one prompt: at its end, and after each token that follows."""

    name: str
    tokens: int
    """Of the prompt."""
    steps: int
    """Comparisons: one at the end of the prompt, and one for each token that was decoded."""
    max_error: float
    """Largest absolute error of a logit."""
    relative_error: float
    """The same in standard deviations of the step's logits."""
    cosine: float
    """Least, as in `Thresholds`."""
    same: int
    """Steps at which both find the same token likeliest."""
    ties: int
    """Other steps at which their two tokens are tied."""
    same_ids: bool | None
    """Whether the export's tokenizer makes the same prompt; None where it has none of its own."""


@dataclass(frozen=True)
class Comparison:
    """What `verify` found."""

    runtime: str
    is_stand_in: bool
    thresholds: Thresholds
    prompts: tuple[PromptResult, ...]

    @property
    def all(self) -> PromptResult:
        """Over all prompts: sums, and the worst."""
        each = self.prompts
        return PromptResult(
            name="all",
            tokens=sum(one.tokens for one in each),
            steps=sum(one.steps for one in each),
            max_error=max(one.max_error for one in each),
            relative_error=max(one.relative_error for one in each),
            cosine=min(one.cosine for one in each),
            same=sum(one.same for one in each),
            ties=sum(one.ties for one in each),
            same_ids=None if None in (ids := [one.same_ids for one in each]) else all(ids),
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """What is below the thresholds, in words; none where the export is good."""
        found, least, wrong = self.all, self.thresholds, []
        if other := [one.name for one in self.prompts if one.same_ids is False]:
            wrong.append(f"its tokenizer makes other prompts ({', '.join(other)})")
        if not found.cosine >= least.cosine:
            wrong.append(f"the cosine is {found.cosine:.6f}, must be {least.cosine} or more")
        if not found.relative_error <= least.error:
            wrong.append(
                f"a logit is off by {found.relative_error:.2g} standard deviations, must be "
                f"{least.error:g} or less"
            )
        agreement = (found.same + found.ties) / found.steps
        if not agreement >= least.agreement:
            wrong.append(
                f"the likeliest token is the same at {agreement:.1%} of the steps, must be at "
                f"{least.agreement:.1%} or more"
            )
        return tuple(wrong)


def verify(
    model: Decoder,
    runtime: Runtime,
    prompts: Sequence[Prompt],
    *,
    steps: int,
    thresholds: Thresholds,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Compare a runtime with the model in MLX that it was exported from.

    Prompts and steps are cut to what both have room for: a prompt to half of it.

    Args:
        model: best in float32, and with the adapter in use that was exported.
        runtime: the export.
        prompts: at least one.
        steps: tokens to decode after each prompt.
        thresholds: kept beside what is found.
        say: called with a line before each prompt.

    Raises:
        ExportError: the runtime gives logits of another number of tokens, or the model itself
            gives such as are not finite.
    """
    room = min(model.shape.max_tokens, runtime.context_tokens or model.shape.max_tokens)
    found = []
    for prompt in prompts:
        theirs = runtime.prompt_ids(prompt.text, chats=prompt.chats)
        same_ids = None if theirs is None else tuple(theirs) == prompt.ids
        cut = replace(prompt, ids=prompt.ids[: max(1, room // 2)])
        decoded = min(steps, room - len(cut.ids))
        say(f"checking: {cut.name}, {len(cut.ids):,} tokens and {decoded:,} that follow")
        one = _compare(model, runtime, cut, decoded, thresholds)
        found.append(replace(one, same_ids=same_ids))
    return Comparison(runtime.name, runtime.is_stand_in, thresholds, tuple(found))


def table(comparison: Comparison) -> str:
    """What was found, a line for each prompt and one for all."""
    head = ("prompt", "tokens", "steps", "max error", "in std", "cosine", "top-1", "tied", "ids")
    rows = [head]
    for one in (*comparison.prompts, comparison.all):
        rows.append(
            (
                one.name,
                f"{one.tokens:,}",
                f"{one.steps:,}",
                f"{one.max_error:.2e}",
                f"{one.relative_error:.2e}",
                f"{one.cosine:.6f}",
                f"{one.same / one.steps:.1%}",
                f"{one.ties:,}",
                {True: "same", False: "other", None: "-"}[one.same_ids],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for name, *figures in rows:
        shown = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *shown]).rstrip())
    return "\n".join(lines)


def _compare(
    model: Decoder, runtime: Runtime, prompt: Prompt, steps: int, thresholds: Thresholds
) -> PromptResult:
    cache = import_mlx_lm("mlx_lm.models.cache").make_prompt_cache(model)
    runtime.reset()
    ours, theirs = _ours(model, prompt.ids, cache), runtime.prefill(prompt.ids)
    found = [_step(ours, theirs, thresholds.tie, prompt.name)]
    for _ in range(steps):
        token = int(ours.argmax())
        ours, theirs = _ours(model, (token,), cache), runtime.step(token)
        found.append(_step(ours, theirs, thresholds.tie, prompt.name))
    return PromptResult(
        name=prompt.name,
        tokens=len(prompt.ids),
        steps=len(found),
        max_error=max(each.error for each in found),
        relative_error=max(each.relative for each in found),
        cosine=min(each.cosine for each in found),
        same=sum(each.same for each in found),
        ties=sum(each.tied for each in found),
        same_ids=None,
    )


@dataclass(frozen=True)
class _Step:
    error: float
    relative: float
    cosine: float
    same: bool
    tied: bool


def _ours(model: Decoder, ids: Sequence[int], cache: Any) -> Logits:
    import mlx.core as mx

    logits = model(mx.array([list(ids)]), cache=cache)[0, -1].astype(mx.float32)
    return np.array(logits)


def _step(ours: Logits, theirs: Logits, tie: float, name: str) -> _Step:
    """Compare the logits of one step."""
    if theirs.shape != ours.shape:
        raise ExportError(
            f"prompt '{name}': the export gives {theirs.size:,} logits, the model {ours.size:,}"
        )
    if not np.isfinite(ours).all():
        raise ExportError(f"prompt '{name}': the model itself gives logits that are not finite")
    if not np.isfinite(theirs).all():
        return _Step(math.inf, math.inf, 0.0, False, False)
    wide, other = ours.astype(np.float64), theirs.astype(np.float64)
    error, spread = float(np.abs(wide - other).max()), float(wide.std())
    relative = error / spread if spread else (math.inf if error else 0.0)
    wide_centered, other_centered = wide - wide.mean(), other - other.mean()
    norms = float(np.linalg.norm(wide_centered) * np.linalg.norm(other_centered))
    cosine = float(wide_centered @ other_centered) / norms if norms else float(not error)
    first, second = int(wide.argmax()), int(other.argmax())
    tied = first != second and float(wide[first] - wide[second]) <= tie * spread
    return _Step(error, relative, cosine, first == second, tied)
