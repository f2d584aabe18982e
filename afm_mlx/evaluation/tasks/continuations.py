"""Which of some texts goes on where a document stops? For models that have only seen documents.

HellaSwag's form (arXiv:1905.07830) on any documents: the true next line, and lines from other
places. Nobody wrote the wrong ones to deceive, so it is easier, and says something of the smallest
models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Choice, Item, Mark, Marks, Option, Reply
from afm_mlx.evaluation.tasks.choices import likeliest
from afm_mlx.evaluation.tasks.rows import task_rows

_SHORTEST = 12  # characters of a line that says something; ours


@dataclass(frozen=True)
class Continuations:
    """The likeliest of several next lines, by log-probability per byte."""

    data: str | Path | Sequence[str] = field(repr=False)
    """Documents: a file of rows with a text, a folder of such files, `hub:ORG/NAME`, or the texts
    themselves."""
    count: int = 200
    """Items, at most; a document gives several where there are fewer documents."""
    options: int = 4
    """Lines to choose from."""
    context_chars: int = 300
    """Characters before, at most; they begin with a whole line."""
    seed: int = 0
    """Decides places and wrong lines."""

    name: ClassVar[str] = "continuations"
    figures: ClassVar[Mapping[str, str]] = {
        "accuracy": "items whose true next line is the likeliest"
    }

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        words = ("options", "context_chars", "seed")
        return {name: getattr(self, name) for name in words}

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        documents = [text.splitlines() for text in self._texts()]
        places = [
            (number, line)
            for number, lines in enumerate(documents)
            for line in range(1, len(lines))
            if len(lines[line].strip()) >= _SHORTEST
        ]
        if len({documents[number][line] for number, line in places}) < self.options:
            raise DataError(
                f"the documents have {len(places)} lines of {_SHORTEST} characters or more, and "
                f"{self.options} are to choose from",
                hint="give more documents",
            )
        draw = np.random.default_rng(self.seed)
        order = draw.permutation(len(places))[: self.count]
        found = []
        for number, line in (places[place] for place in sorted(order)):
            found.append(self._choice(documents, places, number, line, draw))
        return found

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        assert isinstance(item, Choice)
        sizes = [len(option.continuation.encode()) for option in item.options]
        return {"accuracy": Mark(float(likeliest(reply, sizes) == item.right))}

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Choice)
        return {
            "context": item.options[0].context,
            "options": [option.continuation for option in item.options],
            "right": item.right,
        }

    def _texts(self) -> Sequence[str]:
        if not isinstance(self.data, str | Path):
            return self.data
        return [str(row.field("text")) for row in task_rows(self.name, self.data)]

    def _choice(
        self,
        documents: Sequence[Sequence[str]],
        places: Sequence[tuple[int, int]],
        number: int,
        line: int,
        draw: np.random.Generator,
    ) -> Choice:
        lines = documents[number]
        first = line - 1
        while first > 0 and sum(map(len, lines[first - 1 : line])) <= self.context_chars:
            first -= 1
        context = "\n".join(lines[first:line]) + "\n"
        wrong: list[str] = []
        while len(wrong) < self.options - 1:
            other, place = places[int(draw.integers(len(places)))]
            text = documents[other][place]
            if text != lines[line] and text not in wrong:
                wrong.append(text)
        right = int(draw.integers(self.options))
        endings = [*wrong[:right], lines[line], *wrong[right:]]
        key = hashlib.sha256(f"{number}:{line}:{context}".encode()).hexdigest()[:12]
        return Choice(key, tuple(Option(context, ending) for ending in endings), right)
