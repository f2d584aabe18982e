"""A decoder in tables: bits are given out by damage, then blocks are fitted one after the other.

Each block is fitted to what really goes into it: the texts as the blocks before it, already in
tables, pass them on. At one time there are the model, the states between two blocks, and one
block's work. What is done stays in a folder:

    worths.safetensors       how much each token counts, for each matrix
    damages.json             what each matrix would lose at each width
    gradients.safetensors    how much each output matters
    block-0003.safetensors   a finished block; an interrupted run goes on behind the last one
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from afm_mlx.artifact import write_text
from afm_mlx.compression.bits import (
    Choice,
    Damages,
    allocate,
    bits_table,
    shares,
)
from afm_mlx.compression.damage import (
    estimated_damage,
    fit_alone,
    measured_damage,
    palette_linear,
)
from afm_mlx.compression.divergence import Reference
from afm_mlx.compression.drift import BlockPair
from afm_mlx.compression.equalize import equalize
from afm_mlx.compression.feedback import fit_with_feedback
from afm_mlx.compression.moments import (
    SITES,
    Worths,
    advance,
    block_moments,
    collect_moments,
    fisher,
    start_stream,
    token_worths,
    worths_of_block,
)
from afm_mlx.decoder.decoder import Block, Decoder, named_parameters
from afm_mlx.decoder.palette import (
    EMBEDDING,
    INT8_BITS,
    OUTPUT,
    Int8Linear,
    PaletteLinear,
    linears,
    replace_linears,
    round_ends,
)
from afm_mlx.decoder.weights import listed, write_file
from afm_mlx.errors import ModelError
from afm_mlx.progress import Progress
from afm_mlx.settings.palette import DamageMeasure, Quantize
from afm_mlx.settings.sections import Shape


class Palettizer:
    """The work of palettizing one decoder, in place."""

    def __init__(
        self,
        decoder: Decoder,
        batches: Sequence[mx.array],
        section: Quantize,
        *,
        work: Path,
        seed: int,
        chunk_bytes: int,
        progress: Progress,
    ) -> None:
        """Prepare the work.

        Args:
            decoder: dense; it is changed.
            batches: token ids [B, T] to calibrate on.
            section: [quantize].
            work: folder of what is done; it is needed until the decoder is saved.
            seed: of the labels that gradients are taken of.
            chunk_bytes: budget for logits held at once.
            progress: is told what happens.

        Raises:
            ModelError: a matrix holds NaN or infinity.
        """
        check_finite(decoder)
        self.decoder, self.batches, self.section = decoder, batches, section
        self.work, self.seed, self.chunk_bytes, self.progress = work, seed, chunk_bytes, progress
        self.sizes = matrix_sizes(decoder.shape)

    def run(self) -> dict[str, Any]:
        """Put tables in place of all matrices.

        Returns:
            Metrics of the choice and of the fit; "earlier_seconds" are those of what an interrupted
            run had done.

        Raises:
            RecipeError: no choice of bits has the average that is asked for.
        """
        self.worths = self._worths()
        if self.section.equalize:
            self.progress.status("  equalizing: scales of channels move to where tables fit best")
            equalize(
                self.decoder,
                collect_moments(self.decoder, self.batches, worths=self.worths),
                bits=self.section.bits,
                group_rows=self.section.group_channels,
            )
        if done := len(list(self.work.glob("block-????.safetensors"))):
            self.progress.say(f"  {done} of {len(self.decoder.layers)} blocks are done already")
        # Where all may have the most bits there is nothing to choose, and damages are not taken.
        most = _choose(_alike(self.sizes, self.section), self.sizes, self.section)
        free = set(_inside(most.bits).values()) != {max(self.section.widths)}
        gradients, damages, earlier_seconds = self._measurements(free)
        choice = _choose(damages, self.sizes, self.section) if free else most
        self.progress.say(bits_table(choice.bits))
        before = start_stream(self.decoder, self.batches)
        round_ends(self.decoder)
        stream = start_stream(self.decoder, self.batches)
        errors: dict[str, float] = {}
        for number, block in enumerate(self.decoder.layers):
            file = self.work / f"block-{number:04}.safetensors"
            pair = BlockPair(block, self.decoder.shape, stream, before)
            if file.exists():
                found, seconds = _open_block(block, file, self.section.group_channels)
                earlier_seconds += seconds
            else:
                started = time.monotonic()
                found = self._fit_block(number, pair, choice.bits, gradients)
                _save_block(block, file, found, time.monotonic() - started)
            errors |= {f"model.layers.{number}.{part}": each for part, each in found.items()}
            self.progress.status(
                f"  block {number + 1} of {len(self.decoder.layers)} is in tables, "
                f"error {fmean(found.values()):.2%}"
            )
            stream, before = advance(block, stream), pair.after
        return {
            "bits_per_weight": choice.bits_per_weight,
            "bits": choice.bits,
            "sizes": self.sizes,
            "share_by_bits": shares(_inside(choice.bits), self.sizes),
            "damage": choice.damage if free else None,
            "damages": damages,
            "fit_error": fmean(errors.values()),
            "fit_errors": errors,
            "calibration_tokens": sum(batch.size for batch in self.batches),
            "earlier_seconds": earlier_seconds,
        }

    def _worths(self) -> Worths:
        """What tokens count, which equalization does not change; kept in one file."""
        file = self.work / "worths.safetensors"
        if not file.exists():
            self.progress.status("  gradients: how much each token counts")
            found = token_worths(self.decoder, self.batches, seed=self.seed)
            part_file = file.with_name("worths.part.safetensors")
            write_file(part_file, {name: mx.concatenate(each) for name, each in found.items()})
            part_file.replace(file)
        ends = np.cumsum([len(each) for each in self.batches])[:-1].tolist()
        kept = cast(dict[str, mx.array], mx.load(str(file)))
        return {name: cast(list[mx.array], mx.split(each, ends)) for name, each in kept.items()}

    def _measurements(self, free: bool) -> tuple[dict[str, mx.array], Damages, float]:
        """Gradients at outputs, damages if bits are `free`, and the seconds of an earlier run."""
        file, seconds = self.work / "damages.json", 0.0
        gradients_file = self.work / "gradients.safetensors"
        if not file.exists():
            started = time.monotonic()
            self.progress.status("  gradients: how much each output matters")
            gradients = fisher(self.decoder, self._first_rows(), seed=self.seed)
            write_file(gradients_file, gradients)
            taken = self._damages(gradients) if free else {}
            found = {"damages": taken, "seconds": time.monotonic() - started}
            write_text(file, json.dumps(found, indent=1) + "\n")
        else:
            seconds = json.loads(file.read_text())["seconds"]
        damages = {
            name: {int(width): each for width, each in widths.items()}
            for name, widths in json.loads(file.read_text())["damages"].items()
        }
        return cast(dict[str, mx.array], mx.load(str(gradients_file))), damages, seconds

    def _first_rows(self) -> list[mx.array]:
        """The first `gradient_rows` rows, one at a time: gradients at all outputs are held."""
        rows = [row[None] for batch in self.batches for row in batch]
        return rows[: self.section.gradient_rows]

    def _damages(self, gradients: Mapping[str, mx.array]) -> Damages:
        """Of every matrix of the blocks, for every width."""
        measured = self.section.damage is DamageMeasure.MEASURED
        first = self._first_rows() if measured else []
        reference = Reference(self.decoder, first, chunk_bytes=self.chunk_bytes)
        stream, read = (start_stream(self.decoder, each) for each in (self.batches, first))
        found: dict[str, dict[int, float]] = {}
        for number, block in enumerate(self.decoder.layers):
            worths = worths_of_block(self.worths, number)
            moments = block_moments(block, stream, full=True, worths=worths)
            for part, moment in moments.items():
                name = f"model.layers.{number}.{part}"
                weight = linears(self.decoder)[name].weight
                found[name] = {}
                for width in self.section.widths:
                    stored = self._alone(name, weight, width, moment, gradients[name])
                    found[name][width] = (
                        measured_damage(self.decoder, number, read, name, stored, reference)
                        if measured
                        else estimated_damage(weight, stored, moment, gradients[name])
                    )
            self.progress.status(
                f"  damages of block {number + 1} of {len(self.decoder.layers)} are "
                + ("measured" if measured else "estimated")
            )
            stream = advance(block, stream)
            read = advance(block, read)
        return found

    def _fit_block(
        self,
        number: int,
        pair: BlockPair,
        bits: Mapping[str, int],
        gradients: Mapping[str, mx.array],
    ) -> dict[str, float]:
        """Put tables in place of a block's matrices, in the order of their use; their errors."""
        errors: dict[str, float] = {}
        worths = worths_of_block(self.worths, number)
        for site in SITES:
            stored: dict[str, nn.Module] = {}
            for part, seen in pair.seen(site, worths).items():
                name = f"model.layers.{number}.{part}"
                weight, gradient = linears(self.decoder)[name].weight, gradients[name]
                if self.section.correct_drift:
                    weight = seen.corrected(weight, damping=self.section.drift_damping)
                if bits[name] == INT8_BITS or not self.section.error_feedback:
                    fitted = self._alone(name, weight, bits[name], seen.moments, gradient)
                else:
                    fitted = self._with_feedback(name, weight, bits[name], seen.moments, gradient)
                errors[part] = relative_error(weight, fitted, seen.moments)
                stored[name] = fitted
            replace_linears(self.decoder, stored)
            mx.eval(self.decoder.layers[number].parameters())
        return errors

    def _alone(
        self, name: str, weight: mx.array, bits: int, moment: mx.array, gradient: mx.array
    ) -> Int8Linear | PaletteLinear:
        return fit_alone(
            weight,
            bits,
            importance_of(gradient, moment) if self.section.weighted else None,
            group_rows=self.section.group_channels,
            rounds=self.section.cluster_iterations,
            tolerance=self.section.cluster_tolerance,
            name=name,
        )

    def _with_feedback(
        self, name: str, weight: mx.array, bits: int, moment: mx.array, gradient: mx.array
    ) -> PaletteLinear:
        palette = fit_with_feedback(
            np.array(weight.astype(mx.float32)),
            np.array(moment),
            bits=bits,
            damping=self.section.damping,
            group_rows=self.section.group_channels,
            importance=np.array(gradient),
            name=name,
        )
        return palette_linear(palette, bits, self.section.group_channels)


