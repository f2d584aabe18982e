"""An `.aimodel` in Apple's own runtime, in a process beside ours: see worker.py."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from afm_mlx.errors import ExportError
from afm_mlx.export.coreai.bundle import read_bundle
from afm_mlx.export.verify import Logits

WORKER = "afm_mlx.export.coreai.worker"


class CoreAiRuntime:
    """One adapter of an exported folder, or its model without one."""

    is_stand_in = False

    def __init__(self, folder: Path, adapter: str) -> None:
        file = folder / read_bundle(folder).asset
        check_whole(file)
        self._file = file
        scratch = tempfile.TemporaryDirectory()  # where it lays down what it compiles
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(folder), adapter],
            env={**os.environ, "TMPDIR": scratch.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a line about each function
        )
        self._end = weakref.finalize(self, _end, self._process, scratch)
        known = self._answer()
        self.name, self.context_tokens = str(known["name"]), int(known["context_tokens"])

    def prompt_ids(self, text: str, *, chats: bool) -> Sequence[int] | None:
        """None: its tokenizer files are copies of the model's."""
        return None

    def reset(self) -> None:
        """Forget what was read. As in Apple's runner, the cache keeps its numbers, unseen."""
        self._ask({"reset": True})
        self._answer()

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Read a prompt; what comes next."""
        self._ask({"read": list(ids)})
        size = 4 * int(self._answer()["logits"])
        held = self._pipe(self._process.stdout).read(size)
        if len(held) < size:
            raise self._gone()
        return np.frombuffer(held, np.dtype("<f4")).astype(np.float32)

    def step(self, token: int) -> Logits:
        """Read one more token; what comes next."""
        return self.prefill([token])

    def _ask(self, request: Mapping[str, Any]) -> None:
        pipe = self._pipe(self._process.stdin)
        try:
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def _answer(self) -> dict[str, Any]:
        line = self._pipe(self._process.stdout).readline()
        if not line.endswith(b"\n"):
            raise self._gone()
        facts: dict[str, Any] = json.loads(line)
        if "error" in facts:
            raise ExportError(facts["error"])
        return facts

    def _pipe(self, pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe

    def _gone(self) -> ExportError:
        self._end()
        return ExportError(
            f"Apple's runtime ended while it ran {self._file.name} (status "
            f"{self._process.returncode})"
        )


def check_whole(file: Path) -> None:
    """Raise ExportError unless an `.aimodel` has the program whose hash it keeps.

    Apple's runtime does not look, and reads past the end of a file that is cut.
    """
    try:
        kept = (file / "main.hash").read_bytes()
        with (file / "main.mlirb").open("rb") as program:
            found = hashlib.file_digest(program, "sha256").digest()
    except OSError as error:
        raise ExportError(f"{file.name} is damaged: {error.strerror}") from None
    if found != kept:
        raise ExportError(f"{file.name} is damaged: its program is not the one that was written")


def _end(process: subprocess.Popen[bytes], scratch: tempfile.TemporaryDirectory[str]) -> None:
    """End the worker, and delete what it leaves."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.kill()
    process.wait()
    scratch.cleanup()
