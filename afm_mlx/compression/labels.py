"""Label files: what a teacher says of every row of a source, computed once and kept.

    FOLDER/
      labels.json       teacher, tokenizer, shards, row length, files and checksums; written last
      00000.ids ...     [tokens, K] token ids, little endian, 16 or 32 bits as in the shards
      00000.logps ...   [tokens, K] float16 log-probabilities; only where K is above 1

With one candidate a token costs 2 bytes. Labels belong to rows: token i of the files is token i of
the shards, read in rows of `row_tokens` from the first token on. What is left at the end of a
source, less than a row, has no label.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from afm_mlx.artifact import write_text, writing
from afm_mlx.compression.teacher import Said, Teacher
from afm_mlx.corpus.shards import Shards
from afm_mlx.errors import DataError

INDEX_FILE = "labels.json"
# Changes when files of an older version cannot be read any more.
FORMAT_VERSION = 1
# Tokens of one file, and of what an interrupted run repeats. Ours.
FILE_TOKENS = 2**20
# Label files mapped at once, of each source: macOS allows 256 open files by default. Ours.
_MAPPED_FILES = 16
# Rows that the teacher is given at once; it divides them further. Ours.
_ROWS_AT_ONCE = 8


def write_labels(
    teacher: Teacher,
    shards: Shards,
    out: Path,
    *,
    row_tokens: int,
    candidates: int,
    facts: Mapping[str, Any],
    done: Callable[[int, int], None] = lambda tokens, total: None,
) -> dict[str, int]:
    """Ask the teacher about all rows of a source, and write `out`. Files that are there are kept.

    Args:
        teacher: who is asked.
        shards: the source's training split.
        out: folder for the files; one that another teacher began is refused.
        row_tokens: tokens in a row.
        candidates: K, what the teacher gives for each token.
        facts: what identifies the teacher, ready for JSON.
        done: told the tokens that are labelled, and how many there are.

    Returns:
        `tokens` labelled and `bytes` of the files.

    Raises:
        DataError: the folder was begun with another teacher, tokenizer, or other shards.
    """
    rows = shards.num_tokens // row_tokens
    per_file = max(1, FILE_TOKENS // row_tokens)
    wanted = identity(shards, row_tokens=row_tokens, candidates=candidates, facts=facts)
    _claim(out, wanted)
    files: list[dict[str, Any]] = []
    for number, first in enumerate(range(0, rows, per_file)):
        last = min(first + per_file, rows)
        files.append(_one_file(teacher, shards, out, number, first, last, wanted))
        done(last * row_tokens, rows * row_tokens)
    write_text(out / INDEX_FILE, json.dumps(wanted | {"files": files}, indent=1) + "\n")
    size = sum(path.stat().st_size for path in out.iterdir() if path.suffix in (".ids", ".logps"))
    return {"tokens": rows * row_tokens, "bytes": size}


def identity(
    shards: Shards, *, row_tokens: int, candidates: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What labels belong to: shards, tokenizer, row length, number of candidates, teacher."""
    return {
        "version": FORMAT_VERSION,
        "shards": shards.checksum,
        "tokenizer": shards.tokenizer_fingerprint,
        "row_tokens": row_tokens,
        "candidates": candidates,
        "dtype": {2: "uint16", 4: "uint32"}[shards.dtype.itemsize],
        "teacher": dict(facts),
    }