def matrix_sizes(shape: Shape) -> dict[str, int]:
    """Weights in each matrix of a decoder, by name, the embedding too. Allocates nothing."""
    decoder = Decoder(shape)
    sizes = {name: int(matrix.weight.size) for name, matrix in linears(decoder).items()}
    return sizes | {EMBEDDING: decoder.model.embed_tokens.weight.size}


def check_target(shape: Shape, section: Quantize) -> None:
    """Raise unless some choice of bits has the average that is asked for.

    Raises:
        RecipeError: none has; the nearest averages are named.
    """
    sizes = matrix_sizes(shape)
    _choose(_alike(sizes, section), sizes, section)


def _alike(sizes: Mapping[str, int], section: Quantize) -> Damages:
    """Damages that are the same for all: fewer for more bits."""
    return {name: {width: -float(width) for width in section.widths} for name in _inside(sizes)}


def _inside(values: Mapping[str, int]) -> dict[str, int]:
    """Of the blocks' matrices alone."""
    return {name: value for name, value in values.items() if name not in _ENDS}


def _choose(damages: Damages, sizes: Mapping[str, int], section: Quantize) -> Choice:
    """Bits of every matrix, the embedding's too."""
    ends = {name: int(section.embedding_bits) for name in _ENDS if name in sizes}
    choice = allocate(
        damages,
        sizes,
        section.target_bits_per_weight,
        fixed=ends if section.target_counts_embedding else {},
    )
    return Choice(choice.bits | ends, choice.bits_per_weight, choice.damage)


