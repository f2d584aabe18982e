"""Which kinds of data can be generated: by name, their settings and what makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from afm_mlx.settings.synthetic import SECTIONS, Synthetic
from afm_mlx.synthetic.kinds.basics import basics_kind
from afm_mlx.synthetic.kinds.code import code_kind
from afm_mlx.synthetic.kinds.instructions import instructions_kind
from afm_mlx.synthetic.kinds.long_context import long_context_kind
from afm_mlx.synthetic.kinds.math import math_kind
from afm_mlx.synthetic.kinds.safety import safety_kind
from afm_mlx.synthetic.kinds.summaries import summaries_kind
from afm_mlx.synthetic.kinds.tools import tools_kind
from afm_mlx.synthetic.records import Kind

_MAKERS: dict[str, Callable[[Any], Kind]] = {
    "basics": basics_kind,
    "math": math_kind,
    "tools": tools_kind,
    "code": code_kind,
    "long-context": long_context_kind,
    "summaries": summaries_kind,
    "instructions": instructions_kind,
    "safety": safety_kind,
}

KINDS: dict[str, tuple[type[Synthetic], Callable[[Any], Kind]]] = {
    name: (section, _MAKERS[name]) for name, section in SECTIONS.items()
}
"""Section of settings, and the generator made from one."""
