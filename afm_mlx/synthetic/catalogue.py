"""Which kinds of data can be generated: by name, their settings and what makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from afm_mlx.settings.synthetic import (
    SynthBasics,
    SynthCode,
    Synthetic,
    SynthInstructions,
    SynthLongContext,
    SynthMath,
    SynthSafety,
    SynthSummaries,
    SynthTools,
)
from afm_mlx.synthetic.kinds.basics import basics_kind
from afm_mlx.synthetic.kinds.code import code_kind
from afm_mlx.synthetic.kinds.instructions import instructions_kind
from afm_mlx.synthetic.kinds.long_context import long_context_kind
from afm_mlx.synthetic.kinds.math import math_kind
from afm_mlx.synthetic.kinds.safety import safety_kind
from afm_mlx.synthetic.kinds.summaries import summaries_kind
from afm_mlx.synthetic.kinds.tools import tools_kind
from afm_mlx.synthetic.records import Kind

KINDS: dict[str, tuple[type[Synthetic], Callable[[Any], Kind]]] = {
    "basics": (SynthBasics, basics_kind),
    "math": (SynthMath, math_kind),
    "tools": (SynthTools, tools_kind),
    "code": (SynthCode, code_kind),
    "long-context": (SynthLongContext, long_context_kind),
    "summaries": (SynthSummaries, summaries_kind),
    "instructions": (SynthInstructions, instructions_kind),
    "safety": (SynthSafety, safety_kind),
}
"""Section of settings, and the generator made from one."""
