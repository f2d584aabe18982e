"""What lies in a run's folder, read without running anything.

Nothing here raises for what a stage has written: a file that cannot be read is a problem, which the
report names, and the rest is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from afm_mlx.artifact import MANIFEST
from afm_mlx.corpus.card import Card, make_card
from afm_mlx.errors import DataError, RunError
from afm_mlx.evaluation.report.facts import (
    NOTHING,
    Facts,
    number_at,
    read_facts,
    read_lines,
    table_at,
    words_at,
)
from afm_mlx.settings.recipe import ADAPTER

ORDER = (
    "base",
    "clean",
    "tokenizer",
    "data",
    "teacher",
    "prune",
    "labels",
    "core",
    "continued",
    "context",
    "synthetic",
    "sft",
    "reward",
    "prefer",
    "reject",
    "itec",
    "rl",
    "quantize",
    "recover",
    ADAPTER,
    "eval",
)
"""Stages as the pipeline has them; between stages that need nothing of each other, this decides."""

PART, ASIDE = ".part", "set-aside"
LOG, SCORES = "metrics.jsonl", "scores.json"
CONFIG, ADAPTER_FACTS = "model/config.json", "adapter/adapter.json"
LOG_DEPTH = 3  # runs/NAME/itec/round-1/reward/metrics.jsonl is the deepest
HEADER_BYTES = 8  # of a safetensors file: the length of its header, little-endian


class State(StrEnum):
    """How far a stage came."""

    FINISHED = "finished"
    MAKING = "in the making"
    ASIDE = "set aside"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Log:
    """What the loop noted while it trained."""

    place: str
    """Folder inside the stage's, such as `rank-16`; "" for the stage's own."""
    lines: tuple[Facts, ...]
    """By step; each has a number `step`."""


@dataclass(frozen=True)
class StageFolder:
    """One stage of a run."""

    name: str
    folder: Path
    state: State
    manifest: Facts
    """What ran; empty where nothing is finished or it cannot be read."""
    logs: tuple[Log, ...]
    config: Facts
    """Settings of the model that it left; empty where there is none."""
    adapter: Facts
    """What its adapter says of itself; likewise."""

    @property
    def metrics(self) -> Facts:
        """What the stage measured."""
        return table_at(self.manifest, "metrics")

    @property
    def seconds(self) -> float | None:
        """Time that it took."""
        return number_at(self.manifest, "seconds")

    @property
    def parents(self) -> tuple[str, ...]:
        """Stages that it read from."""
        return tuple(map(str, table_at(self.manifest, "parents")))

    @property
    def is_adapter(self) -> bool:
        """Whether it trains a product adapter."""
        return self.name.startswith(ADAPTER)


@dataclass(frozen=True)
class RunFolder:
    """A run: its stages in order, and what describes them."""

    name: str
    folder: Path
    stages: tuple[StageFolder, ...]
    """Finished, damaged and in the making, each after those that it reads from."""
    aside: tuple[StageFolder, ...]
    """Results that other settings have replaced."""
    card: Card | None
    synthetic: Mapping[str, Facts]
    """Cards of what the recipe made itself, by name."""
    scores: tuple[Facts, ...]
    """Results of the evaluation."""
    problems: tuple[str, ...]
    """What could not be read, in words."""
    when: float | None
    """When its newest stage was finished, in seconds since 1970."""

    @property
    def finished(self) -> tuple[StageFolder, ...]:
        """The stages that are done."""
        return tuple(stage for stage in self.stages if stage.state is State.FINISHED)


def read_run(folder: Path) -> RunFolder:
    """Read a run's folder.

    Raises:
        RunError: it holds no stages.
    """
    problems: list[str] = []
    stages = list(_stages(folder, problems, aside=False))
    if not stages:
        raise RunError(f"{folder} holds no stages of a run", hint=_hint(folder))
    aside = tuple(_stages(folder / ASIDE, problems, aside=True))
    in_order = tuple(_in_order(stages))
    return RunFolder(
        name=_name(folder, in_order),
        folder=folder,
        stages=in_order,
        aside=aside,
        card=_card(folder, in_order, problems),
        synthetic=_synthetic(in_order, problems),
        scores=tuple(_scores(in_order, problems)),
        problems=tuple(problems),
        when=_when(in_order),
    )


def tensor_bytes(folder: Path, names: str = "*.safetensors") -> int | None:
    """Bytes of all tensors in a folder's safetensors files, headers not counted; None without."""
    total, found = 0, False
    for file in sorted(folder.glob(names)):
        try:
            with file.open("rb") as opened:
                header = int.from_bytes(opened.read(HEADER_BYTES), "little")
            stored = file.stat().st_size - HEADER_BYTES - header
        except OSError:
            continue
        if stored > 0:
            total, found = total + stored, True
    return total if found else None


