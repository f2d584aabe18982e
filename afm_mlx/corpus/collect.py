"""Sources become record shards: numbered files of about the same size, each of one source."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from afm_mlx.artifact import write_text
from afm_mlx.corpus.counts import Tally, counts_of, read_facts
from afm_mlx.corpus.documents import license_of, read_documents
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import shard_name, write_shard
from afm_mlx.corpus.sources.hub import PINS, hub_paths, keep_pins, pinned_sources
from afm_mlx.corpus.sources.locate import locate
from afm_mlx.corpus.steps import Told, claim, clear_parts
from afm_mlx.errors import DataError
from afm_mlx.settings.sections import Source, SourceKind
from afm_mlx.settings.web import Warc

PAGES = (SourceKind.HTML, SourceKind.WARC)
"""Kinds whose documents are pages, for extraction."""

SOURCES = "sources.json"
"""File that says what became shards; written last."""


def collect(
    sources: Mapping[str, Source],
    out: Path,
    *,
    shard_bytes: int,
    pages: bool,
    warc: Warc,
    told: Told = lambda line: None,
) -> dict[str, Any]:
    """Write the documents of all sources to record shards in `out`, source after source.

    A run that was interrupted reads again and does not write again what is finished.

    Args:
        sources: by name.
        out: folder for the shards.
        shard_bytes: a shard ends with the record that reaches this, in bytes of text.
        pages: keep the HTML of pages, for extraction.
        warc: how WARC files are read.
        told: told where it stands.

    Returns:
        For each source: `first` and `stop`, its shards' numbers from and up to; `documents`,
        `bytes`, `skipped` by reason, `license`, `kind`; and `hub`: path and commit of a hub set.

    Raises:
        DataError: a source is missing, or holds no document or the shards themselves, or has
            changed since a shard of it was written.
    """
    for name, source in sources.items():
        folder = Path(source.path).expanduser()
        if source.kind is SourceKind.JSONL and source.path and is_below(out, folder):
            raise DataError(
                f"data.{name}: {folder} holds {out}, whose records would be read as documents",
                hint=f"set data.{name}.path to a folder of documents only",
            )
    out.mkdir(parents=True, exist_ok=True)
    settings = {name: source.model_dump(mode="json") for name, source in sources.items()}
    ours = {"shard_bytes": shard_bytes, "pages": pages, "warc": warc.model_dump(mode="json")}
    claim(out, {"sources": settings, **ours})
    clear_parts(out)
    done = out / SOURCES
    if done.exists():
        return read_facts(done, hint=f"delete {out}, and run again")
    found: dict[str, Any] = {}
    number = 0
    pinned = pinned_sources(sources, out / PINS)
    keep_pins(pinned, out / PINS)
    for name, source in pinned.items():
        skipped: Counter[str] = Counter()
        records = read_records(name, source, skipped, pages=pages, warc=warc)
        first, total = number, {"out": 0, "bytes_out": 0}
        for one in records:
            counts = _write(out / shard_name(number), one, records, shard_bytes)
            number += 1
            total = {key: value + counts[key] for key, value in total.items()}
            told(f"  {name}: {total['out']:,} documents, {total['bytes_out'] / 1e6:,.1f} MB")
        found[name] = {
            "first": first,
            "stop": number,
            "documents": total["out"],
            "bytes": total["bytes_out"],
            "skipped": dict(sorted(skipped.items())),
            "license": source.license,
            "kind": source.kind.value,
            **hub_paths({"hub": source}),
        }
    write_text(done, json.dumps(found, indent=1) + "\n")
    return found


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path is a folder, or somewhere in it."""
    return path.resolve().is_relative_to(folder.resolve())


def read_records(
    name: str, source: Source, skipped: Counter[str], *, pages: bool, warc: Warc
) -> Iterator[Record]:
    """The records of a source, one at a time. Arguments and errors as `read_documents`.

    Args:
        name: the source's name.
        source: its settings.
        skipped: gets what was left out, by reason.
        pages: keep the HTML of pages.
        warc: how pages are read.
    """
    if pages and source.kind in PAGES:
        yield from _read_pages(name, source, skipped, warc)
        return
    for document in read_documents(name, source, skipped):
        facts = {"group": document.group, "code_language": document.code_language}
        yield Record(
            document.id,
            document.text,
            name,
            document.url,
            document.license,
            facts={fact: value for fact, value in facts.items() if value},
        )


def _read_pages(name: str, source: Source, skipped: Counter[str], warc: Warc) -> Iterator[Record]:
    """Pages as HTML, up to the source's `max_bytes` of it."""
    left, found = source.max_bytes, False
    for id, path in locate(name, source, skipped):
        try:
            for record in _pages_of(path, id, name, source, skipped, warc):
                license, reason = license_of(source, record.license)
                if reason:
                    skipped[reason] += 1
                    continue
                found = True
                yield replace(record, license=license)
                if left is not None:
                    left -= len(record.text.encode("utf-8", "replace"))
                    if left <= 0:
                        return
        except OSError:
            skipped["unreadable"] += 1
    if not found:
        reasons = ", ".join(f"{many:,} {reason}" for reason, many in sorted(skipped.items()))
        raise DataError(
            f"data.{name}: no usable page in {source.path} (kind {source.kind})"
            + (f"; skipped {reasons}" if reasons else ""),
            hint=f"check data.{name}.path and kind",
        )


def _pages_of(
    path: Path, id: str, name: str, source: Source, skipped: Counter[str], warc: Warc
) -> Iterator[Record]:
    from afm_mlx.corpus.web.charset import page_text
    from afm_mlx.corpus.web.response import Unusable
    from afm_mlx.corpus.web.warc import read_warc

    if source.kind is SourceKind.WARC:
        for record in read_warc(path, name, warc, skipped):
            if record.facts.get("train") is False:
                skipped["robots.txt forbids training"] += 1
            else:
                yield record
        return
    with path.open("rb") as stream:
        data = stream.read(warc.max_page_bytes + 1)
    try:
        if len(data) > warc.max_page_bytes:
            raise Unusable("too long")
        yield Record(id, page_text([("Content-Type", "text/html")], data, warc)[0], name)
    except Unusable as reason:
        skipped[str(reason)] += 1


def _write(path: Path, first: Record, rest: Iterator[Record], shard_bytes: int) -> dict[str, Any]:
    """Write one shard, from `first` and as many of `rest` as it takes; the counts of it."""
    tally = Tally([])

    def records() -> Iterator[Record]:
        size = 0
        for record in chain([first], rest):
            text_bytes = len(record.text.encode("utf-8", "replace"))
            size += text_bytes
            tally.came_in(record, text_bytes)
            tally.went_out(record, record, text_bytes)
            yield record
            if size >= shard_bytes:
                return

    counts_file = counts_of(path)
    if not counts_file.exists() or not path.exists():
        write_shard(path, records())
        counts = tally.counts(0.0)
        write_text(counts_file, json.dumps(counts, indent=1) + "\n")
        return counts
    for _ in records():
        pass
    hint = "delete the file, and run again"
    if (counts := tally.counts(0.0)) != read_facts(counts_file, hint=hint):
        raise DataError(
            f"source '{first.source}' has changed since {path} was made of it",
            hint=f"delete {path.parent}, and run again",
        )
    return counts
