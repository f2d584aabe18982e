"""Candidates to a file of records: compared, checked, written one by one, resumable.

`OUT.part` grows while the work goes on, `OUT.state.json` says how far it is whole; at the end
`OUT.part` becomes OUT, and `OUT.card.json` says what is in it. A killed run cuts the part where the
state says, and goes on: candidates are functions of (seed, number), and what is compared with is
read from the part, so the bytes come out the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count as numbers_from
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afm_mlx.artifact import write_text, writing
from afm_mlx.corpus.overlap.decontaminate import NgramIndex
from afm_mlx.corpus.overlap.minhash import band_keys, signatures
from afm_mlx.corpus.overlap.shingles import normalized
from afm_mlx.errors import DataError
from afm_mlx.progress import Progress
from afm_mlx.settings.decontamination import Benchmark, Decontaminate
from afm_mlx.settings.overlap import Dedup
from afm_mlx.settings.synthetic import Sandbox, Synthetic
from afm_mlx.synthetic.checks import passes, written_calls
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.records import Candidate, Kind, Message, assistant

SECONDS_BETWEEN_STATES = 5.0
"""At most this much work is done again after a kill. Ours."""

_TOGETHER = 32  # candidates that are made and signed together; ours

Answerer = Callable[[Sequence[Message], Sequence[Any], int], str | None]
"""A model: messages, tools and a seed to the text of an answer; None: the prompt is too long."""


@dataclass(frozen=True)
class Sampling:
    """How a model answers in place of the generator."""

    answerer: Answerer
    """The model."""
    samples: int
    """Answers to each prompt."""
    name: str
    """What the model is called; a part is not gone on with by another one."""


@dataclass
class _State:
    """How far the part is whole."""

    key: dict[str, Any]
    number: int = 0  # of the next candidate
    size: int = 0  # bytes
    counts: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.counts = Counter(self.counts)
        self.families = Counter(self.families)

    def after(self, number: int, told: Counter[str]) -> _State:
        """The state after a candidate, with what was counted on the way."""
        return _State(self.key, number + 1, self.size, self.counts + told, self.families)


def write_records(
    kind: Kind,
    settings: Synthetic,
    out: Path,
    *,
    count: int,
    seed: int,
    split: str,
    against: Sequence[Path] = (),
    sampling: Sampling | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `count` records of a kind to `out`, or go on with a part of them.

    Takes about 3 KB of memory for each record, to compare it with the next ones.

    Args:
        kind: what to make.
        settings: its section.
        out: JSONL of conversations; must not exist.
        count: records to write.
        seed: decides all choices, together with a record's number.
        split: `train` or `held_out`: which families.
        against: files of benchmarks; a record that holds one of their n-grams is dropped.
        sampling: a model that answers; prompts none of whose answers pass are dropped.
        progress: told how it goes.

    Returns:
        kept, candidates, dropped (by reason), families (records of each), seconds; with a model
        also answers, answers_passed, prompts, prompts_passed.

    Raises:
        DataError: `out` is there, a part was begun with other settings, a benchmark is broken, or
            no more different records can be made.
    """
    if out.exists():
        raise DataError(f"{out} is there already", hint="delete it, or name another --out")
    families = kind.of_split(split, settings)
    if not families:
        raise DataError(
            f"no family of {kind.name} is {split}, of {len(kind.families)}",
            hint="--set held_out_fraction=0.2",
        )
    key = {
        "kind": kind.name, "seed": seed, "split": split, "facts": dict(kind.facts),
        "settings": settings.model_dump(mode="json"), "against": [str(path) for path in against],
        "model": sampling.name if sampling else "", "samples": sampling.samples if sampling else 0,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    part, state_file = Path(f"{out}.part"), Path(f"{out}.state.json")
    state = _open_state(state_file, part, key)
    seen = _Seen(settings.duplicate_similarity if kind.compare_near else 1.0)
    began, saved = time.perf_counter(), time.monotonic()
    in_a_row = 0
    with writing(part), part.open("r+b") as file:
        if state.number and progress:
            progress.say(f"going on after {state.counts['kept']:,} records")
        seen.add_records(json.loads(line) for line in file)
        index = _index(against)
        candidates = _candidates(kind, families, seed, state.number)
        try:
            while state.counts["kept"] < count:
                for number, family, made, signed, found in _signed(candidates, seen, index):
                    records: list[Message] = []
                    told: Counter[str] = Counter()
                    if isinstance(made, str):
                        reason = made
                    elif reason := seen.reason(made, signed):
                        pass
                    elif found:
                        reason = "in a benchmark"
                    else:
                        records, reason = _answered(made, settings, sampling, seed, number, told)
                    new = state.after(number, told)
                    if reason:
                        new.counts[f"dropped: {reason}"] += 1
                        in_a_row += 1
                    else:
                        assert isinstance(made, Candidate)
                        in_a_row = 0
                        seen.add(made, signed)
                        for place, answer in enumerate(records):
                            name = f"{kind.name}/{family}/{seed}-{number}" + "+" * place
                            file.write(_line(made, answer, name))
                        new.size = file.tell()
                        new.counts["kept"] += 1
                        new.families[family] += 1
                    state = new  # all at once: an interrupt finds it whole
                    if in_a_row >= settings.give_up_after:
                        raise _exhausted(kind, state, count, in_a_row)
                    if time.monotonic() - saved > SECONDS_BETWEEN_STATES:
                        _save(state_file, file, state)
                        saved = time.monotonic()
                        if progress:
                            progress.status(_status(state, count, began))
                    if state.counts["kept"] == count:
                        break
        finally:
            _save(state_file, file, state)
    counts = _counts(state, time.perf_counter() - began)
    write_text(Path(f"{out}.card.json"), json.dumps(key | counts, indent=2) + "\n")
    part.replace(out)
    state_file.unlink()
    return counts


def _open_state(state_file: Path, part: Path, key: dict[str, Any]) -> _State:
    """The state of a part that was begun, which is cut to what is whole; else a new one."""
    key = json.loads(json.dumps(key))
    if not (state_file.is_file() and part.is_file()):
        part.write_bytes(b"")
        state = _State(key)
        write_text(state_file, json.dumps(vars(state)))
        return state
    try:
        state = _State(**json.loads(state_file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise DataError(
            f"{state_file} is broken", hint=f"delete it and {part}, and begin again"
        ) from None
    if state.key != key:
        other = sorted(name for name in key if state.key.get(name) != key[name])
        raise DataError(
            f"{part} was begun with other settings: {', '.join(other)}",
            hint=f"use the same ones, name another --out, or delete {part}",
        )
    if part.stat().st_size < state.size:
        raise DataError(
            f"{part} has {part.stat().st_size:,} bytes of {state.size:,}",
            hint=f"delete it and {state_file}, and begin again",
        )
    os.truncate(part, state.size)
    return state


def _save(state_file: Path, file: Any, state: _State) -> None:
    file.flush()
    os.fsync(file.fileno())
    write_text(state_file, json.dumps(vars(state)))


def _candidates(
    kind: Kind, families: Sequence[str], seed: int, first: int
) -> Iterator[tuple[int, str, Candidate | str]]:
    for number in numbers_from(first):
        draw = Draw(kind.name, seed, number)
        family = draw.pick(families)
        yield number, family, kind.make(draw, family, families)


@dataclass(frozen=True)
class _Signed:
    """How a prompt is compared with others."""

    signature: NDArray[np.uint32]
    keys: list[int]
    """One for each band; two prompts that share one are compared."""


class _Seen:
    """Prompts so far: their hashes, and their signatures by bands."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._settings = Dedup()
        self._hashes: set[bytes] = set()
        self._signatures: list[NDArray[np.uint32]] = []
        self._bands: dict[int, list[int]] = {}

    def sign(self, made: Sequence[Candidate | str]) -> list[_Signed | None]:
        """Signature of each prompt; None where near-duplicates are not looked for."""
        texts = [
            normalized(_said(one.prompt)) if isinstance(one, Candidate) else "" for one in made
        ]
        if self._similarity >= 1:
            return [None] * len(texts)
        settings = self._settings
        found, counts = signatures(
            texts,
            hashes=settings.hashes,
            words=settings.shingle_words,
            longest_word=settings.longest_word,
        )
        bands = settings.bands
        keys = (band_keys(found, bands).T * np.uint64(bands)).tolist()
        return [
            _Signed(row.copy(), [key + band for band, key in enumerate(mine)]) if some else None
            for row, mine, some in zip(found, keys, counts, strict=True)
        ]

    def reason(self, made: Candidate, signed: _Signed | None) -> str:
        """Why a prompt is too much like one before it; or nothing."""
        if _hash(made.prompt, made.tools) in self._hashes:
            return "equal prompt"
        if signed is None:
            return ""
        near = {number for key in signed.keys for number in self._bands.get(key, ())}
        for number in near:
            if float(np.mean(self._signatures[number] == signed.signature)) >= self._similarity:
                return "near-duplicate"
        return ""

    def add(self, made: Candidate, signed: _Signed | None) -> None:
        """Remember a prompt."""
        self._hashes.add(_hash(made.prompt, made.tools))
        if signed is None:
            return
        for key in signed.keys:
            self._bands.setdefault(key, []).append(len(self._signatures))
        self._signatures.append(signed.signature)

    def add_records(self, records: Iterator[dict[str, Any]]) -> None:
        """Remember the prompts of records that were written."""
        while group := [
            Candidate(record["messages"], record["check"], record.get("tools", ()))
            for record in islice(records, _TOGETHER)
        ]:
            for made, signed in zip(group, self.sign(group), strict=True):
                if _hash(made.prompt, made.tools) not in self._hashes:  # a model's second answer
                    self.add(made, signed)


def _signed(
    candidates: Iterator[tuple[int, str, Candidate | str]],
    seen: _Seen,
    index: NgramIndex | None,
) -> Iterator[tuple[int, str, Candidate | str, _Signed | None, bool]]:
    """The next candidates, signed together, and whether each holds a part of a benchmark."""
    group = [next(candidates) for _ in range(_TOGETHER)]
    made = [one for _, _, one in group]
    signed = seen.sign(made)
    found: set[int] = set()
    if index is not None:
        texts = [one.text() if isinstance(one, Candidate) else "" for one in made]
        found = set(index.search(texts)[0].tolist())
    for place, ((number, family, one), row) in enumerate(zip(group, signed, strict=True)):
        yield number, family, one, row, place in found


def _answered(
    made: Candidate,
    settings: Synthetic,
    sampling: Sampling | None,
    seed: int,
    number: int,
    counts: Counter[str],
) -> tuple[list[Message], str]:
    """Right answers, at most `answers_kept`; or why there is none."""
    limits = getattr(settings, "sandbox", Sandbox())
    if sampling is None:
        last = made.messages[-1]
        right = passes(made.check, last["content"], last.get("tool_calls", ()), limits=limits)
        return ([last], "") if right else ([], "its own answer fails")
    kept: dict[str, Message] = {}
    for sample in range(sampling.samples):
        text = sampling.answerer(
            made.prompt, made.tools, Draw("sample", seed, number, sample).below(2**31)
        )
        if text is None:
            return [], "prompt too long for the model"
        counts["answers"] += 1
        if passes(made.check, text, limits=limits):
            counts["answers_passed"] += 1
            kept.setdefault(text.strip(), _message(made, text))
    counts["prompts"] += 1
    counts["prompts_passed"] += bool(kept)
    return list(kept.values())[: settings.answers_kept], "" if kept else "no answer passed"


def _message(made: Candidate, text: str) -> Message:
    """A model's text as a message; calls that it writes become calls where there are tools."""
    calls = written_calls(text) if made.tools else []
    if not calls:
        return assistant(text.strip())
    return assistant(
        text.partition("<tool_call>")[0].strip() if "<tool_call>" in text else "", calls
    )


def _index(against: Sequence[Path]) -> NgramIndex | None:
    if not against:
        return None
    benchmarks = {f"{number}": Benchmark(path=str(path)) for number, path in enumerate(against, 1)}
    return NgramIndex(Decontaminate(benchmarks=benchmarks))


def _line(made: Candidate, answer: Message, name: str) -> bytes:
    record: dict[str, Any] = {"messages": [*made.prompt, answer]}
    if made.tools:
        record["tools"] = list(made.tools)
    record |= {"id": name, "check": made.check}
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _said(prompt: Sequence[Message]) -> str:
    return "\n".join(str(message["content"]) for message in prompt if message["role"] == "user")


def _hash(prompt: Sequence[Message], tools: Sequence[Any]) -> bytes:
    # A prompt with other tools is the same request; without any it is another.
    said = json.dumps([list(prompt), bool(tools)], sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=12).digest()


def _exhausted(kind: Kind, state: _State, count: int, in_a_row: int) -> DataError:
    kept = state.counts["kept"]
    return DataError(
        f"{kind.name}: {kept:,} of {count:,} records, and the last {in_a_row:,} candidates were "
        "all dropped",
        hint=f"--count {kept}" if kept else "see the settings of this kind in docs/synthetic.md",
    )


def _counts(state: _State, seconds: float) -> dict[str, Any]:
    counts = dict(state.counts)
    dropped = {
        name.removeprefix("dropped: "): amount
        for name, amount in sorted(counts.items())
        if name.startswith("dropped: ")
    }
    rest = {name: amount for name, amount in counts.items() if not name.startswith("dropped: ")}
    families = dict(sorted(state.families.items()))
    return rest | {
        "candidates": state.number,
        "dropped": dropped,
        "families": families,
        "seconds": round(seconds, 2),
    }


def _status(state: _State, count: int, began: float) -> str:
    seconds = time.perf_counter() - began
    return f"{state.counts['kept']:,} of {count:,} records, {seconds:.0f} s"
