"""The sections that pre-training reads. Every default of the toolkit stands in this package.

Source keys are those used in `models/*.toml`: R24 is arXiv:2407.21075, AX is apple/axlearn.
"""

from __future__ import annotations

from difflib import get_close_matches
from enum import StrEnum
from math import log, pi
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from afm_mlx.settings.code_languages import CODE_LANGUAGES
from afm_mlx.settings.licenses import ANY, PERMISSIVE_WORD, spdx

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Base of every part of a recipe: frozen, no unknown keys, documented fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `true` or text for a number, and numbers for `true`; pydantic converts them."""
        declared = cls.model_fields[info.field_name or ""].annotation
        parts = [declared, *get_args(declared)]  # int | None: both of them
        kinds = {get_args(part)[0] if get_origin(part) is Annotated else part for part in parts}
        number_misread = isinstance(value, (bool, str)) and kinds & {int, float}
        switch_misread = bool in kinds and not isinstance(value, bool)
        if (number_misread or switch_misread) and not kinds & {str}:
            raise PydanticCustomError("kind", "not of its kind")
        return value


class Llama3Rope(Section):
    """Llama 3's rescaling of rotation frequencies. Source: the Llama 3.1 model card's config."""

    factor: Positive
    """How much longer the context became; unitless."""
    low_freq_factor: Positive
    """Wavelengths above trained context / this are stretched by `factor`; unitless."""
    high_freq_factor: Positive
    """Wavelengths below trained context / this stay as they are; unitless."""
    original_max_tokens: Count
    """Context before rescaling, in tokens."""

    @model_validator(mode="after")
    def _factors_differ(self) -> Self:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor ({self.high_freq_factor:g}) must be above "
                f"low_freq_factor ({self.low_freq_factor:g})"
            )
        return self


class Shape(Section):
    """The network: everything that decides its parameters and its function."""

    num_layers: Count
    """Decoder blocks."""
    hidden_size: Count
    """Width of the residual stream."""
    num_heads: Count
    """Query heads."""
    num_kv_heads: Count
    """Key/value heads; divides `num_heads`."""
    head_dim: Count
    """Width of one head; even."""
    intermediate_size: Count
    """Hidden width of the feed-forward layer."""
    vocab_size: Count
    """Rows of the embedding; at least the tokenizer's pieces."""
    rope_base: Positive
    """Base of the rotation frequencies, until a stage changes it."""
    norm_eps: Positive
    """Added to the mean square in RMSNorm."""
    max_tokens: Count
    """Longest context, in tokens."""
    qk_norm: bool = True
    """Normalize each query and key head. Off for Llama-class models."""
    tied: bool = True
    """The embedding is also the output layer."""
    rope_scaling: Llama3Rope | None = None
    """Llama 3's frequency rescaling; absent for AFM."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of "
                f"num_kv_heads ({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even, RoPE rotates pairs")
        return self


class SourceKind(StrEnum):
    """What the files of a data source are."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSONL = "jsonl"
    PARQUET = "parquet"
    HTML = "html"
    WARC = "warc"
    CODE = "code"


