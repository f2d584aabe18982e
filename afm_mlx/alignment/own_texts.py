"""Texts of a model's own: what it writes when it is asked nothing, as rows to calibrate on."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from afm_mlx.alignment.sampling import sample_answers
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.text.chat import render_chat
from afm_mlx.text.tokenizer import Tokenizer


def own_rows(
    model: Decoder,
    tokenizer: Tokenizer,
    *,
    rows: int,
    row_tokens: int,
    seed: int,
    chat: bool,
) -> NDArray[np.int32]:
    """Rows of what the model writes when it is asked nothing, [R, T], at temperature 1.

    Texts start where a document does. With `chat`, every other one is a conversation instead: the
    model writes what a user might ask, then answers it. The same call gives the same rows.

    Source. arXiv:2406.08464 (Magpie), for questions out of a chat template's head.
    """
    end, wanted = tokenizer.eos_id, rows * row_tokens
    stream: list[int] = []
    step = 0
    while len(stream) < wanted:
        documents = max(1, -(-(wanted - len(stream)) // row_tokens))
        talks = documents // 2 if chat else 0
        texts = _written(model, tokenizer, [end], documents - talks, row_tokens, (seed, step))
        stream += [number for text in texts for number in (*text, end)]
        if talks:
            said = _conversations(model, tokenizer, talks, row_tokens, (seed, step + 1))
            stream += [number for text in said for number in (*text, end)]
        step += 3
    return np.array(stream[:wanted], np.int32).reshape(rows, row_tokens)


def _written(
    model: Decoder,
    tokenizer: Tokenizer,
    head: list[int],
    count: int,
    most_tokens: int,
    place: tuple[int, int],
) -> list[tuple[int, ...]]:
    """What the model writes after `head`, `count` times, without the token that ended it."""
    (answers,) = sample_answers(
        model,
        tokenizer,
        [head],
        samples=count,
        max_tokens=most_tokens,
        temperature=1.0,
        seed=place[0],
        step=place[1],
    )
    return [each.ids[:-1] if each.finished else each.ids for each in answers]


def _conversations(
    model: Decoder, tokenizer: Tokenizer, count: int, most_tokens: int, place: tuple[int, int]
) -> list[tuple[int, ...]]:
    """Conversations of one question and its answer, both by the model; `count` at most.

    A question that leaves no room for an answer in the context is dropped.
    """
    seed, step = place
    head = _user_head(tokenizer)
    # A question is short; what a model goes on with is no question.
    asked = _written(model, tokenizer, head, count, max(1, most_tokens // 4), place)
    turns = [
        render_chat(tokenizer, [{"role": "user", "content": tokenizer.decode(ids)}])
        for ids in asked
    ]
    short = [turn for turn in turns if len(turn) < model.shape.max_tokens]
    found = sample_answers(
        model,
        tokenizer,
        short,
        samples=1,
        max_tokens=most_tokens,
        temperature=1.0,
        seed=seed,
        step=step + 1,
    )
    return [(*turn, *answer.ids) for turn, (answer,) in zip(short, found, strict=True)]


def _user_head(tokenizer: Tokenizer) -> list[int]:
    """What stands before the user's first word: the beginning that two conversations share."""
    one, other = (
        render_chat(tokenizer, [{"role": "user", "content": word}], generation_prompt=False)
        for word in ("7", "x")
    )
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
