"""The data card: what a corpus holds, where it is from, and what was left out and why.

It is read from the counts and drops that the steps leave, and from token shards where there are
some; no document is read but a few samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from afm_mlx.artifact import read_manifest
from afm_mlx.corpus.clean import DONE, SOURCES_FOLDER, STEPS_FOLDER, done_files
from afm_mlx.corpus.counts import add_counts, drops_of, read_counts
from afm_mlx.corpus.record_shards import list_shards, read_drops, read_shard
from afm_mlx.errors import DataError

# Characters shown of a document, documents shown of a source, and drops shown of a rule. Ours.
SAMPLE_CHARACTERS = 200
SAMPLES = 2
DROP_SAMPLES = 3

Card = dict[str, Any]


def make_card(run: Path) -> Card:
    """The card of a run's folder, of a folder of clean records, or of one step's folder.

    Returns, ready for JSON: `name`, `sources`, `total`, `drops`, `duplicates`, `contamination`,
    `samples` and `timing`.

    Raises:
        DataError: there is nothing to describe, or a file is damaged.
    """
    folder = run / "clean" if (run / "clean" / STEPS_FOLDER).is_dir() else run
    tokens = read_manifest(run / "data")
    passes = pass_folders(folder)
    if not passes and tokens is None:
        raise DataError(
            f"{run} holds no counts of documents",
            hint="name a folder of runs, such as runs/afm-mac, or the result of a step",
        )
    counted = [add_counts(read_counts(one)) for one in passes]
    sources = _sources(folder, counted, tokens)
    metrics = [_json(one / "decided" / "metrics.json") for one in passes]
    return {
        "name": run.resolve().name,
        "sources": sources,
        "total": _total(sources),
        "drops": _drops(passes, counted),
        "duplicates": _metrics_with(metrics, "near_duplicates"),
        "contamination": _metrics_with(metrics, "benchmarks"),
        "samples": list(_samples(folder, sources)),
        "timing": timing(folder),
    }


def pass_folders(folder: Path) -> list[Path]:
    """The folders with counts of steps: those of all passes, or of one step its own."""
    found = [done.parent for done in done_files(folder)]
    return found or ([folder] if (folder / DONE).exists() else [])


def timing(folder: Path) -> list[dict[str, Any]]:
    """Throughput of each step: documents, MB and seconds of one worker, and per second of it.

    A step over the whole corpus counts the time to prepare and to decide. A row whose `step` is
    "all of" a pass has the wall-clock time, reading and writing included, on `workers`.
    """
    rows: list[dict[str, Any]] = []
    for one in pass_folders(folder):
        counts = add_counts(read_counts(one))
        metrics = _json(one / "decided" / "metrics.json")
        for name, step in counts.get("steps", {}).items():
            seconds = step["seconds"]
            if name == next(iter(counts["steps"])):  # the step over the whole corpus, if any
                seconds += metrics.get("prepare_seconds", 0) + metrics.get("decide_seconds", 0)
            rows.append(_row(name, step["in"], step["bytes_in"], seconds, 1))
        done = _json(one / DONE)
        wall, workers = done["wall_seconds"], done["workers"]
        rows.append(_row(f"all of {one.name}", counts["in"], counts["bytes_in"], wall, workers))
    return rows


def timing_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of `timing` as text."""
    form = "{:24}{:>12}{:>10}{:>11}{:>9}{:>12}{:>8}"
    lines = [form.format("step", "documents", "MB", "seconds", "workers", "documents/s", "MB/s")]
    lines += [
        form.format(
            row["step"],
            f"{row['documents']:,}",
            f"{row['mb']:,.1f}",
            f"{row['seconds']:,.2f}",
            row["workers"],
            f"{row['documents_per_second']:,.0f}",
            f"{row['mb_per_second']:,.1f}",
        )
        for row in rows
    ]
    return "\n".join(lines)


