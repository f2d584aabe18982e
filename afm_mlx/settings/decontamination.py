"""Settings of decontamination: which benchmarks, and when a shared n-gram counts.

The rule of arXiv:2407.21075 (R24): a document goes when it holds any 4- to 13-gram of a benchmark,
unless 1000 or more documents of the corpus hold that n-gram too: then it is common usage.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from afm_mlx.settings.sections import Count, Fraction, Section

Percentile = Annotated[float, Field(ge=0, le=100)]


class Lengths(StrEnum):
    """Which lengths of n-grams are looked for."""

    PERCENTILE = "percentile"
    ALL = "all"


class Benchmark(Section):
    """One benchmark."""

    path: str
    """A file (JSONL, JSON, CSV, TSV, Parquet, or text with an item on each line; also with .gz), or
    a folder of such files."""
    fields: tuple[str, ...] = ()
    """Fields or columns that make up an item, in this order. Empty: question and choices or
    answer, found by their usual names."""


class Decontaminate(Section):
    """Documents that hold items of benchmarks are dropped, `[decontaminate]`."""

    benchmarks: dict[str, Benchmark] = Field(default={})
    """The benchmarks, by name. R24 uses 811 and names none of them."""
    lengths: Lengths = Lengths.PERCENTILE
    """percentile: one n for each benchmark, the `length_percentile` of its items' words kept within
    `n_min` to `n_max` (GPT-3's rule, arXiv:2005.14165, appendix C). all: every n from `n_min` to
    `n_max`; with `n_min` 4 that is R24 to the letter."""
    length_percentile: Percentile = 5.0
    """Percentile, 0 to 100, of the words of a benchmark's items. Source: as `lengths`."""
    n_min: Count = 8
    """Shortest n-gram, in words. R24 has 4, and needs a corpus in which 4 usual words reach 1000
    documents. Of real documents without contamination, 85 % hold some 4-gram of GSM8K, IFEval or
    MMLU, 35 % a 5-gram, 8 % a 6-gram, 2 % a 7-gram, 0.8 % an 8-gram and 0.02 % a 13-gram (measured
    with benchmarks/decontaminate.py). At the default these three have n = 13; `n_min` decides where
    items are short, or with `lengths` all. Ours."""
    n_max: Count = 13
    """Longest n-gram, in words. Source: R24."""
    shortest_item: Count = 4
    """An item of fewer words than n, but at least this many, is looked for whole; a shorter one
    cannot be found, and is counted. Source: R24's shortest n-gram."""
    shortest_question: Count = 8
    """A question of fewer words than n, but at least this many, is also looked for without its
    choices and answer. Below it are phrases such as 'which of the following is true'. Ours."""
    spaceless_factor: Count = 2
    """In scripts without spaces (Chinese, Japanese, Thai, ...) each character is a word, and
    this many stand for one: n-grams, and the two lengths above, are longer by it. Ours."""
    common_documents: Count = 1_000
    """Common usage: an n-gram in this many documents of the corpus is ignored. Source: R24."""
    common_fraction: Fraction = 1.0
    """In a small corpus this share of its documents, 0 to 1, is enough for common usage; at 1 only
    `common_documents` counts. 0.001 decides below 1,000,000 documents. It saved no document of
    8,027 at the default n, a third of those lost at n = 8; and it lets a benchmark stay that a
    small corpus holds in ten templates. Ours."""
    common_least: Count = 10
    """With `common_fraction`, never fewer documents than this make common usage. Ours."""

    @model_validator(mode="after")
    def _lengths_are_in_order(self) -> Self:
        if self.n_min > self.n_max:
            raise ValueError(f"n_min ({self.n_min}) must not be above n_max ({self.n_max})")
        if self.common_fraction < 1 and self.common_least > self.common_documents:
            raise ValueError(
                f"common_least ({self.common_least}) must not be above "
                f"common_documents ({self.common_documents})"
            )
        return self

    def common_from(self, documents: int) -> int:
        """Documents that make an n-gram common usage, in a corpus of `documents`."""
        if self.common_fraction == 1:
            return self.common_documents
        share = -int(-self.common_fraction * documents // 1)  # rounded up
        return min(self.common_documents, max(self.common_least, share))
