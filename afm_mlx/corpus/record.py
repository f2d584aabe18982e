"""A document on its way through the corpus pipeline, and why one was dropped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Self

LONGEST_EVIDENCE = 200  # characters kept of what decided a drop; ours


@dataclass(frozen=True)
class Record:
    """A document: its text, and what is known of it."""

    id: str
    """Stable: where it came from, such as a path, `path:line`, or a WARC record's id."""
    text: str
    """The text, or for a page not yet extracted its HTML."""
    source: str = ""
    """Name of the data source."""
    url: str = ""
    """Address of a page."""
    license: str = ""
    """SPDX expression, where known."""
    language: str = ""
    """ISO 639-1 code, once detected."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What steps found out: scores, decisions, times."""

    def to_json(self) -> str:
        """One line of JSON, without a line end; the same record gives the same line."""
        return json.dumps(vars(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The record of one line; unknown fields are an error (TypeError)."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Drop:
    """A document that a rule removed."""

    id: str
    """Id of the record."""
    source: str
    """Its data source."""
    rule: str
    """Name of the rule, such as `heuristics.too-short`."""
    evidence: str
    """What decided: the value and the threshold, at most 200 characters."""

    def to_json(self) -> str:
        """One line of JSON, without a line end."""
        return json.dumps(vars(self), ensure_ascii=False, sort_keys=True)


def drop(record: Record, rule: str, evidence: str) -> Drop:
    """A `Drop` of `record`, with the evidence cut to its length."""
    return Drop(record.id, record.source, rule, evidence[:LONGEST_EVIDENCE])
