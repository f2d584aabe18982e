"""Quantization: a model's matrices become ids into small tables, in as few bits as asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx import compat
from afm_mlx.alignment.own_texts import own_rows
from afm_mlx.artifact import SNAPSHOTS, Inputs, write_text
from afm_mlx.compression.bits import bits_svg
from afm_mlx.compression.divergence import Reference
from afm_mlx.compression.palettize import Palettizer, check_finite, check_target
from afm_mlx.corpus.mixture import HeldOutRows
from afm_mlx.corpus.packing import shift_right
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint, stored_bits
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.errors import DataError, ModelError
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.texts import TrainingTexts, open_held_out
from afm_mlx.training.validation import Validation

BATCH_TOKENS = 2_048
"""Tokens that the model reads at once, unless a row is longer. Ours."""

OWN_HELD_OUT = 8
"""Of as many rows that the model wrote, one is only measured on. Ours."""


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Palettize the newest model; leave a checkpoint in `out`, and a picture of its bits.

    It is calibrated on the recipe's texts, or on what the model writes where there are none.

    Raises:
        DataError: texts are damaged, of another tokenizer, or shorter than a row.
        ModelError: the model's context is shorter than a row, or it holds NaN.
        RecipeError: no choice of bits has the average that is asked for.
    """
    section, settings = recipe.quantize, recipe.training
    start = recipe.start_of("quantize")
    assert section is not None
    assert start is not None
    folder = inputs[start] / "model"
    tokenizer = Tokenizer.open(folder)
    model = open_checkpoint(folder, dtype=compat.compute_dtype(settings.compute), dense=True)
    row_tokens, context = section.calibration_row_tokens, model.shape.max_tokens
    if row_tokens > context:
        raise ModelError(
            f"quantize.calibration_row_tokens is {row_tokens:,}, "
            f"and the model's context {context:,}",
            hint=f"--set quantize.calibration_row_tokens={context}",
        )
    check_target(model.shape, section)
    check_finite(model)
    work = out / SNAPSHOTS
    work.mkdir(exist_ok=True)
    if recipe.data:
        rows = _text_rows(recipe, inputs, tokenizer)
        held_out = _held_out(recipe, inputs, tokenizer)
    else:
        rows, held_out = _own_rows(recipe, folder, model, tokenizer, work, progress)
    progress.say(f"  calibrating on {len(rows):,} rows of {row_tokens:,} tokens")
    validation = Validation(
        held_out,
        eos_id=tokenizer.eos_id,
        micro_rows=settings.micro_rows,
        chunk_bytes=settings.loss_bytes,
    )
    before = validation(model)
    read = [batch for each in held_out.values() for batch in _batches(each.targets)]
    reference = Reference(
        model,
        [shift_right(batch, tokenizer.eos_id) for batch in read],
        counts=[batch for each in held_out.values() for batch in _batches(each.counts)],
        chunk_bytes=settings.loss_bytes,
    )
    metrics = Palettizer(
        model,
        [shift_right(batch, tokenizer.eos_id) for batch in _batches(rows)],
        section,
        work=work,
        seed=settings.seed,
        chunk_bytes=settings.loss_bytes,
        progress=progress,
    ).run()
    metrics |= {f"base_{name}": value for name, value in before.items()} | validation(model)
    if read:
        metrics["held_out_kl"] = reference.kl(model)
        progress.say(
            f"  held out {metrics['held_out_nats']:.4f} nats per token, before "
            f"{before['held_out_nats']:.4f}; KL to the model before {metrics['held_out_kl']:.4f}"
        )
    facts = {"recipe": recipe.name, "stage": "quantize", "tokenizer": tokenizer.fingerprint}
    save_checkpoint(out / "model", model, folder, facts=facts)
    metrics["stored_bits"] = {
        part: each.per_weight for part, each in stored_bits(out / "model").items()
    }
    title = f"{metrics['bits_per_weight']:.2f} bits per weight"
    write_text(out / "bits.svg", bits_svg(metrics["bits"], metrics["sizes"], title))
    return metrics


def _batches(rows: NDArray[Any]) -> list[mx.array]:
    """Rows [R, T] of tokens, or of what counts, in parts that the model reads at once."""
    step = max(1, BATCH_TOKENS // rows.shape[1])
    return [mx.array(rows[start : start + step]) for start in range(0, len(rows), step)]


def _text_rows(recipe: Recipe, inputs: Inputs, tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Rows of the recipe's texts, in the shares of [core]; fewer than asked for, if there are."""
    section = recipe.quantize
    assert section is not None
    try:
        texts = TrainingTexts(
            inputs["data"],
            dict(recipe.core.mixture) if recipe.core else dict.fromkeys(recipe.data, 1.0),
            tokenizer,
            row_tokens=section.calibration_row_tokens,
            rows_per_step=section.calibration_rows,
            seed=recipe.training.seed,
        )
    except DataError as error:
        if "one row needs" not in str(error):
            raise
        hint = "add text, or --set quantize.calibration_row_tokens=... with fewer"
        raise DataError(str(error), hint=hint) from None
    there = sum(texts.rows.source_rows.values())
    return texts.rows.rows(0, min(section.calibration_rows, there))


def _held_out(recipe: Recipe, inputs: Inputs, tokenizer: Tokenizer) -> dict[str, HeldOutRows]:
    section = recipe.quantize
    assert section is not None
    trained = recipe.pretraining_stages() or recipe.prune
    row_tokens = section.calibration_row_tokens
    return open_held_out(
        inputs["data"],
        recipe.data,
        tokenizer,
        row_tokens=row_tokens,
        span_tokens=recipe.longest_row() if trained else row_tokens,
        most_tokens=recipe.watch.evaluation_tokens,
    )


def _own_rows(
    recipe: Recipe,
    folder: Path,
    model: Decoder,
    tokenizer: Tokenizer,
    work: Path,
    progress: Progress,
) -> tuple[NDArray[np.int32], dict[str, HeldOutRows]]:
    """Rows that the model writes, once for a run and its resumptions, and some held out."""
    section = recipe.quantize
    assert section is not None
    kept = work / "own-rows.npy"
    count = section.calibration_rows
    held = -(-count // OWN_HELD_OUT)
    if not kept.exists():
        chat = Engine(model, folder).is_chat
        progress.say(f"  the model writes {count + held:,} rows to be calibrated on")
        rows = own_rows(
            model,
            tokenizer,
            rows=count + held,
            row_tokens=section.calibration_row_tokens,
            seed=recipe.training.seed,
            chat=chat,
        )
        part = work / "own-rows.part.npy"
        np.save(part, rows)
        part.replace(kept)
    rows = np.load(kept)
    last = rows[count:]
    text_bytes = len(tokenizer.decode(last.reshape(-1).tolist()).encode())
    held_out = HeldOutRows(last, np.ones(last.shape, np.float32), text_bytes)
    return rows[:count], {"own": held_out}
