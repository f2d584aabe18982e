"""Data: turn the documents of every source into token shards."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from afm_mlx.artifact import Inputs, write_text
from afm_mlx.corpus.clean import read_clean
from afm_mlx.corpus.counts import read_facts
from afm_mlx.corpus.documents import Document, read_documents
from afm_mlx.corpus.shards import write_shards
from afm_mlx.corpus.sources.hub import PINS, hub_paths, pinned_sources
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.text.tokenizer import Tokenizer


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Write the shards of each source to `out`/NAME. A source that is finished is kept.

    Raises:
        DataError: a source is missing or empty, or the disk is full.
    """
    tokenizer = Tokenizer.open(inputs["tokenizer"] / "tokenizer")
    metrics: dict[str, Any] = {}
    sources = dict(recipe.data)
    if "clean" not in inputs:  # what the tokenizer was trained on
        sources = pinned_sources(recipe.data, inputs["tokenizer"] / PINS)
    for name, source in sources.items():
        folder, done = out / name, out / f"{name}.json"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            skipped: Counter[str] = Counter()
            documents = (
                read_clean(name, inputs["clean"])
                if "clean" in inputs
                else read_documents(name, source, skipped)
            )
            kinds = {"licenses": Counter[str](), "code_languages": Counter[str]()}
            written = write_shards(
                _counted(documents, **kinds),
                tokenizer,
                folder,
                held_out_fraction=source.held_out_fraction,
            )
            found = {kind: dict(sorted(counts.items())) for kind, counts in kinds.items() if counts}
            hub = hub_paths({"hub": source})  # with its commit
            write_text(done, json.dumps(written | {"skipped": dict(skipped)} | found | hub))
        metrics[name] = read_facts(done, hint=f"delete {done}, and run again")
        progress.say(f"  {name}: {_summary(metrics[name])}")
    return metrics


def _counted(
    documents: Iterable[Document], *, licenses: Counter[str], code_languages: Counter[str]
) -> Iterator[Document]:
    """The same documents; counts their licenses and languages, where they have some."""
    for document in documents:
        licenses.update([document.license] if document.license else [])
        code_languages.update([document.code_language] if document.code_language else [])
        yield document


def _summary(counts: dict[str, Any]) -> str:
    """One source in one line."""
    skipped = ", ".join(f"{count:,} {why}" for why, count in counts["skipped"].items())
    return (
        f"{counts['train_documents']:,} documents, {counts['train_text_bytes'] / 1e6:,.1f} MB, "
        f"{counts['train_tokens']:,} tokens, and {counts['held_out_tokens']:,} tokens held out"
        + (f"; skipped: {skipped}" if skipped else "")
    )
