"""Tokenizer: train it on texts drawn evenly from all sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from afm_mlx.artifact import Inputs
from afm_mlx.corpus.clean import read_clean
from afm_mlx.corpus.documents import read_documents
from afm_mlx.corpus.sources.hub import PINS, hub_paths, keep_pins, pinned_sources
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.settings.sections import Source
from afm_mlx.text.tokenizer import train_tokenizer


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Train a tokenizer on the recipe's sources, clean where there is [clean].

    Leaves its files in `out`/tokenizer.

    Raises:
        DataError: a source is missing or empty, or there is too little text for the vocabulary.
    """
    section = recipe.tokenizer
    sources = dict(recipe.data)
    if "clean" not in inputs:
        sources = pinned_sources(recipe.data, out / PINS)
        keep_pins(sources, out / PINS)
    metrics = train_tokenizer(
        _texts(sources, inputs),
        out / "tokenizer",
        vocab_size=recipe.shape.vocab_size,
        reserved_pieces=section.reserved_pieces,
        character_coverage=section.character_coverage,
        max_sentence_bytes=section.max_sentence_bytes,
        training_bytes=section.training_bytes,
    )
    return metrics | ({"hub": found} if (found := hub_paths(sources)) else {})


def _texts(named: Mapping[str, Source], inputs: Inputs) -> Iterator[str]:
    """One document of each source in turn, until all are exhausted."""
    skipped: Counter[str] = Counter()
    sources = [
        read_clean(name, inputs["clean"])
        if "clean" in inputs
        else read_documents(name, source, skipped)
        for name, source in named.items()
    ]
    for turn in zip_longest(*sources):
        for document in turn:
            if document is not None:
                yield document.text
