"""How likely a model finds answers: log-probabilities from one pass over packed rows.

Answers of unequal length are packed into as few rows as they fit, and a mask keeps them apart.
Logits are computed for the tokens of the answers alone, those of the prompts cost none, and chunk
by chunk: the matrix of all logits never exists, neither forward nor backward.

Shapes. B rows, T tokens of a row, A answers, N answer tokens of all answers (padded), n of one
chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx.compat import on_gpu
from afm_mlx.corpus.packing import document_mask
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.exponential import LOG2_E, exp2, max_of_last, sum_of_last

# Arrays of the shape of a chunk's logits that exist at once, measured: the CPU back end frees late.
ARRAYS_PER_CHUNK = 10

# Rows, and the number of answer tokens, are padded to multiples of this, so that a compiled step
# meets few different shapes. Ours.
PAD_MULTIPLE = 64


class Answer(NamedTuple):
    """A prompt with an answer, as token ids."""

    ids: Sequence[int] | NDArray[np.int32]
    """The prompt, then the answer with the end of its turn."""
    start: int
    """Tokens of the prompt, at least 1: the answer is `ids[start:]`."""


class PackedAnswers(NamedTuple):
    """Answers in rows. A plain tuple of arrays, so that a training step can take it."""

    tokens: mx.array
    """[B, T] int32; 0 where there is padding."""
    documents: mx.array
    """[B, T] int32, which answer each token belongs to, from 1 within a row; 0 for padding."""
    places: mx.array
    """[N] int32, place in the flat rows of the token before each answer token."""
    targets: mx.array
    """[N] int32, the answer tokens, those of the first answer first; then padding."""
    owners: mx.array
    """[N] int32, number of the answer that each belongs to, 0 to A - 1; 0 for padding."""
    weights: mx.array
    """[N] float32, 1 for an answer token, 0 for padding."""
    lengths: mx.array
    """[A] float32, tokens of each answer."""
    lasts: mx.array
    """[A] int32, place in the flat rows of each answer's last token."""


class Logps(NamedTuple):
    """Log-probabilities in nats, float32."""

    answers: mx.array
    """[A], of each whole answer: the sum over its tokens."""
    tokens: mx.array
    """[N], of each answer token given all before it; 0 for padding."""


def pack_answers(answers: Sequence[Answer], *, row_tokens: int | None = None) -> PackedAnswers:
    """Put answers into rows: the longest first, each into the first row that has room.

    The same answers give the same rows. The order of answers and their tokens stays as given.

    Args:
        answers: at least one, each with a prompt and an answer of at least one token.
        row_tokens: T. None: the longest answer's tokens, rounded up to a multiple of 64. Longer
            rows hold several and waste less, but attention costs more in them.
    """
    sizes = [len(answer.ids) for answer in answers]
    for answer in answers:
        if not 0 < answer.start < len(answer.ids):
            raise ValueError(f"no answer in {len(answer.ids)} tokens from {answer.start} on")
    width = row_tokens or _rounded(max(sizes))
    if max(sizes) > width:
        raise ValueError(f"an answer of {max(sizes)} tokens does not fit a row of {width}")
    rows = _first_fit(sizes, width)
    tokens = np.zeros((len(rows), width), np.int32)
    documents = np.zeros((len(rows), width), np.int32)
    first = np.zeros(len(answers), np.int32)  # place of each answer's first token
    for number, row in enumerate(rows):
        at = 0
        for document, index in enumerate(row, start=1):
            tokens[number, at : at + sizes[index]] = answers[index].ids
            documents[number, at : at + sizes[index]] = document
            first[index] = number * width + at
            at += sizes[index]
    lengths = [len(answer.ids) - answer.start for answer in answers]
    count = sum(lengths)
    places, targets, owners = (np.zeros(_rounded(count), np.int32) for _ in range(3))
    at = 0
    for index, (answer, length) in enumerate(zip(answers, lengths, strict=True)):
        part = slice(at, at + length)
        places[part] = first[index] + answer.start - 1 + np.arange(length)
        targets[part] = answer.ids[answer.start :]
        owners[part] = index
        at += length
    return PackedAnswers(
        mx.array(tokens),
        mx.array(documents),
        mx.array(places),
        mx.array(targets),
        mx.array(owners),
        mx.array((np.arange(len(places)) < count).astype(np.float32)),
        mx.array(np.array(lengths, np.float32)),
        mx.array(first + np.array(sizes, np.int32) - 1),
    )


def answer_logps(
    model: Decoder,
    packed: PackedAnswers,
    *,
    chunk_bytes: int,
    checkpoint: bool = False,
    train_weight: bool = True,
) -> Logps:
    """Log-probability of each answer given its prompt, and of each of its tokens; differentiable.

    Args:
        model: the decoder.
        packed: from `pack_answers`.
        chunk_bytes: about the most bytes of logits, and of arrays of their shape, at once.
        checkpoint: recompute the blocks in the backward pass.
        train_weight: whether the output layer is trained; False saves its gradient.
    """
    hidden = packed_hidden(model, packed, checkpoint=checkpoint)
    tokens = packed.weights * linear_logps(
        hidden[packed.places],
        model.output_weight,
        packed.targets,
        chunk_bytes=chunk_bytes,
        train_weight=train_weight,
    )
    return Logps(answer_sums(tokens, packed), tokens)


