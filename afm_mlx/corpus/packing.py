"""Rows of packed documents: inputs, document numbers, and the mask that keeps documents apart.

A row is cut from a stream in which every document ends with EOS, and holds the targets. Its inputs
are the same tokens one place to the right, after an EOS: an EOS among the inputs is where the
next document starts. Source: AX = apple/axlearn, text input processing.

Shapes. B rows, T tokens of a row.
"""

from __future__ import annotations

import mlx.core as mx


def shift_right(rows: mx.array, eos_id: int) -> mx.array:
    """Inputs for the targets `rows`: EOS, then all targets but the last.

    Args:
        rows: [B, T] integers, the tokens to predict.
        eos_id: the token that ends a document; it also starts every row, even one that begins
            inside a document.

    Returns:
        [B, T], dtype of `rows`: the token before each target.
    """
    first = mx.full((rows.shape[0], 1), eos_id, dtype=rows.dtype)
    return mx.concatenate([first, rows[:, :-1]], axis=1)


def document_ids(inputs: mx.array, eos_id: int) -> mx.array:
    """Number of the document that each input token belongs to, from 1 within a row.

    Args:
        inputs: [B, T] integers, from `shift_right`.
        eos_id: a new document starts at each of these.

    Returns:
        [B, T] int32.
    """
    return mx.cumsum((inputs == eos_id).astype(mx.int32), axis=1)


def document_mask(ids: mx.array) -> mx.array:
    """Who may attend to whom: 1 where a token sees itself or an earlier one of its document.

    Positions need no restart at each document: RoPE depends on distances alone.
    Keeps B x T x T bytes.

    Args:
        ids: [B, T] integers, from `document_ids`.

    Returns:
        [B, 1, T, T] bool: row, any head, the token that looks, the token looked at.
    """
    places = mx.arange(ids.shape[1])
    causal = places[:, None] >= places[None, :]  # [T, T]
    same = ids[:, None, :, None] == ids[:, None, None, :]  # [B, 1, T, T]
    return mx.logical_and(same, causal)