def check_finite(decoder: Decoder) -> None:
    """Raise unless all weights are numbers.

    Raises:
        ModelError: some are NaN or infinite; up to three matrices are named, with how many.
    """
    counts = {
        name: int((~mx.isfinite(array)).sum()) for name, array in named_parameters(decoder).items()
    }
    if bad := [f"{count:,} in {name}" for name, count in counts.items() if count]:
        raise ModelError(
            f"weights that are NaN or infinite: {listed(bad)}",
            hint="the model is damaged, or its training went wrong: take an earlier one",
        )


def importance_of(gradient: mx.array, moment: mx.array) -> NDArray[np.float32]:
    """Weight of each error of a matrix [O, I], with mean 1: of its output times of its input."""
    product = gradient[:, None] * mx.diag(moment)[None]
    mean = product.mean()
    return np.array(mx.where(mean > 0, product / mx.where(mean > 0, mean, 1), 1), np.float32)


def relative_error(weight: mx.array, stored: Int8Linear | PaletteLinear, moment: mx.array) -> float:
    """Squared error of the outputs on the texts, as a share of the outputs' squares."""
    weight = weight.astype(mx.float32)
    error = stored.dense() - weight
    power = float(((weight @ moment) * weight).sum())
    return float(((error @ moment) * error).sum()) / power if power > 0 else 0.0


def _save_block(block: Block, file: Path, errors: Mapping[str, float], seconds: float) -> None:
    """Keep a finished block, its gains too: whole or not at all."""
    arrays = cast(dict[str, mx.array], tree_flatten(block.parameters(), destination={}))
    facts = {f"{_ERROR}{part}": mx.array(error) for part, error in errors.items()}
    part_file = file.with_name(f"{file.stem}.part.safetensors")
    write_file(part_file, arrays | facts | {_SECONDS: mx.array(seconds)})
    part_file.replace(file)


def _open_block(block: Block, file: Path, group_rows: int) -> tuple[dict[str, float], float]:
    """Put a finished block's layers in place; their errors, and the seconds they had taken."""
    arrays = cast(dict[str, mx.array], mx.load(str(file)))
    seconds = float(arrays.pop(_SECONDS))
    errors = {
        name.removeprefix(_ERROR): float(arrays.pop(name))
        for name in list(arrays)
        if name.startswith(_ERROR)
    }
    for part in errors:
        room, name = part.split(".")
        ids = arrays.pop(f"{part}.ids")
        if f"{part}.scales" in arrays:
            layer: nn.Module = Int8Linear(ids, arrays.pop(f"{part}.scales"))
        else:
            tables = arrays.pop(f"{part}.tables")
            layer = PaletteLinear(
                ids,
                tables,
                bits=int(tables.shape[1]).bit_length() - 1,
                group_rows=group_rows,
                in_features=block[room][name].weight.shape[1],
            )
        setattr(block[room], name, layer)
    block.update(tree_unflatten(list(arrays.items())))
    mx.eval(block.parameters())
    return errors, seconds


_ENDS = (EMBEDDING, OUTPUT)
_ERROR, _SECONDS = "error ", "seconds"
