"""Perplexity and bits per byte: how well a model predicts texts that it only reads.

Nats per token depend on the tokenizer; bits per byte compare models of any two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from afm_mlx.corpus.sources.hub import PREFIX
from afm_mlx.corpus.sources.item_files import (
    SUFFIXES,
    ItemRow,
    ending,
    files_of_items,
    is_text,
    read_rows,
    read_text_file,
)
from afm_mlx.evaluation.items import Item, Likelihood, Mark, Marks, Passage, Reply
from afm_mlx.evaluation.scores import FROM_ZERO, Ends
from afm_mlx.evaluation.tasks.rows import task_rows, text_field

MARKDOWN = (".md", ".markdown")


@dataclass(frozen=True)
class Perplexity:
    """The task. Each text is read from its beginning, apart from the others."""

    data: str | Path | Sequence[str] = dataclasses.field(repr=False)
    """A text or Markdown file, which is one text; rows of JSONL, CSV or Parquet; a folder of such
    files; `hub:ORG/NAME`; or the texts themselves."""
    field: str = "text"
    """Name of the rows' text."""
    max_chars: int | None = None
    """Only so many characters of each text, from its beginning; None for all."""

    name: ClassVar[str] = "perplexity"
    figures: ClassVar[Mapping[str, str]] = {
        "bits_per_byte": "bits that it takes to tell a byte of the text (UTF-8)",
        "perplexity": "e to the nats per token",
        "nats_per_token": "mean surprise of a token",
    }
    ranges: ClassVar[Mapping[str, Ends]] = dict.fromkeys(figures, FROM_ZERO)

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {"field": self.field, "max_chars": self.max_chars}

    def items(self) -> Sequence[Item]:
        """See `Task`. Empty texts are left out."""
        texts = (text[: self.max_chars] for text in self._texts())
        return [Passage(str(n), text) for n, text in enumerate(filter(None, texts), start=1)]

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`. A text that was not read has no figure."""
        assert isinstance(item, Passage)
        if not isinstance(reply, Likelihood) or not reply.tokens:
            return {}
        size = len(item.text.encode())
        per_token = Mark(-reply.nats / reply.tokens, float(reply.tokens))
        return {
            "bits_per_byte": Mark(-reply.nats / math.log(2) / size, float(size)),
            "perplexity": per_token,
            "nats_per_token": per_token,
        }

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Passage)
        return {"bytes": len(item.text.encode())}

    def _texts(self) -> Iterator[str]:
        if not isinstance(self.data, str | Path):
            yield from self.data
            return
        if str(self.data).startswith(PREFIX):
            yield from map(self._text, task_rows(self.name, self.data, hub_files="*test*"))
            return
        for file in files_of_items(Path(self.data).expanduser(), (*SUFFIXES, *MARKDOWN)):
            if is_text(file) or ending(file) in MARKDOWN:
                yield read_text_file(file)
            else:
                yield from map(self._text, read_rows(file))

    def _text(self, row: ItemRow) -> str:
        return text_field(row, [self.field])
