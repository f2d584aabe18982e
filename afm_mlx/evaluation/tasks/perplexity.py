"""Perplexity and bits per byte: how well a model predicts texts that it only reads.

Nats per token depend on the tokenizer; bits per byte compare models of any two.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from afm_mlx.corpus.sources.hub import PREFIX
from afm_mlx.corpus.sources.item_files import SUFFIXES, ItemRow, broken, is_text, read_rows
from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Item, Likelihood, Mark, Marks, Passage, Reply
from afm_mlx.evaluation.tasks.rows import task_rows, text_field

MARKDOWN = (".md", ".markdown")


@dataclass(frozen=True)
class Perplexity:
    """The task. Each text is read from its beginning, apart from the others."""

    data: str | Path
    """A text or Markdown file, which is one text; rows of JSONL, CSV or Parquet; a folder of such
    files; or `hub:ORG/NAME`."""
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
        if str(self.data).startswith(PREFIX):
            yield from map(self._text, task_rows(self.name, self.data, hub_files="*test*"))
            return
        path = Path(self.data).expanduser()
        if not path.exists():
            raise DataError(f"{path} does not exist", hint="check the path")
        files = [path]
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.is_file())
            files = sorted(
                file
                for file in found
                if _kind(file) in (*SUFFIXES, *MARKDOWN)
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
        for file in files:
            if is_text(file) or _kind(file) in MARKDOWN:
                yield _whole(file)
            else:
                yield from map(self._text, read_rows(file))

    def _text(self, row: ItemRow) -> str:
        return text_field(row, [self.field])


def _whole(file: Path) -> str:
    """Raises DataError: the file is no text."""
    try:
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise broken(file, f"line {number:,}", "not UTF-8", hint="give text in UTF-8") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _kind(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).suffix
