"""What a model is known by to its adapters: a hash of its weights."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from afm_mlx.decoder.weights import weight_files

PIECE_BYTES = 2**26
"""Bytes of a base's weights that are hashed at a time; part of what a base's hash means."""

_READ_BYTES = 2**20  # divides a piece


def base_hash(folder: Path) -> str:
    """SHA-256 over a model's weight files, in the order of their names: 64 hexadecimal digits.

    To use all cores, it is that of the hashes of pieces. Adapters inside the folder, its config and
    its tokenizer are not in it. All bytes are read, once in a process: a file of the same size and
    time of change is taken to be the same.

    Raises:
        ModelError: there are no weights.
    """
    files = sorted(weight_files(folder), key=lambda file: file.name)
    return _hash(tuple((file.resolve(), *_stamp(file)) for file in files))


def _stamp(file: Path) -> tuple[int, int]:
    """What changes when a file does."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    pieces = [(path, start) for path, size, _ in files for start in range(0, size, PIECE_BYTES)]
    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run
        digests = list(pool.map(_hash_piece, pieces))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _hash_piece(piece: tuple[Path, int]) -> bytes:
    path, start = piece
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for _ in range(PIECE_BYTES // _READ_BYTES):
            digest.update(file.read(_READ_BYTES))
    return digest.digest()
