"""Conversations that a recipe makes itself, for its later stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from afm_mlx.artifact import Inputs, write_text
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.settings.synthetic import Generated
from afm_mlx.synthetic.catalogue import KINDS
from afm_mlx.synthetic.write import write_records


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Leave NAME.jsonl in `out` for each [synthetic.NAME].

    Sources of the same kind, seed, split and settings are parts of one stream, in which no two
    prompts are equal: so they share none.

    Raises:
        DataError: a kind has not so many different records.
    """
    counts: dict[str, Any] = {}
    for number, names in enumerate(_streams(recipe.synthetic).values()):
        sources = {name: recipe.synthetic[name] for name in names}
        first = sources[names[0]]
        stream = out / f"stream-{number}.jsonl"
        if not stream.exists():  # else an interrupted run has made it
            _, maker = KINDS[first.kind]
            settings = first.section()
            write_records(
                maker(settings),
                settings,
                stream,
                count=sum(source.count for source in sources.values()),
                seed=first.seed,
                split=first.split.value,
                progress=progress,
            )
        with stream.open(encoding="utf-8") as lines:
            for name, source in sources.items():
                write_text(out / f"{name}.jsonl", "".join(islice(lines, source.count)))
                counts[name] = source.count
                progress.say(f"  {name}: {source.count:,} conversations, {source.kind}")
        stream.unlink()
        stream.with_name(f"{stream.name}.card.json").replace(out / f"{names[0]}.card.json")
    return {"conversations": counts}


def _streams(sources: Mapping[str, Generated]) -> dict[str, list[str]]:
    """Names of the sources that are parts of the same stream, by what decides it."""
    found: dict[str, list[str]] = {}
    for name, source in sources.items():
        decides = source.model_dump(mode="json", exclude={"count"})
        found.setdefault(json.dumps(decides, sort_keys=True), []).append(name)
    return found
