"""Settings of the targets of `afm export`, each with its own."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from afm_mlx.settings.sections import Count, Section


class NumberFormat(StrEnum):
    """Number formats of dense weights."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class HuggingFace(Section):
    """Settings of `--to huggingface`."""

    dtype: NumberFormat = NumberFormat.BFLOAT16
    """Number format of the weights. bfloat16 is what Qwen3 and Llama come in."""


class GgufWeights(StrEnum):
    """Formats of matrices in a GGUF file; gains are float32 in all of them."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_1 = "q4_1"
    Q4_0 = "q4_0"


class Gguf(Section):
    """Settings of `--to gguf`."""

    weights: GgufWeights = GgufWeights.F16
    """Format of the matrices. Below f16 they are rounded anew, which loses some of what the model
    knows: tables have no place in GGUF."""


class CoreMlVerifier(StrEnum):
    """What computes a Core ML package to verify it."""

    INTERPRETER = "interpreter"
    COREML = "coreml"


class CoreMl(Section):
    """Settings of `--to coreml`."""

    context_tokens: Count = 1_024
    """Tokens that the cache has room for, which is fixed in the package; of a model that was made
    for fewer, its own number. Others report that the Neural Engine decodes more slowly the longer
    this is. Ours."""
    prefill_tokens: Count = 64
    """Tokens that one call of a function `prefill` takes. Source: one of the lengths of
    apple/coreai-models."""
    decode_tokens: Count = 8
    """Tokens that one call of a function `decode` takes, of which one counts while text is written.
    Rows of less than 32 numbers are padded, so fewer cost the same. Source: apple/coreai-models."""
    package_bytes: Count = 900_000_000
    """Bytes of weights that a package is to have at most. A larger model is cut between layers into
    several packages: others report that the Neural Engine takes none above about a gigabyte, and
    that then the GPU computes without a word. Ours."""
    verify_with: CoreMlVerifier = CoreMlVerifier.INTERPRETER
    """What runs the package to verify it: our interpreter in NumPy, or, on macOS 15 or later,
    `coreml` itself, which we have not seen."""


class CoreAi(Section):
    """Settings of `--to coreai`."""

    context_tokens: Annotated[Count, Field(le=65_536)] = 4_096
    """Most tokens of a conversation; fewer where the model has fewer, and a multiple of
    `prefill_tokens`. Positions are 16-bit numbers. Source: apple/coreai-models 86b363d,
    _constants.py."""

    decode_tokens: Count = 8
    """Tokens of a call that answers: the last axis of the Neural Engine's tensors should not be 1.
    Source: as `context_tokens`, models/base.py."""

    prefill_tokens: Count = 64
    """Tokens of a call that reads a prompt, a multiple of `decode_tokens`. Source: as
    `decode_tokens`."""

    runner_uses: str = ""
    """Name of the adapter that Apple's runner answers with: it knows no adapters, and calls
    functions by fixed names. "none" is the model without one; empty, the first adapter that is
    exported, or else the model."""

    @model_validator(mode="after")
    def _calls_fit(self) -> Self:
        if self.prefill_tokens % self.decode_tokens:
            raise ValueError(
                f"prefill_tokens ({self.prefill_tokens}) must be a multiple of decode_tokens "
                f"({self.decode_tokens})"
            )
        return self
