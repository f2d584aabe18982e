"""Texts that a quantization is fitted to, and texts that it is measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.mixture import HeldOutRows
from afm_mlx.errors import DataError
from afm_mlx.recipe import Recipe
from afm_mlx.settings.palette import Quantize
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.texts import TrainingTexts, open_held_out


def calibration_texts(
    recipe: Recipe, section: Quantize, folder: Path, tokenizer: Tokenizer
) -> tuple[NDArray[np.int32], dict[str, HeldOutRows]]:
    """Rows of the recipe's texts in the shares of [core], [R, T], and held-out rows by source.

    There are fewer rows than asked for where the texts have fewer.

    Raises:
        DataError: shards are damaged, of another tokenizer, or shorter than a row.
    """
    row_tokens = section.calibration_row_tokens
    try:
        texts = TrainingTexts(
            folder,
            dict(recipe.core.mixture) if recipe.core else dict.fromkeys(recipe.data, 1.0),
            tokenizer,
            row_tokens=row_tokens,
            rows_per_step=section.calibration_rows,
            seed=recipe.training.seed,
        )
    except DataError as error:
        if "one row needs" not in str(error):
            raise
        hint = "add text, or --set quantize.calibration_row_tokens=... with fewer"
        raise DataError(str(error), hint=hint) from None
    there = sum(texts.rows.source_rows.values())
    trained = recipe.pretraining_stages() or recipe.prune
    held_out = open_held_out(
        folder,
        recipe.data,
        tokenizer,
        row_tokens=row_tokens,
        span_tokens=recipe.longest_row() if trained else row_tokens,
        most_tokens=recipe.watch.evaluation_tokens,
    )
    return texts.rows.rows(0, min(section.calibration_rows, there)), held_out
