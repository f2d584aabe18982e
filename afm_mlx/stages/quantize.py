"""Quantization: a model's matrices become ids into small tables, in as few bits as asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx import compat
from afm_mlx.alignment.own_texts import own_rows
from afm_mlx.artifact import SNAPSHOTS, Inputs, write_text
from afm_mlx.compression.bits import bits_svg
from afm_mlx.compression.divergence import Reference, in_parts
from afm_mlx.compression.palettize import Palettizer, check_finite, check_target
from afm_mlx.corpus.mixture import HeldOutRows
from afm_mlx.corpus.packing import shift_right
from afm_mlx.decoder.checkpoint import (
    check_context,
    open_checkpoint,
    save_checkpoint,
    stage_before,
    stored_bits,
)
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.calibration import calibration_texts
from afm_mlx.training.validation import Validation

Say = Callable[[str], None]

BATCH_TOKENS = 2_048
"""Tokens that the model reads at once, unless a row is longer. Ours."""

COMPARED_TOKENS = 16_384
"""Held-out tokens, at most, whose predictions before and after are compared. Ours."""

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
    mx.reset_peak_memory()
    model = open_checkpoint(folder, dtype=compat.compute_dtype(settings.compute), dense=True)
    row_tokens = section.calibration_row_tokens
    check_context(model.shape, row_tokens, "quantize.calibration_row_tokens")
    check_target(model.shape, section)
    check_finite(model)  # now: without texts, the model would write some first
    work = out / SNAPSHOTS
    work.mkdir(exist_ok=True)
    if recipe.data:
        rows, held_out = calibration_texts(recipe, section, inputs["data"], tokenizer)
    else:
        rows, held_out = _own_texts(recipe, folder, model, tokenizer, work, progress.say)
    progress.say(f"  calibrating on {len(rows):,} rows of {row_tokens:,} tokens")
    validation = Validation(
        held_out,
        eos_id=tokenizer.eos_id,
        micro_rows=settings.micro_rows,
        chunk_bytes=settings.loss_bytes,
    )
    before = validation(model)
    reference = _reference(recipe, model, held_out, tokenizer.eos_id)
    metrics = Palettizer(
        model,
        in_parts(shift_right(mx.array(rows), tokenizer.eos_id), max(1, BATCH_TOKENS // row_tokens)),
        section,
        work=work,
        seed=settings.seed,
        chunk_bytes=settings.loss_bytes,
        progress=progress,
    ).run()
    metrics |= {f"base_{name}": value for name, value in before.items()} | validation(model)
    if held_out:
        metrics["held_out_kl"] = reference.kl(model)
        progress.say(
            f"  held out {metrics['held_out_nats']:.4f} nats per token, before "
            f"{before['held_out_nats']:.4f}; KL to the model before {metrics['held_out_kl']:.4f}"
        )
    facts = {"recipe": recipe.name, "stage": "quantize", "tokenizer": tokenizer.fingerprint}
    save_checkpoint(out / "model", model, folder, facts=facts | stage_before(folder))
    metrics["stored_bits"] = {
        part: each.per_weight for part, each in stored_bits(out / "model").items()
    }
    title = f"{metrics['bits_per_weight']:.2f} bits per weight"
    write_text(out / "bits.svg", bits_svg(metrics["bits"], metrics["sizes"], title))
    metrics["peak_gb"] = round(mx.get_peak_memory() / 1e9, 3)
    return metrics


def _reference(
    recipe: Recipe, model: Decoder, held_out: Mapping[str, HeldOutRows], eos_id: int
) -> Reference:
    """What the model predicts of the first held-out rows of each source."""
    row_tokens = max((each.targets.shape[1] for each in held_out.values()), default=1)
    most_rows = -(-COMPARED_TOKENS // row_tokens // max(len(held_out), 1))
    return Reference.of_rows(
        model,
        [
            (shift_right(mx.array(each.targets[:most_rows]), eos_id), each.counts[:most_rows])
            for each in held_out.values()
        ],
        rows_at_once=max(1, BATCH_TOKENS // row_tokens),
        chunk_bytes=recipe.training.loss_bytes,
    )


def _own_texts(
    recipe: Recipe, folder: Path, model: Decoder, tokenizer: Tokenizer, work: Path, say: Say
) -> tuple[NDArray[np.int32], dict[str, HeldOutRows]]:
    """Rows that the model writes, once for a run and its resumptions, and some held out."""
    section = recipe.quantize
    assert section is not None
    kept, count = work / "own-rows.npy", section.calibration_rows
    if not kept.exists():
        several = count + -(-count // OWN_HELD_OUT)
        say(f"  the model writes {several:,} rows to be calibrated on")
        rows = own_rows(
            model,
            tokenizer,
            rows=several,
            row_tokens=section.calibration_row_tokens,
            seed=recipe.training.seed,
            chat=Engine(model, folder).is_chat,
        )
        part = work / "own-rows.part.npy"
        np.save(part, rows)
        part.replace(kept)
    rows = np.load(kept)
    last = rows[count:]
    text_bytes = len(tokenizer.decode(last.reshape(-1).tolist()).encode())
    held_out = HeldOutRows(last, np.ones(last.shape, np.float32), text_bytes)
    return rows[:count], {"own": held_out}
