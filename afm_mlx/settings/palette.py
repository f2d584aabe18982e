"""Sections of the stages that make weights small: quantize, recover, and the product adapters.

Sizes and learning rates have no default: a recipe states them. Constants of an algorithm do.
Source keys: R24 is arXiv:2407.21075; B24 is Apple's post of July 2024; LS, OB are notes on R24;
TK is Apple's page on adapter training; QR a reproduction of 2-bit training. `Ours`: nobody has
published it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from afm_mlx.settings.alignment import Conversations, FineTuning
from afm_mlx.settings.compression import LabelTime
from afm_mlx.settings.sections import Count, Fraction, NotNegative, Positive, Section


class DamageMeasure(StrEnum):
    """How it is found what few bits cost a matrix."""

    ESTIMATE = "estimate"
    MEASURED = "measured"


class Quantize(Section):
    """Palettization: each group of channels shares a small table of values."""

    target_bits_per_weight: Positive
    """Average bits per weight after the matrices are given their widths, tables not counted."""
    target_counts_embedding: bool = False
    """The average includes the embedding, and an untied output layer. Ours; B24 does not say."""
    bits: Literal[2, 4] = 4
    """Bits of a weight in ordinary matrices. Source: LS, OB."""
    low_bits: Literal[2, 4] = 2
    """Bits of a weight in the least sensitive matrices. Source: LS, OB."""
    high_bits: Literal[4, 8] = 4
    """Bits of a weight in the most sensitive matrices; 8: integers with one scale per row. Ours: on
    SmolLM2-135M at 3.5 bits, a third width gained nothing."""
    embedding_bits: Literal[8] = 8
    """Bits of the embedding: integers with one scale per row. Source: LS."""
    damage: DamageMeasure = DamageMeasure.ESTIMATE
    """How the damage of low bits is found. estimate: to second order, from one backward pass.
    measured: each matrix alone is stored so, and the model reads the texts again. Ours."""
    equalize: bool = True
    """First move scales between channels, which changes no output, so that tables fit. Ours."""
    weighted: bool = True
    """k-means counts an error by how much it changes what the model predicts. Off: all
    errors alike, the report's k-means, as far as it says; error_feedback must be off, too. Ours."""
    error_feedback: bool = True
    """Columns are rounded in turn, and later ones make up for the errors of earlier ones. Ours."""
    damping: Positive = 0.01
    """Added to the diagonal of E[x x^T] with error feedback, as a share of its mean. Source:
    arXiv:2210.17323."""
    correct_drift: bool = True
    """Matrices are first moved to make up for what the layers before them, in tables, do to their
    inputs. Source: arXiv:2504.02692, in a form of ours."""
    drift_damping: Positive = 0.05
    """How far they stay where inputs are small: as `damping`, for this move alone. Ours."""
    group_channels: Count = 16
    """Output channels that share one table. Source: OB."""
    cluster_iterations: Count = 300
    """Most rounds of k-means; they run over counts in bins, and cost little. Ours."""
    cluster_tolerance: Positive = 1e-6
    """k-means stops when no entry moves by more than this share of its group's range. Ours."""
    calibration_rows: Count = 512
    """Rows that the inputs of each matrix are measured on. Ours."""
    calibration_row_tokens: Count = 2_048
    """Tokens in such a row. Ours."""
    gradient_rows: Count = 64
    """How many of these rows gradients are taken on. Ours."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits that a matrix may have, ascending."""
        return tuple(sorted({self.low_bits, self.bits, self.high_bits}))

    @model_validator(mode="after")
    def _feedback_is_weighted(self) -> Self:
        if self.error_feedback and not self.weighted:
            raise ValueError("weighted is false, and error_feedback, which weighs errors, is true")
        return self

    @model_validator(mode="after")
    def _target_is_between(self) -> Self:
        if not self.low_bits <= self.target_bits_per_weight <= self.high_bits:
            raise ValueError(
                f"target_bits_per_weight ({self.target_bits_per_weight:g}) must be between "
                f"low_bits ({self.low_bits}) and high_bits ({self.high_bits}, at most 8)"
            )
        return self


class RecoverMethod(StrEnum):
    """What is trained to win back what quantization lost."""

    LORA = "lora"
    TABLES = "tables"
    QAT = "qat"


class RecoverStart(StrEnum):
    """How the factors of a recovery adapter start."""

    RANDOM = "random"
    RESIDUAL = "residual"


class LessonOrder(StrEnum):
    """When recovery reads conversations, where it reads texts, too."""

    TEXTS_FIRST = "texts-first"
    MIXED = "mixed"