class Labels:
    """The labels of one source, read row by row."""

    def __init__(self, folder: Path, index: Mapping[str, Any]) -> None:
        """Use `Labels.open`."""
        self.folder = folder
        self.row_tokens, self.candidates = int(index["row_tokens"]), int(index["candidates"])
        self.dtype = np.dtype({"uint16": "<u2", "uint32": "<u4"}[index["dtype"]])
        self.files: list[dict[str, Any]] = list(index["files"])
        self.facts: dict[str, Any] = dict(index["teacher"])
        self._mapped = functools.lru_cache(maxsize=_MAPPED_FILES)(self._map)

    @classmethod
    def open(cls, folder: Path, shards: Shards, *, row_tokens: int, candidates: int) -> Self:
        """Open the labels of `shards`, and compare checksums of all files.

        Raises:
            DataError: there are none, they belong to other shards, another tokenizer, row length or
                number of candidates, or a file has changed.
        """
        path = folder / INDEX_FILE
        try:
            index = json.loads(path.read_text())
            labels = cls(folder, index)
            found = {name: index[name] for name in _COMPARED}
        except FileNotFoundError:
            raise DataError(f"{path} is missing: no finished labels", hint=_AGAIN) from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged: {error!r}", hint=_AGAIN) from None
        wanted = identity(shards, row_tokens=row_tokens, candidates=candidates, facts=labels.facts)
        _compare(folder, found, wanted)
        labels._verify()
        return labels

    def row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
        """Candidates [row_tokens, K] of one row, and their log-probabilities."""
        file, inside = divmod(number, int(self.files[0]["rows"]))  # all but the last have as many
        place = slice(inside * self.row_tokens, (inside + 1) * self.row_tokens)
        name = self.folder / f"{file:05}"
        ids = self._mapped(name.with_suffix(".ids"), self.dtype)[place].astype(np.int32)
        if self.candidates == 1:
            return ids, np.zeros(ids.shape, np.float16)
        logps = self._mapped(name.with_suffix(".logps"), np.dtype("<f2"))[place]
        return ids, logps.astype(np.float16)

    def _map(self, path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.memmap(path, dtype=dtype, mode="r").reshape(-1, self.candidates)

    def _verify(self) -> None:
        for file in self.files:
            for name, expected in file["sha256"].items():
                path = self.folder / name
                if not path.is_file():
                    raise DataError(f"label file {path} is missing", hint=_AGAIN)
                if (found := _sha256(path)) != expected:
                    raise DataError(
                        f"{path} changed since it was written: SHA-256 {found[:8]}, "
                        f"expected {expected[:8]}",
                        hint=_AGAIN,
                    )


class LabelledTeacher:
    """A teacher that has said all before: labels by source."""

    def __init__(self, labels: Mapping[str, Labels]) -> None:
        self.labels = labels

    def says(self, rows: NDArray[np.int32], places: Sequence[tuple[str, int]]) -> Said:
        """What stands in the files at `places`; `rows` are not looked at."""
        found = [self.labels[name].row(number) for name, number in places]
        return Said(np.stack([ids for ids, _ in found]), np.stack([each for _, each in found]))


_AGAIN = "write the labels again: afm run RECIPE --from labels"

_COMPARED = {
    "version": ("format", False),
    "shards": ("shards", True),
    "tokenizer": ("tokenizer", True),
    "row_tokens": ("rows of", False),
    "candidates": ("a number of candidates of", False),
    "dtype": ("ids of type", False),
    "teacher": ("a teacher", False),
}
"""What must agree, what it is called, and whether it is a hash, of which 8 digits are shown."""


def _one_file(
    teacher: Teacher,
    shards: Shards,
    out: Path,
    number: int,
    first: int,
    last: int,
    wanted: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the labels of rows `first` to `last`, or read what an earlier run noted of them."""
    note = out / f"{number:05}.json"
    if note.exists():
        return dict(json.loads(note.read_text()))
    width, candidates = int(wanted["row_tokens"]), int(wanted["candidates"])
    name = out / f"{number:05}"
    paths = [name.with_suffix(".ids")] + ([name.with_suffix(".logps")] if candidates > 1 else [])
    with writing(paths[0]), ExitStack() as opened:
        streams = [opened.enter_context(path.open("wb")) for path in paths]
        for start in range(first, last, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, last)
            rows = shards.read(start * width, stop * width).reshape(-1, width)
            said = teacher.says(rows, [(shards.folder.name, row) for row in range(start, stop)])
            arrays = (said.ids.astype(shards.dtype), said.logps.astype("<f2"))
            for stream, array in zip(streams, arrays, strict=False):  # one candidate: ids only
                stream.write(array.tobytes())
    facts = {"rows": last - first, "sha256": {path.name: _sha256(path) for path in paths}}
    write_text(note, json.dumps(facts))
    return facts


def _claim(out: Path, wanted: Mapping[str, Any]) -> None:
    """Begin a folder, or find that it was begun with the same."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "begun.json"
    if path.exists():
        _compare(out, json.loads(path.read_text()), wanted)
    else:
        write_text(path, json.dumps(wanted))


def _compare(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise DataError where labels belong to something else than wanted."""
    for name, (what, is_hash) in _COMPARED.items():
        there, here = found[name], wanted[name]
        if there != here:
            there, here = (there[:8], here[:8]) if is_hash else (there, here)
            raise DataError(
                f"the labels in {folder} are of {what} {there}, and this is {here}", hint=_AGAIN
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
