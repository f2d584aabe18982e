"""Parts of recovery: what the 16-bit model says of each step, and where training begins.

The method is that of the report's accuracy-recovery adapters: the quantized weights stay, and
low-rank factors beside them learn what the 16-bit model predicts. The values of the tables can be
trained in the same way, which changes the model and takes no bits.

Sources. OB, LS: notes on arXiv:2407.21075. EVA: arXiv:2410.07170.

Shapes. R rows, T tokens of a row, K candidates. I inputs of a linear layer, r rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from afm_mlx.compression.moments import SITES, advance, block_moments, start_stream
from afm_mlx.compression.teacher import LiveTeacher, Said
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.lora import LoraLinear
from afm_mlx.decoder.palette import PaletteLinear, linears
from afm_mlx.decoder.weights import write_file
from afm_mlx.errors import ModelError

# Directions beyond those wanted, and rounds, of the search for the largest ones. Ours.
_MORE_DIRECTIONS, _ROUNDS = 8, 4


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


def leading_inputs(
    model: Decoder, batches: Sequence[mx.array], *, rank: int, seed: int
) -> dict[str, mx.array]:
    """First factors [I, r] that take in the directions in which a layer's inputs are largest.

    Quantization leaves an error without any direction of its own, so most of what it does to the
    outputs lies where the inputs do. Each column gives numbers of the same mean square, that of the
    inputs, as a drawn factor does: one step of training then counts alike for all of them. (EVA
    leaves their lengths at 1.)

    Args:
        model: as it is quantized.
        batches: token ids [B, L].
        rank: r. A layer with fewer inputs gets as many directions, and zeros.
        seed: of the search's start.

    Returns:
        By the layers' dotted names, float32. Keeps E[x x^T] of one block at a time.
    """
    stream = start_stream(model, batches)
    found: dict[str, mx.array] = {}
    for number, block in enumerate(model.layers):
        for site in SITES:
            moment = block_moments(block, stream, full=True, sites=(site,))[site]
            name = f"model.layers.{number}.{site}"
            factor = leading_directions(moment, rank, key=name_key(seed, name))
            mx.eval(factor)
            for each in SITES[site]:
                found[f"model.layers.{number}.{each}"] = factor
        stream = advance(block, stream)
    return found


def leading_directions(moment: mx.array, count: int, *, key: mx.array) -> mx.array:
    """Directions [I, count] in which x is largest, each as long as makes x times it as large as x.

    Args:
        moment: [I, I] float32, E[x x^T].
        count: r; what is above I are columns of zeros.
        key: of the search's start. Source: arXiv:0909.4061, algorithm 4.4.
    """
    size = moment.shape[0]
    kept = min(count, size)
    with mx.stream(mx.cpu):  # where MLX has these decompositions
        basis = mx.random.normal((size, min(kept + _MORE_DIRECTIONS, size)), key=key)
        for _ in range(_ROUNDS):
            basis, _ = mx.linalg.qr(moment @ basis)
        values, vectors = mx.linalg.eigh(basis.T @ moment @ basis)  # ascending
        order = mx.argsort(-values)[:kept]
        mean_square = mx.trace(moment) / size
        values = mx.maximum(values[order], 1e-6 * mean_square)  # of inputs that are never there
        directions = (basis @ vectors[:, order]) * mx.sqrt(mean_square / values)
        return mx.pad(directions, [(0, 0), (0, count - kept)])


def set_first_factors(model: Decoder, factors: Mapping[str, mx.array]) -> None:
    """Begin an adapter of rank r with the first r columns of `factors`, by the layers' names."""
    for name, layer in linears(model).items():
        if isinstance(layer, LoraLinear):
            layer.lora_a = factors[name][:, : layer.lora_a.shape[1]]


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


def name_key(seed: int, name: str) -> mx.array:
    """Random key of one layer."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return mx.random.key(int.from_bytes(digest[:8], "little"))


def not_in_tables(folder: Path) -> ModelError:
    """What to raise for a model that has lost nothing."""
    return ModelError(
        f"the weights of '{folder}' are numbers, not tables: nothing was lost",
        hint=f"afm quantize {folder} --out DIR makes tables of them",
    )


def won_back(before: float, after: float) -> float:
    """Share of a divergence, 0 to 1, that is gone; below 0 where it grew."""
    return 1 - after / before if before > 0 else 0.0