def packed_hidden(model: Decoder, packed: PackedAnswers, *, checkpoint: bool = False) -> mx.array:
    """Last states [B x T, D] of all tokens of the rows; answers do not see each other."""
    mask = document_mask(packed.documents)
    hidden = model.hidden(packed.tokens, mask=mask, checkpoint=checkpoint)
    return hidden.reshape(-1, hidden.shape[-1])


def answer_sums(values: mx.array, packed: PackedAnswers) -> mx.array:
    """Sum [A] of values [N] of answer tokens over each answer; those of padding must be 0."""
    # No scatter: on a GPU its additions have no fixed order, and a resumed run would differ.
    mine = packed.owners == mx.arange(packed.lengths.size)[:, None]  # [A, N]
    return sum_of_last(mx.where(mine, values, 0.0)).squeeze(-1)


def linear_logps(
    hidden: mx.array,
    weight: mx.array,
    targets: mx.array,
    *,
    chunk_bytes: int,
    train_weight: bool = True,
) -> mx.array:
    """Log-probabilities [N], float32 in nats, of targets under the logits `hidden @ weight.T`.

    The backward pass computes the logits again, chunk by chunk: unlike that of a mean loss, the
    gradient of each token is not known before the whole forward pass is done.

    Args:
        hidden: [N, D].
        weight: [V, D], output layer.
        targets: [N] integers, 0 to V - 1.
        chunk_bytes: about the most bytes of logits, and of arrays of their shape, at once; one
            token is the least. One more array like `weight` comes on top.
        train_weight: form the gradient of `weight`; False leaves it zero, and saves a quarter.
    """
    num_tokens, vocab_size = hidden.shape[0], weight.shape[0]
    most_tokens = max(1, chunk_bytes // (ARRAYS_PER_CHUNK * mx.float32.size * vocab_size))
    chunk_tokens = -(-num_tokens // -(-num_tokens // most_tokens))  # chunks of even size
    chunks = [slice(start, start + chunk_tokens) for start in range(0, num_tokens, chunk_tokens)]

    def logps(hidden: mx.array, weight: mx.array) -> list[mx.array]:
        """Log-probabilities, and the log normalizers that the backward pass can do without."""
        table = weight.astype(mx.float32)
        parts: list[tuple[mx.array, mx.array]] = []
        for rows in chunks:
            part = hidden[rows].astype(mx.float32)
            if parts:  # one chunk after the other, or all logits are held at once
                part = mx.depends(part, list(parts[-1]))
            parts.append(_chunk_logps(part, table, targets[rows]))
        return [mx.concatenate(list(arrays)) for arrays in zip(*parts, strict=True)]

    def backward(
        primals: list[mx.array], cotangents: list[mx.array], outputs: list[mx.array]
    ) -> list[mx.array]:
        hidden, weight = primals
        table = weight.astype(mx.float32)
        to_hidden: list[mx.array] = []
        to_weight = mx.zeros(table.shape, mx.float32)
        for rows in chunks:
            part = hidden[rows].astype(mx.float32)
            before = [*to_hidden[-1:], to_weight] if train_weight else to_hidden[-1:]
            if to_hidden:
                part = mx.depends(part, before)
            cotangent = cotangents[0][rows][:, None]
            # d logp / d logit = [target] - probability, here with the other sign
            pull = _probabilities(part, table, outputs[1][rows])
            at = targets[rows][:, None]
            pull = mx.put_along_axis(pull, at, mx.take_along_axis(pull, at, axis=-1) - 1, axis=-1)
            to_hidden.append((-cotangent * (pull @ table)).astype(hidden.dtype))
            if train_weight:
                to_weight = to_weight - pull.T @ (cotangent * part)
        return [mx.concatenate(to_hidden), to_weight.astype(weight.dtype)]

    differentiable: Any = mx.custom_function(logps)
    differentiable.vjp(backward)
    found: mx.array = differentiable(hidden, weight)[0]
    return found


def _chunk_logps(hidden: mx.array, table: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Log-probabilities [n] and log normalizers [n] of a chunk."""
    unit = 1.0 if on_gpu() else LOG2_E  # on the CPU, the fast exponential has base 2
    logits = (hidden * unit) @ table.T
    top = max_of_last(logits)
    powers = mx.exp(logits - top) if on_gpu() else exp2(logits - top)
    log_normalizer = (top / unit + mx.log(sum_of_last(powers))).squeeze(-1)
    at_targets = mx.take_along_axis(logits, targets[:, None], axis=-1).squeeze(-1)
    return at_targets / unit - log_normalizer, log_normalizer


def _probabilities(hidden: mx.array, table: mx.array, log_normalizer: mx.array) -> mx.array:
    """Softmax [n, V] of a chunk whose normalizer is known."""
    if on_gpu():
        return mx.exp(hidden @ table.T - log_normalizer[:, None])
    return exp2((hidden * LOG2_E) @ table.T - log_normalizer[:, None] * LOG2_E)


def _first_fit(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Numbers of the items in each row: the largest first, into the first row that has room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        row = next((row for row, left in enumerate(room) if left >= sizes[index]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(index)
        room[row] -= sizes[index]
    return rows


def _rounded(count: int) -> int:
    return -(-count // PAD_MULTIPLE) * PAD_MULTIPLE