class Source(Section):
    """One source of documents, `[data.NAME]`."""

    kind: SourceKind
    """What the files are; decides how documents are read from them."""
    path: str
    """A file, a folder (read recursively), `hub:ORG/NAME` or `hub:ORG/NAME@REVISION`: a data set
    of the Hugging Face hub, or `python:library`, `python:docs`: texts that come with the running
    Python."""
    files: str = ""
    """Only files whose path below `path` matches this, such as `data/train-*`; `*` also stands for
    slashes. Empty: all of the kind."""
    text_field: str = "text"
    """Field or column that holds the text, in JSONL and Parquet; `a.b` is field b in field a."""
    id_field: str = ""
    """Field or column whose value is a document's id. Empty: the file and the row's number."""
    url_field: str = ""
    """Field or column with a document's address. Empty: no addresses."""
    license_field: str = ""
    """Field or column with a document's license, or a list of them. Empty: `license` for all."""
    max_bytes: Count | None = None
    """Stop after this many bytes of text (UTF-8); absent means all of it."""
    held_out_fraction: Fraction = 0.01
    """Share of documents, 0 to 1, kept for validation and never trained on. Ours."""
    license: str = ""
    """License of the texts that state none themselves, as an SPDX expression where there is one."""
    licenses: tuple[str, ...] = ()
    """Licenses that documents may have: SPDX ids, `permissive` for those that ask for no more than
    a notice, `any` for all that are known. Of `A OR B` one is enough, of `A AND B` both are needed.
    Empty: licenses are not looked at."""
    keep_unlicensed: bool = False
    """With `licenses`: also keep documents whose license is missing or not known."""
    code_languages: tuple[str, ...] = ()
    """Only source code in these languages, such as `Swift` or `C++`. Empty: all."""

    @field_validator("licenses", mode="after")
    @classmethod
    def _licenses_are_known(cls, licenses: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            one if one in (PERMISSIVE_WORD, ANY) else _single_license(one) for one in licenses
        )

    @field_validator("code_languages", mode="after")
    @classmethod
    def _languages_are_known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        names = {name.lower(): name for name in CODE_LANGUAGES}
        for language in languages:
            if language.lower() not in names:
                near = get_close_matches(language.lower(), names, n=1)
                meant = f", did you mean '{names[near[0]]}'?" if near else ""
                raise ValueError(f"'{language}' is no language we tell by its files{meant}")
        return tuple(names[language.lower()] for language in languages)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.code_languages and self.kind is not SourceKind.CODE:
            raise ValueError(f"code_languages is for kind code, and kind is {self.kind}")
        if self.path.startswith("hub:") and self.kind is SourceKind.CODE:
            raise ValueError(
                "kind code needs a folder, and path names the hub: its licenses are in other files"
            )
        return self


def _single_license(text: str) -> str:
    written = spdx(text)
    if written is None or " " in written:
        raise ValueError(
            f"'{text}' is no SPDX id of a license, such as MIT or Apache-2.0, "
            f"nor {PERMISSIVE_WORD} or {ANY}"
        )
    return written


class Tokenizer(Section):
    """SentencePiece BPE. The vocabulary size is `shape.vocab_size`."""

    reserved_pieces: Count = 64
    """Control pieces kept at the end of the vocabulary for roles, turns and tools. Ours."""
    character_coverage: Fraction = 0.9995
    """Share of characters that get a piece of their own; the rest fall to bytes. Source: AX."""
    max_sentence_bytes: Count = 32_768
    """Longer texts are cut for training the tokenizer. Source: AX."""
    training_bytes: Count = 200_000_000
    """Text the tokenizer is trained on, in bytes, drawn evenly from the sources. Ours."""


class OptimizerName(StrEnum):
    """Update rules."""

    AFM = "afm"
    ADAMW = "adamw"
    MUON = "muon"


class Optimizer(Section):
    """The update rule of all pre-training stages. Defaults: AX, `adastar`; R24 calls it RMSProp."""

    name: OptimizerName = OptimizerName.AFM
    """afm: RMSProp with momentum; adamw; muon (matrices; the rest by adamw)."""
    update_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of the averaged update (beta 1). Source: AX."""
    square_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of the averaged squared gradient (beta 2). Source: AX."""
    eps: Positive = 1e-30
    """Added to the squared gradient (adamw: 1e-8 outside the root is usual). Source: AX."""
    clip_norm: Positive = 1.0
    """Global gradient norm above which the gradient is scaled down. Source: AX."""
    block_clip: Positive = 1.0
    """Root mean square above which one tensor's update is scaled down; afm only. Source: AX."""
    skip_norm: Positive = 100.0
    """A step whose gradient norm is this or more, or not finite, changes nothing. Source: AX."""
    mup_base_width: Count = 768
    """Width at which learning rates were tuned: linear layers of a wider model get
    lr * mup_base_width / hidden_size. Source: arXiv:2309.14322, section 3.2.4; AX."""


