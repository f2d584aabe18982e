"""Section of the corpus pipeline: which steps clean the documents, and how.

The order of the steps is fixed, see docs/corpus.md; a step runs when its section is there.
Source of the order: public notes on R24 (arXiv:2407.21075).
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from afm_mlx.settings.decontamination import Decontaminate
from afm_mlx.settings.extraction import Extract
from afm_mlx.settings.filters import Heuristics, Language, Pii, Words
from afm_mlx.settings.overlap import Dedup
from afm_mlx.settings.quality import MathPages, Quality
from afm_mlx.settings.sections import Count, Section
from afm_mlx.settings.web import Warc

STEPS = (
    "extract",
    "language",
    "words",
    "pii",
    "heuristics",
    "math",
    "dedup",
    "quality",
    "decontaminate",
)
"""Names of the steps, in their order."""


class Clean(Section):
    """From the documents of [data] to clean ones, `[clean]`. Each step is a section of it."""

    shard_bytes: Count = 64 * 2**20
    """A file of records ends with the one that reaches this, in bytes of text; what a resumed run
    repeats, and what one worker does at a time. Ours."""
    workers: Count | None = None
    """Processes; absent: one for each core. Changes no result."""
    sources: dict[str, tuple[str, ...]] = Field(default={})
    """Data sources that a step looks at, by the step's name, as in `pii = ["web"]`. Absent: all;
    for language, words, heuristics, math and quality all but source code."""
    warc: Warc = Warc()
    """Reading WARC files."""
    extract: Extract | None = None
    """Main content of pages, in sources of kind html and warc."""
    language: Language | None = None
    """Languages to keep."""
    words: Words | None = None
    """Profane and unsafe words."""
    pii: Pii | None = None
    """Personal data."""
    heuristics: Heuristics | None = None
    """Rules on words and lines."""
    math: MathPages | None = None
    """Pages about mathematics."""
    dedup: Dedup | None = None
    """Exact and near-duplicates, over all sources."""
    quality: Quality | None = None
    """The quality classifier."""
    decontaminate: Decontaminate | None = None
    """Documents that hold items of benchmarks."""

    def steps(self) -> list[str]:
        """Names of the steps that this section has, in order."""
        return [name for name in STEPS if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _sources_name_steps(self) -> Self:
        for name in self.sources:
            if name not in self.steps():
                raise ValueError(f"sources names '{name}', and there is no [clean.{name}]")
        return self
