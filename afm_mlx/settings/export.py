"""Settings of the targets of `afm export`, each with its own."""

from __future__ import annotations

from enum import StrEnum

from afm_mlx.settings.sections import Section


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