def to_markdown(card: Card) -> str:
    """The card as a page of Markdown."""
    total = card["total"]
    parts = [
        f"# Data card: {_cell(card['name'])}",
        f"{total['documents']:,} documents, {total['bytes']:,} bytes of text"
        + (f", {total['tokens']:,} tokens" if total["tokens"] else "")
        + f"; of {total['documents_read']:,} documents read.",
        "## Sources",
        _table(
            ("source", "kind", "license", "read", "documents", "bytes", "tokens", "held out"),
            (
                (
                    source["name"],
                    source["kind"],
                    ", ".join(source["licenses"]) or "not stated",
                    source["documents_read"],
                    source["documents"],
                    source["bytes"],
                    source["tokens"],
                    source["held_out_tokens"],
                )
                for source in card["sources"]
            ),
        ),
    ]
    if hub := [(source["name"], source["hub"]) for source in card["sources"] if source["hub"]]:
        parts += ["From the hub:", _table(("source", "data set and commit"), hub)]
    skipped = [
        (source["name"], reason, count)
        for source in card["sources"]
        for reason, count in source["skipped"].items()
    ]
    if skipped:
        parts += ["Skipped while reading:", _table(("source", "reason", "count"), skipped)]
    languages = total["languages"]
    if set(languages) - {""}:
        every = sum(languages.values())
        rows = [
            (name or "not asked", many, f"{many / every:.2%}") for name, many in languages.items()
        ]
        parts += ["## Languages", _table(("language", "documents", "share"), rows)]
    for head, column, counts in (
        ("Licenses", "license", total["license_counts"]),
        ("Source code", "language", total["code_languages"]),
    ):
        if counts:
            every = sum(counts.values())
            rows = [(key or "not stated", n, f"{n / every:.2%}") for key, n in counts.items()]
            parts += [f"## {head}", _table((column, "documents", "share"), rows)]
    if card["drops"]:
        parts.append("## Dropped")
        rules = [(one["rule"], one["documents"], f"{one['share']:.3%}") for one in card["drops"]]
        parts.append(_table(("rule", "documents", "share of read"), rules))
        examples = [
            (one["rule"], sample["source"], sample["id"], sample["evidence"])
            for one in card["drops"]
            for sample in one["samples"]
        ]
        parts.append(_table(("rule", "source", "document", "evidence"), examples))
    if found := card["duplicates"]:
        parts += [
            "## Duplicates",
            f"Of {found['documents']:,} documents {found['exact_duplicates']:,} were exact "
            f"({found['exact_duplicate_rate']:.3%}) and {found['near_duplicates']:,} "
            f"near-duplicates ({found['near_duplicate_rate']:.3%}).",
        ]
    if found := card["contamination"]:
        parts += ["## Contamination", _contamination(found)]
    if card["samples"]:
        parts.append("## Samples")
        parts += [
            f"{_cell(sample['source'])}, `{_cell(sample['id'])}`:\n\n> {_cell(sample['text'])}"
            for sample in card["samples"]
        ]
    if card["timing"]:
        parts += ["## Throughput", f"```\n{timing_table(card['timing'])}\n```"]
    return "\n\n".join(parts) + "\n"


def _contamination(found: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            one["items"],
            "/".join(map(str, one["ngram_words"])),
            one["items_found"],
            f"{one['found_fraction']:.2%}",
            one["documents"],
        )
        for name, one in found["benchmarks"].items()
    ]
    names = ("benchmark", "items", "words", "items found", "share", "documents dropped")
    return _table(names, rows)


