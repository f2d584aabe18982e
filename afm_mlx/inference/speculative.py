"""A smaller model that guesses ahead: the larger one checks several guesses in one pass.

Every token is the larger model's own choice, so answers are the same with a draft and without, but
for float rounding: a pass over several tokens adds in another order than one over each. Draws use
the same random key for guess and check, so that guesses are right more often when sampling, too.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from afm_mlx.compat import compute_dtype
from afm_mlx.errors import ModelError
from afm_mlx.inference.memory import Sizes, sizes_of

if TYPE_CHECKING:
    import mlx.core as mx

    from afm_mlx.decoder.decoder import Decoder
    from afm_mlx.text.tokenizer import Tokenizer

DRAFT_TOKENS = 3
"""Tokens guessed at a time, unless told; the default of mlx-lm's commands."""


class Draft:
    """A model that guesses for another one with the same tokenizer."""

    def __init__(self, model: Decoder, folder: Path, *, tokens: int = DRAFT_TOKENS) -> None:
        """Put `model` together with the tokenizer of its folder; it guesses `tokens` at a time.

        Raises:
            DataError: there is no tokenizer in the folder, or it cannot be read.
        """
        from afm_mlx.text.tokenizer import Tokenizer

        self.model, self.folder, self.tokens = model, folder, tokens
        self.tokenizer = Tokenizer.open(folder)

    @classmethod
    def open(
        cls, path: Path, *, dtype: mx.Dtype | None = None, tokens: int = DRAFT_TOKENS
    ) -> Draft:
        """Load a model folder.

        Raises:
            ModelError: the folder is no model that we can represent.
            DataError: it has no tokenizer that can be read.
        """
        from afm_mlx.decoder.checkpoint import open_checkpoint

        return cls(open_checkpoint(path, dtype=dtype or compute_dtype()), path, tokens=tokens)

    @cached_property
    def sizes(self) -> Sizes:
        """What the draft takes in memory."""
        return sizes_of(self.model)

    def check(self, tokenizer: Tokenizer) -> None:
        """Look whether the draft's tokens mean the same as those of the model it guesses for.

        Raises:
            ModelError: they do not.
        """
        if self.tokenizer.fingerprint != tokenizer.fingerprint:
            raise ModelError(
                f"the draft '{self.folder}' has another tokenizer than '{tokenizer.folder}'",
                hint="a draft must be made with the model's own tokenizer",
            )
