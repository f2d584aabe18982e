"""Token shards: the documents of one source as files of token ids that are mapped, not loaded.

    FOLDER/
      shards.json           what is in the files: dtype, tokenizer, sizes, checksums; written last
      train/00000.bin ...   token ids, little endian, each document followed by EOS
      train/documents.bin   where each document starts, and how many bytes its text had
      held_out/...          the same for documents that are kept for validation

A document goes to the held-out split or not by the SHA-256 of its text: copies of a document fall
on the same side, and so does the document itself when the source grows or its order changes.
"""

from __future__ import annotations

import bisect
import errno
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.documents import Document
from afm_mlx.corpus.held_out import SPLITS, Split, split_documents
from afm_mlx.errors import DataError

INDEX_FILE = "shards.json"
DOCUMENTS_FILE = "documents.bin"
BUILD_AGAIN = "build the shards again: afm run RECIPE --from data --until data"
# Changes when files of an older version cannot be read any more.
FORMAT_VERSION = 1

# Tokens of a shard file before the next one starts: 256 MiB of 16-bit ids. Ours.
SHARD_TOKENS = 2**27
# Text encoded at once, in bytes. A token id is about 40 bytes while it is a Python integer, so this
# is at most 40 MB of them, and mostly a quarter of that. Ours.
BATCH_BYTES = 2**20

# Shard files mapped at once: each keeps a file open, and macOS allows 256 by default. Ours.
_MAPPED_FILES = 64