def count_parameters(config: Facts) -> int | None:
    """Weights of the decoder that a `config.json` describes; None where a size is missing."""
    names = (
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    sizes = [number_at(config, name) for name in names]
    if any(size is None or size < 1 for size in sizes):
        return None
    width, layers, wide, heads, kv_heads, vocab = (round(size) for size in sizes if size)
    head = round(number_at(config, "head_dim") or width / heads)
    qk_norm = 2 * head if words_at(config, "model_type") == "qwen3" else 0
    attention = 2 * width * heads * head + 2 * width * kv_heads * head
    block = attention + 3 * width * wide + 2 * width + qk_norm
    embeddings = 1 if config.get("tie_word_embeddings") else 2
    return embeddings * vocab * width + layers * block + width


def _stages(parent: Path, problems: list[str], *, aside: bool) -> Iterator[StageFolder]:
    if not parent.is_dir():
        return
    for folder in sorted(parent.iterdir()):
        if not folder.is_dir() or folder.name == ASIDE:
            continue
        making = folder.name.endswith(PART)
        has_manifest = (folder / MANIFEST).exists()
        if not has_manifest and not any((folder / each).exists() for each in ("fingerprint", LOG)):
            continue
        manifest: Facts = NOTHING
        state = State.MAKING if making else State.FINISHED
        if has_manifest and not making:
            manifest, wrong = _manifest(folder)
        else:
            wrong = "" if making or aside else "is missing"
        shown = folder.relative_to(parent.parent if aside else parent)
        if wrong:
            problems.append(f"{shown / MANIFEST} {wrong}")
            state = State.DAMAGED
        name = folder.name.removesuffix(PART)
        logs = () if aside else tuple(_logs(folder, shown, problems))
        config, adapter = (
            NOTHING if aside else _facts_of(folder, shown, file, problems)
            for file in (CONFIG, ADAPTER_FACTS)
        )
        yield StageFolder(
            name, folder, State.ASIDE if aside else state, manifest, logs, config, adapter
        )


def _manifest(folder: Path) -> tuple[Facts, str]:
    facts, wrong = read_facts(folder / MANIFEST)
    if wrong:
        return NOTHING, wrong
    if not isinstance(facts, dict) or not isinstance(facts.get("metrics"), dict):
        return NOTHING, "is damaged: it does not say what was measured"
    return facts, ""


def _facts_of(folder: Path, shown: Path, file: str, problems: list[str]) -> Facts:
    """A table that a stage may have left."""
    if not (folder / file).exists():
        return NOTHING
    facts, wrong = read_facts(folder / file)
    if wrong or not isinstance(facts, dict):
        problems.append(f"{shown / file} {wrong or 'is damaged'}")
        return NOTHING
    return facts


def _logs(folder: Path, shown: Path, problems: list[str]) -> Iterator[Log]:
    patterns = ["/".join(["*"] * depth + [LOG]) for depth in range(LOG_DEPTH)]
    try:
        files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    except FileNotFoundError:  # the run goes on, and has just renamed the folder
        files = []
    for file in files:
        if file.parent.is_symlink() and file.parent != folder:
            continue  # a second name of what stands elsewhere in the stage
        lines, damaged = read_lines(file)
        place = file.parent.relative_to(folder).as_posix()
        steps = [(number_at(line, "step"), line) for line in lines]
        kept = [(step, line) for step, line in steps if step is not None and step >= 0]
        damaged += len(lines) - len(kept)
        if damaged:
            lines_are = "line is" if damaged == 1 else "lines are"
            where = shown / file.relative_to(folder)
            problems.append(f"{where}: {damaged:,} {lines_are} damaged and left out")
        if kept:
            in_order = sorted(kept, key=lambda each: each[0])
            yield Log("" if place == "." else place, tuple(line for _, line in in_order))


def _in_order(stages: Sequence[StageFolder]) -> Iterator[StageFolder]:
    """Each stage after those that it reads from, and as the pipeline has them where that is free.

    A stage that is being made again comes after the finished one.
    """
    left = sorted(stages, key=lambda stage: (_place(stage.name), stage.name, stage.state.value))
    while left:
        waiting = {stage.name for stage in left}
        free = [
            stage for stage in left if not waiting & (set(stage.parents) - {stage.name})
        ] or left  # stages that need each other: something is damaged
        yield free[0]
        left.remove(free[0])


def _place(name: str) -> int:
    kind = ADAPTER if name.startswith(ADAPTER) else name
    return ORDER.index(kind) if kind in ORDER else len(ORDER)


def _name(folder: Path, stages: Iterable[StageFolder]) -> str:
    """The recipe's name, as the manifests have it, else the folder's."""
    named = [words_at(stage.manifest, "recipe") for stage in stages]
    return next((name for name in reversed(named) if name), folder.resolve().name)


def _when(stages: Iterable[StageFolder]) -> float | None:
    times = []
    for stage in stages:
        try:
            times.append((stage.folder / MANIFEST).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)


def _card(folder: Path, stages: Sequence[StageFolder], problems: list[str]) -> Card | None:
    read = {stage.name for stage in stages if stage.state is State.FINISHED}
    if not read & {"clean", "data"}:
        return None
    try:
        return make_card(folder)
    except (DataError, RunError) as error:
        problems.append(f"no data card: {error}")
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        # Counts that somebody changed by hand can be wrong in any way.
        problems.append(f"no data card: the counts of the data are damaged ({error})")
    return None


def _synthetic(stages: Sequence[StageFolder], problems: list[str]) -> dict[str, Facts]:
    found: dict[str, Facts] = {}
    for stage in stages:
        if stage.name != "synthetic" or stage.state is not State.FINISHED:
            continue
        for file in sorted(stage.folder.glob("*.card.json")):
            facts, wrong = read_facts(file)
            if wrong or not isinstance(facts, dict):
                problems.append(f"{stage.name}/{file.name} {wrong or 'is damaged'}")
            else:
                found[file.name.removesuffix(".card.json")] = facts
    return found


def _scores(stages: Sequence[StageFolder], problems: list[str]) -> Iterator[Facts]:
    for stage in stages:
        file = stage.folder / SCORES
        if not file.exists():
            continue
        results, wrong = read_facts(file)
        if wrong or not isinstance(results, list):
            problems.append(f"{stage.folder.name}/{SCORES} {wrong or 'is damaged: it is no list'}")
            continue
        for place, result in enumerate(results, start=1):
            if isinstance(result, dict) and words_at(result, "task"):
                yield result
            else:
                problems.append(f"{stage.folder.name}/{SCORES}: result {place} names no task")


def _hint(folder: Path) -> str:
    """Where a run may be instead: the parent of a stage's folder, or a run inside."""
    if (folder / MANIFEST).exists():
        return f"it is one stage: did you mean {folder.parent}?"
    inside = sorted(path.parent.parent for path in folder.glob(f"*/*/{MANIFEST}"))
    return f"did you mean {inside[0]}?" if inside else "afm run RECIPE makes some"
