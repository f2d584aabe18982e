"""Parts of recovery: what the 16-bit model says of each step, and what of tables is trained.

The method is that of the report's accuracy-recovery adapters: the quantized weights stay, and
low-rank factors beside them learn what the 16-bit model predicts. The values of the tables can be
trained in the same way, which changes the model and takes no bits.

Sources. OB, LS: notes on arXiv:2407.21075.

Shapes. R rows, T tokens of a row, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from afm_mlx.compression.teacher import LiveTeacher, Said
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.palette import PaletteLinear
from afm_mlx.decoder.weights import write_file
from afm_mlx.errors import ModelError

ALL = slice(None)
"""All rows of a step."""


class Rows(Protocol):
    """Rows of a step."""

    @property
    def inputs(self) -> NDArray[np.int32]:
        """[R, T] ids."""

    @property
    def documents(self) -> NDArray[np.int32] | None:
        """[R, T], numbers of documents that see only themselves; None: each row is one."""


class KeptLabels:
    """What a teacher says of the rows of each step: it is asked once, and the answer kept."""

    def __init__(
        self,
        folder: Path,
        teacher: LiveTeacher,
        rows: Callable[[int], Rows],
        *,
        read: slice = ALL,
    ) -> None:
        """`folder` keeps files, 6 bytes a candidate; `rows` gives those of a step.

        Of each step, only the rows `read` are asked for; it has a folder for them alone.
        """
        self.folder, self._rows, self._read = folder, rows, read
        self._teacher: LiveTeacher | None = teacher
        folder.mkdir(parents=True, exist_ok=True)

    def step(self, number: int, rows: slice = ALL) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Candidates [R, T, K] of some rows of a step, and their probabilities.

        The same bits whenever it is asked for. Steps count from 1; rows as the step has them.
        """
        read = self._read
        path = self.folder / f"step-{number:08d}.safetensors"
        if not path.exists():
            assert self._teacher is not None, "the teacher is gone before it has read all"
            asked = self._rows(number)
            documents = None if asked.documents is None else asked.documents[read]
            said = self._teacher.continues(asked.inputs[read], documents)
            part = path.with_suffix(".part.safetensors")
            write_file(part, {"ids": mx.array(said.ids), "logps": mx.array(said.logps)})
            part.replace(path)
        arrays: Any = mx.load(str(path))
        if rows != ALL and read != ALL:
            rows = slice(rows.start - read.start, rows.stop - read.start)
        kept = Said(np.array(arrays["ids"])[rows], np.array(arrays["logps"])[rows])
        return kept.ids, kept.probabilities

    def forget_teacher(self) -> None:
        """Let the teacher's memory go: it has read all steps."""
        self._teacher = None


def unfreeze_tables(model: Decoder) -> None:
    """Let the values of all tables, and the gains of the norms, be trained; they become float32."""
    model.freeze()
    for module in model.modules():
        if isinstance(module, PaletteLinear):
            module.tables = module.tables.astype(mx.float32)
            module.unfreeze(keys=["tables"], recurse=False)
        elif isinstance(module, nn.RMSNorm):
            module.weight = module.weight.astype(mx.float32)
            module.unfreeze()


def store_tables(model: Decoder, dtype: mx.Dtype) -> None:
    """Freeze what `unfreeze_tables` has freed, in the formats of a checkpoint: gains in `dtype`."""
    model.freeze()
    for module in model.modules():
        if isinstance(module, PaletteLinear):
            module.tables = module.tables.astype(mx.float16)
        elif isinstance(module, nn.RMSNorm):
            module.weight = module.weight.astype(dtype)


def not_in_tables(folder: Path) -> ModelError:
    """What to raise for a model that has lost nothing."""
    return ModelError(
        f"the weights of '{folder}' are numbers, not tables: nothing was lost",
        hint=f"afm quantize {folder} --out DIR makes tables of them",
    )


def won_back(before: float, after: float) -> float:
    """Share of a divergence, 0 to 1, that is gone; below 0 where it grew."""
    return 1 - after / before if before > 0 else 0.0
