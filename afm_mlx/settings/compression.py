"""Sections of the stages that make a model smaller: prune and distill.

Sizes and learning rates have no default: a recipe states them. Constants of an algorithm do.
Source keys: LS, OB are notes on arXiv:2407.21075. `Ours`: nobody has published it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from afm_mlx.settings.sections import Count, Fraction, NotNegative, Positive, Section


class Teacher(Section):
    """The larger model that is pruned and distilled from."""

    model: str = ""
    """A finished teacher: recipe name, folder, GGUF file or hub id. Empty: it is trained here, as
    stage `teacher`, like [core]."""
    intermediate_size: Count | None = None
    """Hidden width of the teacher's feed-forward layers, all else being the student's shape; needed
    to prune. Absent: a teacher of any width, that is only distilled from."""
    tokens: Count | None = None
    """Tokens that a teacher is trained on here. Absent: as many as [core]."""

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        if not self.model and self.intermediate_size is None:
            raise ValueError("needs intermediate_size, or model with a finished teacher")
        return self


class PruneMethod(StrEnum):
    """How units are chosen."""

    MASKS = "masks"
    ACTIVATION = "activation"


class Prune(Section):
    """Choosing the feed-forward units that the student keeps."""

    method: PruneMethod = PruneMethod.MASKS
    """masks: soft top-k masks, learned together with the weights. activation: by the size of what a
    unit adds, without training. Source: LS, OB, for masks."""
    tokens: Count
    """Tokens on which masks and weights are trained."""
    row_tokens: Count
    """Tokens in a row."""
    rows_per_step: Count
    """Rows of one optimizer step."""
    lr: Positive
    """Peak learning rate of the weights."""
    warmup_fraction: Fraction = 0.02
    """Share of steps of linear warm-up, 0 to 1. Ours."""
    final_lr_fraction: Fraction = 0.1
    """Learning rate at the end of the cosine, as a share of the peak. Ours."""
    weight_decay: NotNegative = 0.0
    """Decoupled decay of the weights. Ours."""
    score_lr_factor: Positive = 10.0
    """Learning rate of the scores, as a multiple of `lr`. Scores begin with a standard deviation of
    1, and one whose gradient always points one way moves by about 0.55 x lr x score_lr_factor x
    steps in all, with the warm-up and the cosine. Choose it so that this is a few standard
    deviations: they can change places, and part by many times `last_temperature`. A factor that is
    right for 22,000 steps is far too small for 100. Ours."""
    score_weight_decay: NotNegative = 0.0
    """Decoupled decay of the scores. Ours."""
    anneal_fraction: Fraction = 0.4
    """Share of steps over which the kept width shrinks and the mask cools, 0 to 1; cosine. Ours."""
    first_temperature: Positive = 1.0
    """Softness of the mask (epsilon) at the start, in standard deviations of scores. Ours."""
    last_temperature: Positive = 0.02
    """Softness of the mask at the end. Ours."""
    scoring_tokens: Count = 10_000_000
    """Tokens on which first scores, log mean |activation x gradient|, are taken; with `activation`,
    those on which activations are. Ours."""
    mixture: dict[str, Positive] = Field(default={})
    """Share of rows from each data source. Empty: as [core]. Source: LS, OB, the core mixture."""

    @property
    def steps(self) -> int:
        """Optimizer steps: whole steps that cover `tokens`."""
        return -(-self.tokens // (self.row_tokens * self.rows_per_step))

    @model_validator(mode="after")
    def _mask_hardens(self) -> Self:
        if self.last_temperature > self.first_temperature:
            raise ValueError(
                f"last_temperature ({self.last_temperature:g}) is above "
                f"first_temperature ({self.first_temperature:g})"
            )
        return self


class DistillTarget(StrEnum):
    """What of the teacher the student is trained on."""

    TOP = "top"
    LOGITS = "logits"


class LabelTime(StrEnum):
    """When the teacher reads the texts."""

    LIVE = "live"
    BEFORE = "before"


class Distill(Section):
    """Training the student on the teacher's predictions."""

    stages: tuple[Literal["core", "continued", "context"], ...] = ("core",)
    """Pre-training stages that use the teacher. Source: OB; it did not help beyond core."""
    target: DistillTarget = DistillTarget.TOP
    """top: the teacher's likeliest token; logits: its likeliest `candidates`, each with its
    probability. Source: LS, OB, for top."""
    teacher_weight: Fraction = 0.9
    """Share of the target on the teacher, 0 to 1; the rest is the text's token. Source: LS, OB."""
    candidates: Annotated[int, Field(ge=1, le=1_024)] = 64
    """Tokens of the teacher that count with target logits. Ours."""
    temperature: Positive = 1.0
    """With target logits, divides the teacher's logits; above 1 flattens them. Ours."""
    labels: LabelTime = LabelTime.LIVE
    """live: the teacher reads each row as it is trained on. before: it reads the texts once, into
    label files, and need not be in memory afterwards. Same result."""

    @property
    def asked(self) -> int:
        """Candidates that the teacher is asked for at each token."""
        return 1 if self.target is DistillTarget.TOP else self.candidates