def _sources(
    folder: Path, counted: Sequence[Mapping[str, Any]], tokens: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """One entry for each source: from its collection, the first and last pass, and its tokens."""
    collected = _json(folder / STEPS_FOLDER / SOURCES_FOLDER / "sources.json")
    collected = collected or _json(folder / "sources" / "sources.json")
    made = tokens["metrics"] if tokens else {}
    named = tokens["settings"]["data"] if tokens else {}
    names = collected or made or (counted[0]["sources"] if counted else {})
    found = []
    for name in names:
        read, shards = collected.get(name, {}), made.get(name, {})
        first = counted[0]["sources"].get(name, {}) if counted else {}
        last = counted[-1]["sources"].get(name, {}) if counted else {}
        in_shards = shards.get("train_documents", 0) + shards.get("held_out_documents", 0)
        text_bytes = shards.get("train_text_bytes", 0) + shards.get("held_out_text_bytes", 0)
        license = read.get("license", "") or named.get(name, {}).get("license", "")
        dropped = add_counts(one["sources"].get(name, {}).get("dropped", {}) for one in counted)
        documents = last.get("out", 0) if counted else in_shards
        license_counts = last.get("licenses", {}) or shards.get("licenses", {})
        found.append(
            {
                "name": name,
                "kind": read.get("kind") or named.get(name, {}).get("kind", ""),
                "hub": read.get("hub", "") or shards.get("hub", ""),
                "licenses": sorted({license, *license_counts} - {""}),
                "documents_read": first.get("in", in_shards),
                "documents": documents,
                "bytes": last.get("bytes_out", 0) if counted else text_bytes,
                "tokens": shards.get("train_tokens", 0) + shards.get("held_out_tokens", 0),
                "held_out_tokens": shards.get("held_out_tokens", 0),
                "license_counts": license_counts or ({license: documents} if documents else {}),
                "code_languages": last.get("code_languages", {})
                or shards.get("code_languages", {}),
                "languages": last.get("languages", {}) or ({"": documents} if documents else {}),
                "skipped": read.get("skipped", {}) or shards.get("skipped", {}),
                "dropped": dict(sorted(dropped.items())),
            }
        )
    return found


def _total(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("documents_read", "documents", "bytes", "tokens", "held_out_tokens")
    total: dict[str, Any] = {name: sum(source[name] for source in sources) for name in names}
    for kind in ("languages", "license_counts", "code_languages"):
        total[kind] = dict(_by_size(add_counts(source[kind] for source in sources)))
    return total


def _drops(passes: Sequence[Path], counted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rules, those that dropped most first, with samples from the shards that have some."""
    rules = _by_size(add_counts(one["dropped"] for one in counted))
    read = counted[0]["in"] if counted else 0
    found = []
    for rule, documents in rules:
        samples = islice(_drops_of(rule, passes), DROP_SAMPLES)
        entry = {"rule": rule, "documents": documents, "share": documents / max(1, read)}
        found.append(entry | {"samples": list(samples)})
    return found


def _drops_of(rule: str, passes: Sequence[Path]) -> Iterator[dict[str, str]]:
    for folder in passes:
        for counts in sorted(folder.glob("*.counts.json")):
            if rule not in _json(counts).get("dropped", {}):
                continue
            shard = folder / counts.name.replace(".counts.json", ".jsonl.gz")
            for drop in read_drops(drops_of(shard)):
                if drop.rule == rule:
                    yield {"id": drop.id, "source": drop.source, "evidence": drop.evidence}


def _samples(folder: Path, sources: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Documents of each source: the first of a shard at the start, and of one in the middle."""
    of_one_step = list_shards(folder)
    for name in [None] if of_one_step else [source["name"] for source in sources]:
        shards = of_one_step if name is None else list_shards(folder / name)
        places = range(SAMPLES if shards else 0)
        chosen = dict.fromkeys(shards[len(shards) * i // SAMPLES] for i in places)
        for shard in chosen:
            for record in islice(read_shard(shard), SAMPLES // len(chosen)):
                text = " ".join(record.text[: 2 * SAMPLE_CHARACTERS].split())[:SAMPLE_CHARACTERS]
                yield {"source": record.source, "id": record.id, "text": text}


def _metrics_with(metrics: Iterable[Mapping[str, Any]], key: str) -> Mapping[str, Any]:
    return next((one for one in metrics if key in one), {})


def _row(name: str, documents: int, size: int, seconds: float, workers: int) -> dict[str, Any]:
    rate = 1 / seconds if seconds > 0 else 0.0
    return {
        "step": name,
        "documents": documents,
        "mb": round(size / 1e6, 3),
        "seconds": round(seconds, 3),
        "workers": workers,
        "documents_per_second": round(documents * rate, 1),
        "mb_per_second": round(size / 1e6 * rate, 3),
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise DataError(f"{path} is damaged", hint=f"make {path.parent} again") from None


def _by_size(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """A value for a cell or line of Markdown: what would end the cell, or be HTML, is escaped."""
    text = f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
