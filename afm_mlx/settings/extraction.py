"""Settings of main-content extraction."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from afm_mlx.settings.sections import Count, Fraction, Section


class ExtractMode(StrEnum):
    """How a page becomes text."""

    READER = "reader"
    BALANCED = "balanced"
    FAST = "fast"


class Extract(Section):
    """Main content of HTML pages, `[clean.extract]`."""

    mode: ExtractMode = ExtractMode.BALANCED
    """reader: the Reader algorithm with the fallback rule. balanced: blocks that several extractors
    agree on; the best F1. fast: resiliparse alone, some four times faster than balanced, tables
    become lines of text."""
    votes: Annotated[int, Field(ge=1, le=3)] = 2
    """Of the three voters of `balanced` (Reader, trafilatura's precise rules, Boilerpipe), how
    many must have kept a block; 1 to 3. Ours, measured by `benchmarks/extraction.py`."""
    block_overlap: Fraction = 0.5
    """Share of a block's 4-grams of words, 0 to 1, that a voter's text must hold to count as
    having kept the block. Ours, measured likewise."""
    least_reader_words: Count = 200
    """`reader` mode: a Reader output with fewer words gives way to the fallback, blocks of the page
    that two of Reader, Boilerpipe and resiliparse kept; in words. Ours, no number is public."""
    least_overlap: Fraction = 0.5
    """The fallback is taken also below this overlap, 0 to 1: in `reader` mode the share of Reader's
    4-grams that Boilerpipe kept, in `balanced` the share of what both kept that the result holds.
    Ours."""
    code_share: Fraction = 0.6
    """`balanced`: a page with code blocks whose result has fewer words than this share of what
    resiliparse finds is taken as documentation, and resiliparse decides; 0 to 1. Ours."""
    least_words: Count = 50
    """Pages with fewer words of main content are dropped; in words. Ours."""
    most_characters: Count = 8 * 2**20
    """Longer pages are dropped unread; in characters of HTML. Ours: the longest document."""
    most_elements: Count = 50_000
    """Pages with more elements are dropped: they take many seconds. Ours."""
    most_nested_characters: Count = 80_000_000
    """Pages are dropped whose characters, each counted once for every element around it, are more;
    elements count as 40. Libraries look at all that is in an element for each one, which took
    minutes. Ours."""