class Encoder(Protocol):
    """What writing shards needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Pieces; ids are below."""

    @property
    def eos_id(self) -> int:
        """Token that ends a document."""

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of what decides ids."""

    def encode_batch(self, texts: list[str], /) -> list[list[int]]:
        """Token ids of each text, without EOS."""


def write_shards(
    documents: Iterable[Document],
    tokenizer: Encoder,
    out: Path,
    *,
    held_out_fraction: float,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, int | float | str]:
    """Encode documents and write them to the folder `out`, which the caller publishes.

    Memory stays bounded, whatever the number of documents.

    Args:
        documents: read once, in order.
        tokenizer: its ids are stored in 16 bits if it has 65,536 pieces or fewer, else in 32.
        out: folder to fill, new or empty.
        held_out_fraction: share of documents kept for validation, 0 to 1. Strictly between, at
            least one document goes to each side, if there are two different ones.
        shard_tokens: a shard file is closed after the document that reaches this many tokens.

    Returns:
        For each split, as in `train_tokens`: tokens, documents, text_bytes, shards. And
        bytes_per_token (text bytes per token, EOS included) and dtype.

    Raises:
        DataError: there are no documents, or the disk is full, or a file cannot be written; `out`
            then has no index and is refused by `Shards.open`.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    writers: dict[Split, _SplitWriter] = {}
    with _writing(out / INDEX_FILE):
        (out / INDEX_FILE).unlink(missing_ok=True)
    with ExitStack() as stack:
        for split in SPLITS:
            writers[split] = _SplitWriter(out, split, shard_tokens)
            stack.callback(writers[split].close)
        for batch in _batches(split_documents(documents, held_out_fraction)):
            _write_batch(batch, tokenizer, writers, dtype)
    parts = {split: writer.facts() for split, writer in writers.items()}
    if not any(part["documents"] for part in parts.values()):
        raise DataError(f"no documents to write to {out}", hint="check the source's path and kind")
    index = {
        "version": FORMAT_VERSION,
        "dtype": {2: "uint16", 4: "uint32"}[dtype.itemsize],
        "tokenizer": tokenizer.fingerprint,
        "eos_id": tokenizer.eos_id,
        "splits": parts,
    }
    with _writing(out / INDEX_FILE):
        (out / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    metrics: dict[str, int | float | str] = {"dtype": str(index["dtype"])}
    for split, part in parts.items():
        for key in ("tokens", "documents", "text_bytes"):
            metrics[f"{split}_{key}"] = part[key]
        metrics[f"{split}_shards"] = len(part["shards"])
    tokens_written = sum(part["tokens"] for part in parts.values())
    metrics["bytes_per_token"] = sum(part["text_bytes"] for part in parts.values()) / tokens_written
    return metrics


class Shards:
    """One split of a source's tokens: a long sequence of ids, read piece by piece."""

    def __init__(self, folder: Path, split: Split, index: dict[str, Any]) -> None:
        """Use `Shards.open`."""
        part = index["splits"][split]
        self.folder, self.split = folder, split
        self.dtype = np.dtype({"uint16": "<u2", "uint32": "<u4"}[index["dtype"]])
        self.tokenizer_fingerprint = str(index["tokenizer"])
        self.eos_id = int(index["eos_id"])
        self.num_tokens = int(part["tokens"])
        """Tokens in the split, the EOS of each document included."""
        self.documents = int(part["documents"])
        """Documents in the split."""
        self.text_bytes = int(part["text_bytes"])
        """UTF-8 bytes of all text in the split."""
        self._files: list[dict[str, Any]] = part["shards"]
        self._documents_sha256 = str(part["documents_sha256"])
        sums = [self._documents_sha256, *(str(file["sha256"]) for file in self._files)]
        self.checksum = hashlib.sha256("".join(sums).encode()).hexdigest()
        """Differs where a token or a document differs."""
        self._ends = list(accumulate(int(file["tokens"]) for file in self._files))
        self._mapped = functools.lru_cache(maxsize=_MAPPED_FILES)(self._map)

    @classmethod
    def open(cls, folder: Path, split: Split, fingerprint: str | None = None) -> Self:
        """Open one split and compare the files' sizes with what the index says.

        Args:
            folder: what `write_shards` filled.
            split: "train" or "held_out".
            fingerprint: the tokenizer's that the shards must have been written with.

        Raises:
            DataError: no index, another version, another tokenizer, or a file that is missing or
                has another size than when it was written.
        """
        index = _read_index(folder / INDEX_FILE)
        try:
            shards = cls(folder, split, index)
            sizes = {file["file"]: file["tokens"] * shards.dtype.itemsize for file in shards._files}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder / INDEX_FILE} is damaged: {error!r}", hint=BUILD_AGAIN
            ) from None
        written = shards.tokenizer_fingerprint
        if fingerprint is not None and fingerprint != written:
            raise DataError(
                f"{folder} was written with tokenizer {written[:8]}, "
                f"and this tokenizer is {fingerprint[:8]}",
                hint=f"{BUILD_AGAIN}; or take the tokenizer they were built with",
            )
        sizes[f"{split}/{DOCUMENTS_FILE}"] = shards.documents * 16
        for name, size in sizes.items():
            _check_size(folder / name, size)
        return shards

    def read(self, start: int, stop: int) -> NDArray[np.int32]:
        """Tokens `start` to `stop`, end not included, across shard files: [stop - start] int32."""
        assert 0 <= start <= stop <= self.num_tokens, (start, stop, self.num_tokens)
        out = np.empty(stop - start, dtype=np.int32)
        number = bisect.bisect_right(self._ends, start)
        at = start
        while at < stop:
            end = min(stop, self._ends[number])
            first = self._ends[number] - self._files[number]["tokens"]
            out[at - start : end - start] = self._mapped(number)[at - first : end - first]
            at, number = end, number + 1
        return out

    def text_bytes_between(self, start: int, stop: int) -> float:
        """UTF-8 bytes of the text behind tokens `start` to `stop`, end not included.

        Exact for whole documents; of a document that is cut, the part that its tokens are of all
        its tokens. EOS has no bytes.
        """
        if start >= stop:
            return 0.0
        table = self._documents()  # [documents, 2]: first token, bytes of text
        first = bisect.bisect_right(table[:, 0], start) - 1
        end = bisect.bisect_left(table[:, 0], stop)
        starts = table[first:end, 0].astype(np.int64)
        following = [*starts[1:].tolist(), self._document_end(table, end)]
        last = np.array(following, dtype=np.int64) - 1  # place of each document's EOS
        inside = np.minimum(last, stop) - np.maximum(starts, start)
        share = np.maximum(inside, 0) / np.maximum(last - starts, 1)
        return float((share * table[first:end, 1]).sum())

    def read_documents(self) -> Iterator[NDArray[np.int32]]:
        """Token ids of each document, without the EOS that ends it."""
        starts = self._documents()[:, 0].tolist()
        for start, after in zip(starts, [*starts[1:], self.num_tokens], strict=True):
            yield self.read(start, after - 1)

    def verify(self) -> None:
        """Read everything once and compare checksums.

        Raises:
            DataError: a file is not what was written.
        """
        checksums = {file["file"]: file["sha256"] for file in self._files}
        checksums[f"{self.split}/{DOCUMENTS_FILE}"] = self._documents_sha256
        for name, expected in checksums.items():
            with (self.folder / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != expected:
                raise DataError(
                    f"{self.folder / name} changed since it was written: SHA-256 "
                    f"{found[:8]}, expected {expected[:8]}",
                    hint=BUILD_AGAIN,
                )

    def _map(self, number: int) -> NDArray[Any]:
        file = self._files[number]
        path = self.folder / file["file"]
        # Again, hours after the shards were opened: reading past the end of a mapped file would
        # end the process.
        _check_size(path, file["tokens"] * self.dtype.itemsize)
        return np.memmap(path, dtype=self.dtype, mode="r")

    def _documents(self) -> NDArray[np.uint64]:
        path = self.folder / self.split / DOCUMENTS_FILE
        _check_size(path, self.documents * 16)
        return np.memmap(path, dtype="<u8", mode="r").reshape(-1, 2)

    def _document_end(self, table: NDArray[np.uint64], number: int) -> int:
        """First token after document `number - 1`."""
        return int(table[number, 0]) if number < len(table) else self.num_tokens


class _SplitWriter:
    """Writes the files of one split."""

    def __init__(self, out: Path, split: Split, shard_tokens: int) -> None:
        self.out, self.split, self.shard_tokens = out, split, shard_tokens
        self.tokens = 0
        self.shards: list[dict[str, Any]] = []
        self.stream: BinaryIO | None = None
        self.checksum = hashlib.sha256()
        self.documents_checksum = hashlib.sha256()
        path = out / split / DOCUMENTS_FILE
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.documents = path.open("wb")

    def add(self, tokens: NDArray[Any], text_bytes: int) -> None:
        """Append one document."""
        if self.stream is None:
            name = f"{self.split}/{len(self.shards):05d}.bin"
            with _writing(self.out / name):
                self.stream = (self.out / name).open("wb")
            self.checksum = hashlib.sha256()
            self.shards.append({"file": name, "tokens": 0, "documents": 0, "text_bytes": 0})
        shard = self.shards[-1]
        entry = np.array([self.tokens, text_bytes], dtype="<u8").tobytes()
        with _writing(self.out / shard["file"]):
            self.stream.write(tokens.data)
            self.documents.write(entry)
        self.checksum.update(tokens.data)
        self.documents_checksum.update(entry)
        self.tokens += len(tokens)
        shard["tokens"] += len(tokens)
        shard["documents"] += 1
        shard["text_bytes"] += text_bytes
        if shard["tokens"] >= self.shard_tokens:
            self._close_shard()

    def close(self) -> None:
        """Close all files; what was buffered may meet the full disk only here."""
        try:
            self._close_shard()
        finally:
            with _writing(self.out / self.split / DOCUMENTS_FILE):
                self.documents.close()

    def facts(self) -> dict[str, Any]:
        """The split's part of the index."""
        sums = {
            key: sum(shard[key] for shard in self.shards)
            for key in ("tokens", "documents", "text_bytes")
        }
        checksum = self.documents_checksum.hexdigest()
        return {**sums, "documents_sha256": checksum, "shards": self.shards}

    def _close_shard(self) -> None:
        if self.stream is None:
            return
        stream, self.stream = self.stream, None
        self.shards[-1]["sha256"] = self.checksum.hexdigest()
        with _writing(self.out / self.shards[-1]["file"]):
            stream.close()


def _write_batch(
    batch: list[tuple[Split, str]],
    tokenizer: Encoder,
    writers: Mapping[Split, _SplitWriter],
    dtype: np.dtype[Any],
) -> None:
    """Encode some documents; a function, so that their ids are freed before the next ones come."""
    encoded = tokenizer.encode_batch([text for _, text in batch])
    for (split, text), ids in zip(batch, encoded, strict=True):
        tokens = np.array([*ids, tokenizer.eos_id], dtype=dtype)
        writers[split].add(tokens, len(text.encode()))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn failures of the disk into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"disk full while writing {path}", hint="free some space, then run this again"
            ) from error
        why = (error.strerror or str(error)).lower()
        raise DataError(f"cannot write {path}: {why}") from error


def _batches(pairs: Iterable[tuple[Split, str]]) -> Iterator[list[tuple[Split, str]]]:
    """Documents in groups of about BATCH_BYTES of text, or one longer document."""
    batch: list[tuple[Split, str]] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += len(pair[1])  # characters: near enough, and free
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: no finished shards",
            hint=f"name a folder such as runs/RECIPE/data/NAME, or {BUILD_AGAIN}",
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", hint=BUILD_AGAIN) from None
    version = index.get("version") if isinstance(index, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} is of version {version}, this program reads version {FORMAT_VERSION}",
            hint=BUILD_AGAIN,
        )
    return dict(index)


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except OSError:
        raise DataError(
            f"{path} is missing, {expected:,} bytes expected", hint=BUILD_AGAIN
        ) from None
    if found != expected:
        raise DataError(f"{path} has {found:,} bytes, {expected:,} expected", hint=BUILD_AGAIN)
