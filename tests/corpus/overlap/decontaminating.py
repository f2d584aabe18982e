"""Benchmarks, documents, and what of them goes."""

import json

from afm_mlx.corpus.overlap.decontaminate import Decontamination
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import (
    shard_name,
    write_shard,
)
from afm_mlx.settings.decontamination import Decontaminate

PEARLS = "Anna has four blue pearls and buys seven more; how many pearls has Anna now?"  # 15 words
HANZI = "".join(map(chr, range(0x4E00, 0x4E00 + 60)))  # 60 different characters


def hosted(text, number=0):
    """The text between words that no other document has."""
    return f"before{number} it stands this\n\n{text}\n\nafter{number} it stands that"


def settings_of(folder, benchmarks, **more):
    """Settings, and a JSONL file for each benchmark: items are texts, or rows."""
    paths = {}
    for name, items in benchmarks.items():
        rows = [{"text": item} if isinstance(item, str) else item for item in items]
        path = folder / f"{name}.bench.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths[name] = {"path": str(path)}
    return Decontaminate.model_validate({"benchmarks": paths} | more)


def prepare(folder, shards, settings):
    """What `prepare` writes for shards of texts."""
    step = Decontamination(settings)
    prepared = []
    for number, texts in enumerate(shards):
        shard = folder / shard_name(number)
        write_shard(shard, (Record(f"{number}-{i}", text) for i, text in enumerate(texts)))
        prepared.append(folder / f"{number:05}.hits")
        step.prepare(shard, prepared[-1])
    return prepared


def decide(folder, shards, settings):
    """Metrics, and {(shard, line): evidence} of the documents that go."""
    prepared = prepare(folder, shards, settings)
    metrics = Decontamination(settings).decide(prepared, folder / "out")
    dropped = {}
    for number in range(len(shards)):
        for line in (folder / "out" / f"{number:05}.drops.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert row["rule"] == "contaminated"
            dropped[number, row["line"]] = row["evidence"]
    return metrics, dropped


def lines(folder, texts, settings):
    """Numbers of the texts that go."""
    return [line for _, line in decide(folder, [texts], settings)[1]]


def words(count, letter="w", start=0):
    return " ".join(f"{letter}{i}" for i in range(start, start + count))