class Compute(StrEnum):
    """Number format of forward and backward passes; weights and states are float32 always."""

    DEVICE = "device"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Shard(StrEnum):
    """What is cut when several processes train."""

    NONE = "none"
    FULL = "full"
    TENSOR = "tensor"


class Training(Section):
    """What every training stage shares, and what changes the resulting weights."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides initialization and the order of rows."""
    compute: Compute = Compute.DEVICE
    """device: bfloat16 on a GPU, float32 on the CPU."""
    z_loss: NotNegative = 1e-6
    """Weight of the squared logarithm of the softmax normalizer. Source: AX."""
    micro_rows: Count | None = None
    """Most rows in memory at once; gradients of several are added up. Absent: a whole step."""
    document_mask: bool = False
    """Tokens attend only within their own document. Source: AX trains without."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, about 40 % more time."""
    shard: Shard = Shard.NONE
    """How several processes hold the weights. none: all have all of them, and share out the rows.
    full: also weights and optimizer state are cut, for models that do not fit one machine; about
    half as much again is sent. Source: arXiv:1910.02054, stage 3. tensor: in pre-training, each
    computes some of the heads and units of all rows, for rows too long for one machine; other
    stages go as with none. Source: arXiv:1909.08053, section 3."""
    most_skipped_steps: Count = 20
    """Stop when this many steps in a row are skipped for their gradient. Ours."""
    loss_bytes: Count = 64 * 2**20
    """Budget for the logits held at once, in bytes; more are computed in chunks. Ours."""

    def rows_at_once(self, rows_per_step: int) -> int:
        """Rows of one micro-batch of a stage with `rows_per_step`."""
        return min(self.micro_rows or rows_per_step, rows_per_step)


class Watch(Section):
    """What a training run shows and saves; nothing here changes the resulting weights."""

    log_every_steps: Count = 10
    """Steps between lines of the log."""
    evaluate_every_steps: Count = 200
    """Steps between validations."""
    evaluation_tokens: Count = 65_536
    """Most held-out tokens of one validation, evenly from the sources."""
    snapshot_every_seconds: Positive = 600.0
    """Seconds between snapshots that a run can resume from."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the device's memory at which the run saves and stops."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts continued at each validation."""
    sample_tokens: Count = 48
    """Tokens written for each prompt."""


def rope_base(base: float, trained_tokens: int, wanted_tokens: int) -> float:
    """RoPE base that stretches a trained context to a longer one.

    Args:
        base: base the model was trained with, above 1.
        trained_tokens: context it was trained with, in tokens; above 2 pi.
        wanted_tokens: context that the new base is for, in tokens.

    Source: arXiv:2310.05209, critical dimension. The 6,315,089 of arXiv:2407.21075 is
    `rope_base(500_000, 8_192, 32_768)`.
    """
    exponent = log(wanted_tokens / (2 * pi)) / log(trained_tokens / (2 * pi))
    return float(base**exponent)


class Pretraining(Section):
    """One of the three pre-training stages."""

    tokens: Count
    """Tokens trained on."""
    row_tokens: Annotated[int, Field(ge=8)]
    """Tokens in a row; at least 8."""
    rows_per_step: Count
    """Rows of one optimizer step."""
    lr: Positive
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)]
    """Steps of linear warm-up."""
    final_lr_fraction: Fraction
    """Learning rate at the end of the cosine, as a share of the peak."""
    weight_decay: NotNegative
    """Decoupled decay per step, times the schedule but not the learning rate."""
    mixture: dict[str, Positive]
    """Share of rows from each data source; normalized to 1."""
    rope_base: Positive | None = None
    """Base of the rotation frequencies. Absent: as in the stage before, and in [context] grown
    from it by `rope_base`, from that stage's rows to these."""

    @property
    def steps(self) -> int:
        """Optimizer steps: whole steps that cover `tokens`."""
        return -(-self.tokens // self.tokens_per_step)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.row_tokens * self.rows_per_step

    @model_validator(mode="after")
    def _has_a_mixture(self) -> Self:
        if not self.mixture:
            raise ValueError("mixture names no data source")
        return self
