"""The corpus pipeline: from the documents of all sources to clean ones.

The order, after notes on the report: main content of pages; language; profanity; personal data;
heuristics; mathematics; exact and near-duplicates over the whole corpus; quality; decontamination.

Steps on single records run together in one pass over the shards; each step over the whole corpus
begins another pass. A pass that is done replaces the records of the one before; drops and counts
of all passes stay.

    OUT/NAME/00000.jsonl.gz     clean records of a source
    OUT/steps/0-sources/        sources.json; then 1-..., 2-...: drops, counts and done.json
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from afm_mlx.artifact import locked, write_text
from afm_mlx.corpus.collect import PAGES, SOURCES, collect, is_below
from afm_mlx.corpus.counts import add_counts, read_facts
from afm_mlx.corpus.documents import Document
from afm_mlx.corpus.files import SUFFIXES, list_files
from afm_mlx.corpus.overlap.benchmarks_text import check_benchmarks
from afm_mlx.corpus.record_shards import list_shards, read_shard, shard_name
from afm_mlx.corpus.steps import Corpus, CorpusStep, Filter, Step, Told, run_steps
from afm_mlx.errors import DataError
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.sections import Section, Source, SourceKind

_ROOM = "afm_mlx.corpus"
_FILTERS = {
    "extract": (f"{_ROOM}.web.extract", "Extractor"),
    "language": (f"{_ROOM}.filters.language", "LanguageFilter"),
    "words": (f"{_ROOM}.filters.words", "WordFilter"),
    "pii": (f"{_ROOM}.filters.pii", "PiiFilter"),
    "heuristics": (f"{_ROOM}.filters.heuristics", "HeuristicFilter"),
    "math-tags": (f"{_ROOM}.filters.math_pages", "MathPageFilter"),
    "math": (f"{_ROOM}.filters.math_pages", "MathPageFilter"),
    "quality": (f"{_ROOM}.filters.quality", "QualityFilter"),
}
_CORPUS_STEPS = {
    "dedup": (f"{_ROOM}.overlap.minhash", "Deduplicator"),
    "decontaminate": (f"{_ROOM}.overlap.decontaminate", "Decontamination"),
}
_NOT_FOR_CODE = frozenset({"language", "words", "heuristics", "math", "quality"})

STEPS_FOLDER = "steps"
SOURCES_FOLDER = "0-sources"
DONE = "done.json"


def make_filter(name: str, settings: Section) -> Filter:
    """The filter of that name; imports its room, and what that needs."""
    module, attribute = _FILTERS[name]
    return getattr(import_module(module), attribute)(settings)


def make_corpus_step(name: str, settings: Section) -> Corpus:
    """The step over the whole corpus of that name."""
    module, attribute = _CORPUS_STEPS[name]
    return getattr(import_module(module), attribute)(settings)


def steps_of(clean: Clean, kinds: Mapping[str, SourceKind]) -> list[Step | CorpusStep]:
    """The steps of a section, in order.

    Args:
        clean: the section.
        kinds: kind of each data source, by its name.
    """
    pages = frozenset(source for source, kind in kinds.items() if kind in PAGES)
    steps: list[Step | CorpusStep] = []
    for name in clean.steps():
        settings: Section = getattr(clean, name)
        chosen = _chosen(name, clean, kinds)
        if name == "extract":  # the other sources hold texts
            chosen = pages if chosen is None else pages & chosen
            if clean.math is not None:
                # Its tags are in the HTML and not in the text: a first look marks pages.
                marking = clean.math.model_copy(update={"drop": False, "model": ""})
                steps.append(_step("math-tags", marking, chosen))
        steps.append(_step(name, settings, chosen))
    return steps


def _step(name: str, settings: Section, sources: frozenset[str] | None) -> Step | CorpusStep:
    facts = settings.model_dump(mode="json")
    if name in _CORPUS_STEPS:
        return CorpusStep(name, partial(make_corpus_step, name, settings), sources, facts)
    return Step(name, partial(make_filter, name, settings), sources, facts)


def _chosen(name: str, clean: Clean, kinds: Mapping[str, SourceKind]) -> frozenset[str] | None:
    """Sources that a step looks at; `None`: all."""
    if name in clean.sources:
        return frozenset(clean.sources[name])
    if name in _NOT_FOR_CODE and SourceKind.CODE in kinds.values():
        return frozenset(name for name, kind in kinds.items() if kind is not SourceKind.CODE)
    return None


@dataclass(frozen=True)
class Pass:
    """Steps that run together over the shards."""

    name: str
    after: CorpusStep | None
    steps: tuple[Step, ...]


def passes_of(steps: Sequence[Step | CorpusStep]) -> list[Pass]:
    """Steps in passes: one for the first steps on records, and one from each step of the corpus."""
    passes: list[Pass] = []
    for step in steps:
        if isinstance(step, CorpusStep):
            passes.append(Pass(step.name, step, ()))
        elif passes:
            last = passes[-1]
            passes[-1] = Pass(last.name, last.after, (*last.steps, step))
        else:
            passes.append(Pass("filters", None, (step,)))
    return passes


def clean_sources(
    sources: Mapping[str, Source], clean: Clean, out: Path, *, told: Told = lambda line: None
) -> dict[str, Any]:
    """Clean the documents of all sources into `out`; what is finished there is kept.

    Args:
        sources: by name.
        clean: the steps and their settings.
        out: folder for the result.
        told: told where it stands.

    Returns:
        For each source: documents and bytes that came in and went out, drops by rule, what its
        reader skipped; and for each pass its wall-clock seconds and the metrics of its step.

    Raises:
        DataError: a source cannot be read, a package or file that a step needs is missing, what
            an earlier run left is damaged, or nothing is left of a source.
    """
    _check_files(clean)
    folder = out / STEPS_FOLDER / SOURCES_FOLDER
    found = collect(
        sources,
        folder,
        shard_bytes=clean.shard_bytes,
        pages=clean.extract is not None,
        warc=clean.warc,
        told=told,
    )
    passes = passes_of(steps_of(clean, {name: source.kind for name, source in sources.items()}))
    workers = clean.workers or os.cpu_count() or 1
    for number, one in enumerate(passes, start=1):
        before, folder = folder, out / STEPS_FOLDER / f"{number}-{one.name}"
        if not (folder / DONE).exists():
            shards = [before / shard_name(n) for one in found.values() for n in _numbers(one)]
            _refuse_missing(shards, out)
            run_pass(one, shards, folder, workers, told=told)
        for shard in list_shards(before):
            shard.unlink()
    _hand_out(folder, found, out)
    summary = summarize(out)
    for name, counts in summary["sources"].items():
        if not counts["out"]:
            rules = ", ".join(f"{many:,} {rule}" for rule, many in _most(counts["dropped"]))
            raise DataError(
                f"data.{name}: of {counts['in']:,} documents none is left after [clean]: {rules}",
                hint="change the thresholds of these rules, or leave the source out",
            )
    return summary


def clean_folder(
    path: Path,
    out: Path,
    clean: Clean,
    *,
    kind: SourceKind | None = None,
    told: Told = lambda line: None,
) -> dict[str, Any]:
    """Run steps that make one pass over a folder, and leave their record shards in `out`.

    Args:
        path: record shards, also in folders of their sources; or documents of any other kind,
            which become record shards in `out`/sources first.
        out: folder for the result.
        clean: the steps.
        kind: what the documents are; `None`: by the ending that most files have.
        told: told where it stands.

    Returns:
        The counts, as `run_steps`, and `skipped` by reason.

    Raises:
        DataError: the path holds nothing to read, or `out`, or as `run_steps`.
        RunError: another process is writing to `out`.
    """
    _check_files(clean)
    if is_below(out, path):
        raise DataError(
            f"the result {out} would be among its own input {path}",
            hint=f"name a folder beside {path} for the result",
        )
    shards = _shards_below(path)
    kind = kind if shards else kind or kind_of(path)
    with locked(out):
        return _clean_shards(path, shards, out, clean, kind, told)


def _clean_shards(
    path: Path,
    shards: Sequence[Path],
    out: Path,
    clean: Clean,
    kind: SourceKind | None,
    told: Told,
) -> dict[str, Any]:
    """See `clean_folder`; without shards, those of the documents are made first."""
    kinds: dict[str, SourceKind] = {}
    skipped: dict[str, int] = {}
    if not shards:
        assert kind is not None
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "documents"
        kinds[name] = kind
        found = collect(
            {name: Source(kind=kinds[name], path=str(path))},
            out / "sources",
            shard_bytes=clean.shard_bytes,
            pages=clean.extract is not None,
            warc=clean.warc,
            told=told,
        )
        skipped = found[name]["skipped"]
        shards = list_shards(out / "sources")
    steps = steps_of(clean, kinds)
    if not kinds and clean.extract is not None:  # records do not say whether they are pages
        steps = [replace(step, sources=None) for step in steps]
    (one,) = passes_of(steps)
    counts = run_pass(one, shards, out, clean.workers or os.cpu_count() or 1, told=told)
    return counts | {"skipped": skipped}


def _check_files(clean: Clean) -> None:
    """A benchmark that cannot be read is known now, and not after the passes before its own."""
    if clean.decontaminate is not None:
        check_benchmarks(clean.decontaminate)


def _shards_below(path: Path) -> list[Path]:
    """The record shards of a folder, or of the folders in it when their numbers differ."""
    if (found := list_shards(path)) or not path.is_dir():
        return found
    inside: list[Path] = []
    for folder in sorted(path.iterdir()):
        with suppress(PermissionError):  # counted as unreadable where documents are read
            inside += list_shards(folder)
    distinct = {shard.name: shard for shard in inside}
    if len(distinct) < len(inside):
        raise DataError(
            f"{path} holds several folders of record shards with the same numbers",
            hint=f"name one of them, such as {inside[0].parent}",
        )
    return sorted(inside, key=lambda shard: int(shard.name.partition(".")[0]))


def kind_of(path: Path) -> SourceKind:
    """What most files are, by their endings; source code where no ending says anything else."""
    skipped: Counter[str] = Counter()
    counts = {
        kind: sum(1 for _ in list_files(path, ends, skipped)) for kind, ends in SUFFIXES.items()
    }
    if path.is_file():
        name = path.name.lower()
        counts = {kind: int(name.endswith(ends)) for kind, ends in SUFFIXES.items()}
    best = max(counts, key=lambda kind: counts[kind])
    if not counts[best] and not path.exists():
        raise DataError(f"{path} does not exist", hint="name a file or folder of documents")
    return best if counts[best] else SourceKind.CODE


def run_pass(
    one: Pass, shards: Sequence[Path], out: Path, workers: int, *, told: Told = lambda line: None
) -> dict[str, Any]:
    """Run one pass over record shards. Returns and raises as `run_steps`.

    At the end it writes `out`/done.json, and where that is, it keeps the time that is in it.

    Args:
        one: the pass.
        shards: its input.
        out: its folder.
        workers: processes.
        told: told where it stands.
    """
    started = time.monotonic()
    counts = run_steps(
        shards,
        out,
        one.steps,
        after=one.after,
        workers=workers,
        told=told,
    )
    if not (out / DONE).exists():
        wall = {"wall_seconds": round(time.monotonic() - started, 3), "workers": workers}
        write_text(out / DONE, json.dumps(counts | wall, indent=1) + "\n")
    return counts


def summarize(out: Path) -> dict[str, Any]:
    """What a folder of `clean_sources` says of itself: see there.

    Raises:
        DataError: a file in it is damaged.
    """
    hint = f"delete {out}, and run again"
    found = read_facts(out / STEPS_FOLDER / SOURCES_FOLDER / SOURCES, hint=hint)
    done = [read_facts(path, hint=hint) for path in done_files(out)]
    sources = {}
    for name, source in found.items():
        dropped = add_counts(one["sources"].get(name, {}).get("dropped", {}) for one in done)
        left = done[-1]["sources"].get(name, {}) if done else {}
        sources[name] = {
            "in": source["documents"],
            "out": left.get("out", 0) if done else source["documents"],
            "bytes_in": source["bytes"],
            "bytes_out": left.get("bytes_out", 0) if done else source["bytes"],
            "dropped": dict(sorted(dropped.items())),
            "skipped": source["skipped"],
        }
    passes = {
        path.parent.name: {"wall_seconds": one["wall_seconds"], "metrics": one.get("metrics", {})}
        for path, one in zip(done_files(out), done, strict=True)
    }
    return {"sources": sources, "passes": passes}


def done_files(out: Path) -> list[Path]:
    """The done.json of each pass in a folder of `clean_sources`, in order."""
    found = (out / STEPS_FOLDER).glob(f"[0-9]*-*/{DONE}")
    return sorted(found, key=lambda path: int(path.parent.name.partition("-")[0]))


def read_clean(name: str, folder: Path) -> Iterator[Document]:
    """The documents of one source, from a folder that `clean_sources` wrote."""
    for shard in list_shards(folder / name):
        for record in read_shard(shard):
            group, language = (str(record.facts.get(x, "")) for x in ("group", "code_language"))
            yield Document(
                record.text, name, record.id, group, record.url, record.license, language
            )


def _hand_out(folder: Path, found: Mapping[str, Any], out: Path) -> None:
    """Move the shards of the last pass to folders of their sources."""
    for name, source in found.items():
        (out / name).mkdir(exist_ok=True)
        shards = [out / name / shard_name(number) for number in _numbers(source)]
        for shard in shards:
            if (folder / shard.name).exists():
                (folder / shard.name).rename(shard)
        _refuse_missing(shards, out)


def _numbers(source: Mapping[str, Any]) -> range:
    """Numbers of a source's shards."""
    return range(source["first"], source["stop"])


def _refuse_missing(shards: Sequence[Path], out: Path) -> None:
    """Raise DataError for a shard that a finished pass has written, and that is not there."""
    for shard in shards:
        if not shard.exists():
            raise DataError(f"record shard {shard} is missing", hint=f"delete {out}, and run again")


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return Counter(counts).most_common(3)
