"""What a teacher says of rows of text: for each token, the tokens that it finds likeliest next.

Shapes. R rows, T tokens of a row, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.packing import document_ids, document_mask, shift_right
from afm_mlx.decoder.checkpoint import open_checkpoint, read_palette, read_shape
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.errors import ModelError
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import Tokenizer

# Arrays like a chunk's logits that exist at once: logits, their order, what is chosen. Ours.
_LOGIT_ARRAYS = 3


@dataclass(frozen=True)
class Said:
    """The teacher's candidates for each token, likeliest first."""

    ids: NDArray[np.int32]
    """[R, T, K] token ids."""
    logps: NDArray[np.float16]
    """[R, T, K] log-probabilities in nats, 0 of a single candidate. 16 bits, as in label files, so
    that what a teacher says live and in files is the same."""

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """[R, T, K], 0 to 1. What is missing to a sum of 1 is that of all other tokens."""
        return np.exp(self.logps.astype(np.float32))


class Teacher(Protocol):
    """Who knows what the teacher says: the model itself, or label files."""

    def says(self, rows: NDArray[np.int32], places: Sequence[tuple[str, int]]) -> Said:
        """Candidates of the tokens of `rows` [R, T], which stand at `places` of the sources."""


class LiveTeacher:
    """A teacher that reads the rows itself."""

    def __init__(
        self,
        model: Decoder,
        *,
        vocab_size: int,
        eos_id: int,
        candidates: int,
        temperature: float,
        document_mask: bool,
        micro_rows: int,
        chunk_bytes: int,
    ) -> None:
        """`model` is not changed. `chunk_bytes` is a budget for logits held at once.

        Of its tokens, the first `vocab_size` count: a student may have fewer spare rows.
        """
        self.model, self.vocab_size, self.eos_id = model, vocab_size, eos_id
        self.candidates, self.temperature = candidates, temperature
        self.document_mask, self.micro_rows = document_mask, micro_rows
        self.chunk_bytes = chunk_bytes

    def says(self, rows: NDArray[np.int32], places: Sequence[tuple[str, int]] = ()) -> Said:
        """Candidates of the tokens of `rows` [R, T]; `places` do not matter."""
        inputs = shift_right(mx.array(rows), self.eos_id)
        documents = np.array(document_ids(inputs, self.eos_id)) if self.document_mask else None
        return self.continues(np.array(inputs), documents)

    def continues(self, inputs: NDArray[np.int32], documents: NDArray[np.int32] | None) -> Said:
        """Candidates for the token after each of `inputs` [R, T].

        `documents` [R, T] are the numbers of documents that see only themselves; None: a row is
        one document.
        """
        ids, logps = [], []
        for start in range(0, len(inputs), self.micro_rows):
            rows = slice(start, start + self.micro_rows)
            mask: Any = "causal" if documents is None else document_mask(mx.array(documents[rows]))
            found = self._read(mx.array(inputs[rows]), mask)
            ids.append(found[0])
            logps.append(found[1])
        return Said(np.concatenate(ids), np.concatenate(logps))

    def _read(self, inputs: mx.array, mask: Any) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
        hidden = self.model.hidden(inputs, mask=mask)
        # Logits near 30 in bfloat16 are multiples of 0.125, and several would be the highest.
        hidden = hidden.reshape(-1, hidden.shape[-1]).astype(mx.float32)
        table = self.model.output_weight[: self.vocab_size].astype(mx.float32)
        row_bytes = _LOGIT_ARRAYS * mx.float32.size * table.shape[0]
        step = max(1, self.chunk_bytes // row_bytes)
        ids, logps = [], []
        for start in range(0, hidden.shape[0], step):
            logits = hidden[start : start + step] @ table.T
            found = likeliest(logits, self.candidates, self.temperature)
            mx.eval(found)
            ids.append(np.array(found[0]))
            logps.append(np.array(found[1]).astype(np.float16))
        shape = (*inputs.shape, self.candidates)
        return np.concatenate(ids).reshape(shape), np.concatenate(logps).reshape(shape)


def likeliest(logits: mx.array, candidates: int, temperature: float) -> tuple[mx.array, mx.array]:
    """The highest logits of each token, as ids and as log-probabilities.

    Args:
        logits: [N, V] float32.
        candidates: K, how many; 1 to V.
        temperature: divides the logits before the softmax; above 0.

    Returns:
        [N, K] int32, likeliest first, and [N, K] float32: their log-probabilities among all V, but
        of a single candidate 0.
    """
    if candidates == 1:
        ids = mx.argmax(logits, axis=-1, keepdims=True).astype(mx.int32)
        return ids, mx.zeros(ids.shape, mx.float32)
    logits = logits / temperature
    normalizer = mx.logsumexp(logits, axis=-1, keepdims=True)
    ids = mx.argpartition(-logits, candidates - 1, axis=-1)[:, :candidates]
    found = mx.take_along_axis(logits, ids, axis=-1)
    order = mx.argsort(-found, axis=-1)
    ids = mx.take_along_axis(ids, order, axis=-1).astype(mx.int32)
    found = mx.take_along_axis(found, order, axis=-1)
    return ids, found - normalizer


def check_teacher(folder: Path, student: Shape, tokenizer: Tokenizer) -> None:
    """Raise unless the model in `folder` can teach a student of some shape and tokenizer.

    Raises:
        ModelError: the tokenizers differ, or the teacher has fewer layers than the student.
    """
    theirs, layers = Tokenizer.open(folder).fingerprint, read_shape(folder).num_layers
    if theirs != tokenizer.fingerprint:
        raise ModelError(
            f"the teacher's tokenizer is {theirs[:8]}, and the student's "
            f"{tokenizer.fingerprint[:8]}: the same ids mean other texts",
            hint="distil from a model with the same tokenizer, such as a larger one of its family",
        )
    if layers < student.num_layers:
        raise ModelError(
            f"the teacher has {layers} layers, and the student {student.num_layers}",
            hint="a teacher is at least as deep as its student: is the order right?",
        )


def check_original(folder: Path, changed: Path) -> None:
    """Raise unless the model in `folder` can be the one that the model in `changed` was made of.

    Raises:
        ModelError: it is in tables itself; or their shapes or tokenizers differ.
    """
    theirs, ours = read_shape(folder), read_shape(changed)
    hint = "the teacher is the model as it was before it was quantized"
    if read_palette(folder, theirs) is not None:
        raise ModelError(f"the weights of the teacher '{folder}' are look-up tables", hint=hint)
    for name in ("num_layers", *(name for name in type(ours).model_fields)):
        there, here = getattr(theirs, name), getattr(ours, name)
        if there != here:
            raise ModelError(
                f"the teacher's {name} is {there}, and that of '{changed}' {here}",
                hint=hint,
            )
    check_teacher(folder, ours, Tokenizer.open(changed))


def open_teacher(
    folder: Path,
    student: Shape,
    tokenizer: Tokenizer,
    *,
    dtype: mx.Dtype,
    candidates: int,
    temperature: float,
    document_mask: bool,
    micro_rows: int,
    chunk_bytes: int,
) -> LiveTeacher:
    """The teacher in a model folder, for a student of some shape and tokenizer.

    Raises:
        ModelError: as `check_teacher`.
    """
    check_teacher(folder, student, tokenizer)
    return LiveTeacher(
        open_checkpoint(folder, dtype=dtype),
        vocab_size=student.vocab_size,
        eos_id=tokenizer.eos_id,
        candidates=candidates,
        temperature=temperature,
        document_mask=document_mask,
        micro_rows=micro_rows,
        chunk_bytes=chunk_bytes,
    )
