"""What came into the steps of a record shard, what went out, and what was dropped by which rule."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from afm_mlx.corpus.record import Drop, Record
from afm_mlx.errors import DataError

_COUNTS_NAME = re.compile(r"\d{5,}\.counts\.json")
_IN_AND_OUT = ("in", "out", "bytes_in", "bytes_out")


class Tally:
    """Counts while the records of one shard go through their steps. Bytes are of UTF-8 text."""

    def __init__(self, names: Sequence[str]) -> None:
        nothing = {"in": 0, "out": 0, "bytes_in": 0, "bytes_out": 0, "seconds": 0.0}
        self.steps: dict[str, dict[str, Any]] = {name: dict(nothing) for name in names}
        self.sources: dict[str, dict[str, Any]] = {}

    def came_in(self, record: Record, size: int) -> None:
        """Count a record that was read."""
        source = self._source(record.source)
        source["in"] += 1
        source["bytes_in"] += size

    def passed(
        self,
        name: str,
        record: Record,
        size: int,
        result: Record | Drop,
        after: int,
        seconds: float,
    ) -> None:
        """Count what one step made of a record, its bytes before and after, and the time."""
        step = self.steps[name]
        step["in"] += 1
        step["bytes_in"] += size
        step["seconds"] += seconds
        if isinstance(result, Record):
            step["out"] += 1
            step["bytes_out"] += after

    def went_out(self, record: Record, result: Record | Drop, size: int) -> None:
        """Count what became of a record in the end."""
        source = self._source(record.source)
        if isinstance(result, Drop):
            source["dropped"][result.rule] += 1
            return
        source["out"] += 1
        source["bytes_out"] += size
        source["languages"][result.language] += 1
        source["licenses"][result.license] += 1
        if language := result.facts.get("code_language"):
            source["code_languages"][language] += 1

    def counts(self, seconds: float) -> dict[str, Any]:
        """All of it, ready for JSON; `seconds` is the time that the shard took."""
        sources = list(self.sources.values())
        for step in self.steps.values():
            step["seconds"] = round(step["seconds"], 6)
        total = {name: sum(source[name] for source in sources) for name in _IN_AND_OUT}
        dropped: Counter[str] = sum((source["dropped"] for source in sources), Counter())
        return total | {
            "dropped": dict(sorted(dropped.items())),
            "sources": {name: _sorted(self.sources[name]) for name in sorted(self.sources)},
            "steps": self.steps,
            "seconds": round(seconds, 6),
        }

    def _source(self, name: str) -> dict[str, Any]:
        if name not in self.sources:
            kinds = ("dropped", "languages", "licenses", "code_languages")
            self.sources[name] = dict.fromkeys(_IN_AND_OUT, 0) | {kind: Counter() for kind in kinds}
        return self.sources[name]


def _sorted(source: dict[str, Any]) -> dict[str, Any]:
    return {
        name: dict(sorted(value.items())) if isinstance(value, Counter) else value
        for name, value in source.items()
    }


def counts_of(shard: Path) -> Path:
    """Where the counts of a shard are."""
    return shard.with_name(shard.name.replace(".jsonl.gz", ".counts.json"))


def drops_of(shard: Path) -> Path:
    """Where the drops of a shard are."""
    return shard.with_name(shard.name.replace(".jsonl.gz", ".drops.jsonl.gz"))


def read_counts(folder: Path) -> list[dict[str, Any]]:
    """The counts of a folder's shards, in order.

    Raises:
        DataError: a file is damaged.
    """
    found = [path for path in folder.glob("*.counts.json") if _COUNTS_NAME.fullmatch(path.name)]
    hint = "delete the file, and run the step again"
    return [
        read_facts(path, hint=hint)
        for path in sorted(found, key=lambda path: int(path.name.partition(".")[0]))
    ]


def read_facts(path: Path, *, hint: str) -> dict[str, Any]:
    """The table in a JSON file that a step has written.

    Raises:
        DataError: the file is damaged; it gives `hint`.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise TypeError("not a table")
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"{path} is damaged", hint=hint) from None
    return facts


def add_counts(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts added up: numbers by name, however deep."""
    total: dict[str, Any] = {}
    for one in counts:
        _add(total, one)
    return total


def _add(total: dict[str, Any], one: Mapping[str, Any]) -> None:
    for name, value in one.items():
        if isinstance(value, Mapping):
            _add(total.setdefault(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value
