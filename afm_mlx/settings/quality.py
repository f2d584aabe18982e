"""Settings of the quality classifier, of the grades it learns from, and of the math page filter."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from afm_mlx.settings.sections import Count, Fraction, NotNegative, Positive, Section


class Quality(Section):
    """A linear classifier of a text's quality: how it is trained, and what it lets pass."""

    model: str = ""
    """File of the trained classifier, for filtering."""
    keep_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of documents to keep, best first. R24 keeps 25 % of a corpus that was filtered
    before, by a classifier trained on grades; 25 to 40 % is usual."""
    threshold: Fraction | None = None
    """Score, 0 to 1, below which a document is dropped. Absent: the one that keeps `keep_share`
    of the graded texts that were held out in training, or of a sample of the corpus
    (`calibrate`)."""
    good_from: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Grade, 0 to 1, from which a text counts as good where metrics need two classes. Ours."""
    max_chars: Count = 20_000
    """Characters read of each text, from its start. Ours."""
    hash_bits: Annotated[int, Field(ge=8, le=24)] = 20
    """Weights are a table of 2 to the power of this, by hash of the words. Ours."""
    ngrams: Annotated[int, Field(ge=1, le=5)] = 2
    """Longest run of words that is a feature. Ours: longer ones gained nothing."""
    epochs: Count = 5
    """Passes over the graded texts. Ours."""
    rows_per_step: Count = 64
    """Texts of one step. Ours."""
    lr: Positive = 0.2
    """Learning rate of AdaGrad. Ours."""
    weight_decay: NotNegative = 1e-4
    """Weight of the squared weights (halved) in the loss, on those a step touches. Ours."""
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the graded texts, 0 to 1, that is only measured on, whole groups at a time. Ours."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides the order of the texts in training."""


class Grading(Section):
    """Grades from a language model: integers from 0 to 5 on educational value.

    The scale is that of FineWeb-Edu (arXiv:2406.17557); R24 says only that a model graded.
    """

    prompt_chars: Count = 3_000
    """Characters of a document that are shown to the grader, from its start. Ours."""
    sync_every: Count = 16
    """Answers between forced writes to the disk; every answer is handed to the system. Ours."""


class MathPages(Section):
    """Which pages are about mathematics: the four filters of R24, with thresholds of ours.

    A page counts as mathematics when its domain is listed, or its tags or its symbols reach their
    thresholds; and then, where there is a classifier, when that agrees.
    """

    drop: bool = False
    """Drop other pages. Off: pages are only marked, in the fact `math`."""
    least_tags: Count = 1
    """Different template strings (MathML, MathJax, KaTeX, LaTeX environments) that make a page
    mathematics. Ours; R24 names 40 such strings."""
    least_symbols: Count = 5
    """Different symbols that a text must have to count by its symbols. Ours; R24 names 350."""
    symbols_per_1000_chars: Positive = 5.0
    """Symbols among a thousand characters from which a text counts by its symbols. Ours."""
    max_chars: Count = 1_000_000
    """Characters read of each page, from its start. Ours."""
    domains: str = ""
    """File of domains of mathematics, one a line, subdomains included; "#" starts a comment."""
    model: str = ""
    """File of a classifier trained on graded math pages, as that of `quality`."""
    model_threshold: Fraction = 0.5
    """Score, 0 to 1, from which the classifier agrees. Ours."""
