"""The texts of a training stage: rows of a mixture, step by step, and held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.held_out import Split
from afm_mlx.corpus.mixture import HeldOutRows, Rows, held_out_rows
from afm_mlx.corpus.shards import Shards
from afm_mlx.settings.sections import Source
from afm_mlx.text.tokenizer import Tokenizer


class TrainingTexts:
    """Rows of a mixture as optimizer steps read them; a function of the seed and the step."""

    def __init__(
        self,
        folder: Path,
        mixture: Mapping[str, float],
        tokenizer: Tokenizer,
        *,
        row_tokens: int,
        rows_per_step: int,
        seed: int,
    ) -> None:
        """Open the shards in `folder`/NAME of each source of `mixture`.

        Raises:
            DataError: shards are damaged, of another tokenizer, or shorter than a row.
        """
        self.shards = {name: open_shards(folder, name, "train", tokenizer) for name in mixture}
        self.rows = Rows(self.shards, mixture, row_tokens=row_tokens, seed=seed)
        self.rows_per_step = rows_per_step

    def targets(self, step: int) -> NDArray[np.int32]:
        """[rows_per_step, row_tokens] tokens to predict in a step, counted from 1."""
        return self.rows.rows((step - 1) * self.rows_per_step, self.rows_per_step)

    def places(self, step: int) -> list[tuple[str, int]]:
        """Source and row number of each of them."""
        return self.rows.places((step - 1) * self.rows_per_step, self.rows_per_step)

    def epochs(self, steps: int) -> dict[str, float]:
        """Passes over each source in the first `steps` steps."""
        return self.rows.epochs(steps * self.rows_per_step)


def open_shards(folder: Path, name: str, split: Split, tokenizer: Tokenizer) -> Shards:
    """Shards whose checksums are right: one read of the files, seconds before hours of work."""
    shards = Shards.open(folder / name, split, tokenizer.fingerprint)
    shards.verify()
    return shards


def open_held_out(
    folder: Path,
    sources: Mapping[str, Source],
    tokenizer: Tokenizer,
    *,
    row_tokens: int,
    span_tokens: int,
    most_tokens: int,
) -> dict[str, HeldOutRows]:
    """Held-out rows of each source that has some, `most_tokens` in all; else as `held_out_rows`.

    Raises:
        DataError: shards are damaged, of another tokenizer, or empty.
    """
    names = [name for name, source in sources.items() if source.held_out_fraction > 0]
    return {
        name: held_out_rows(
            open_shards(folder, name, "held_out", tokenizer),
            row_tokens=row_tokens,
            span_tokens=span_tokens,
            most_tokens=most_tokens // len(names),
        )
        for name in names
    }


def held_out_texts(folder: Path, sources: Mapping[str, Source], tokenizer: Tokenizer) -> list[str]:
    """Documents of each source that no stage trains on, as the tokenizer spells them.

    Raises:
        DataError: shards are damaged, or of another tokenizer.
    """
    return [
        tokenizer.decode(ids.tolist())
        for name, source in sources.items()
        if source.held_out_fraction > 0
        for ids in open_shards(folder, name, "held_out", tokenizer).read_documents()
    ]