class Recover(Section):
    """Winning back what quantization lost, by training."""

    method: RecoverMethod = RecoverMethod.LORA
    """lora: adapters beside the frozen weights, one of each rank. tables: the tables' own values
    and the gains of norms, which takes no more bits. qat: all weights, while they are rounded to 2
    bits; it starts from the 16-bit model. Source: OB, LS for lora, QR for qat; ours for tables."""
    mixture: dict[str, Positive] = Field(default={})
    """Share of rows from each [data.NAME]; without any, all of them alike."""
    data: dict[str, Conversations] = Field(default={})
    """Files of conversations, by name."""
    tokens: Count
    """Tokens trained on. Each rank sees the same ones."""
    conversation_fraction: Fraction = 0.5
    """Share of the steps that read conversations where there are texts and conversations, 0 to 1.
    Ours."""
    order: LessonOrder = LessonOrder.TEXTS_FIRST
    """texts-first: texts of pre-training, then conversations. mixed: both by turns, so that what is
    won on the one is not lost on the other. Source: OB, LS for texts-first; ours for mixed."""
    row_tokens: Annotated[int, Field(ge=8)]
    """Tokens in a row, at least 8."""
    rows_per_step: Count
    """Rows of one optimizer step."""
    lr: Positive
    """Peak learning rate."""
    warmup_fraction: Fraction = 0.01
    """Share of steps of linear warm-up, 0 to 1. Ours."""
    final_lr_fraction: Fraction = 0.1
    """Learning rate at the end of the cosine, as a share of the peak. Ours."""
    weight_decay: NotNegative = 0.0
    """Decoupled decay of what is trained. Source: QR for qat; ours for the others."""
    reference_weight: Fraction = 1.0
    """Share of the target on the 16-bit model's predictions, 0 to 1; the rest is the text's token.
    Ours."""
    candidates: Annotated[int, Field(ge=1, le=1_024)] = 64
    """Tokens of the 16-bit model that count, its likeliest; all others count as one. Ours."""
    labels: LabelTime = LabelTime.BEFORE
    """before: the 16-bit model reads all rows first, and need not be in memory while training is
    under way. live: it reads each step's rows as they are trained on. It reads them once either
    way, whatever the number of ranks. Same result."""
    ranks: tuple[Count, ...] = (8, 16, 32)
    """Ranks to train, one adapter each. Source: OB, LS."""
    product_rank: Count = 16
    """Rank that product adapters start from; one of `ranks`. Source: OB, LS."""
    scale: Positive = 1.0
    """Alpha over rank: what the adapter's output is multiplied by. Ours."""
    start: RecoverStart = RecoverStart.RANDOM
    """random: the first factor is drawn, and the second is 0. residual: the part of the tables'
    errors that factors of this rank can take without training; it wants a lower lr. Source: AX for
    random; arXiv:2410.06040 for residual, with outputs weighted by gradients."""
    calibration_rows: Count = 32
    """Rows that inputs and gradients are measured on, with start residual. Ours."""
    held_out_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of conversations, 0 to below 1, never trained on; the model is measured on them before
    and after. Ours."""
    skip_bad: bool = False
    """Leave out, name and count lines that are no conversation, instead of stopping at one."""
    group_channels: Count = 16
    """With qat, output channels that share one table. Source: OB."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """With qat, what the average of the weights keeps at each step, 0 to below 1; the average is
    the result. Source: QR for an average; the number is ours."""

    @property
    def starts_with_residual(self) -> bool:
        """Whether adapters begin with what they can take of the tables' errors."""
        return self.method is RecoverMethod.LORA and self.start is RecoverStart.RESIDUAL

    @property
    def steps(self) -> int:
        """Optimizer steps: whole steps that cover `tokens`."""
        return -(-self.tokens // (self.row_tokens * self.rows_per_step))

    @model_validator(mode="after")
    def _trains_the_product_rank(self) -> Self:
        if self.product_rank not in self.ranks:
            raise ValueError(f"product_rank ({self.product_rank}) is not one of ranks {self.ranks}")
        return self


class Adapter(FineTuning):
    """One product adapter, `[adapters.NAME]`; it starts from the recovery adapter of its rank."""

    data: Annotated[dict[str, Conversations], Field(min_length=1)]
    """Files of conversations, by name."""
    lr: Positive
    """Learning rate. TK's example has 1e-3."""
    dropout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of residual branch values set to zero, 0 to below 1. Ours; TK names none."""
    rank: Count = 16
    """Rank of the factors; one of [recover]'s, where there is one. Source: OB, LS."""
    scale: Positive = 1.0
    """Alpha over rank: what the adapter's output is multiplied by. One that starts from a recovery
    adapter keeps that one's. Ours."""
