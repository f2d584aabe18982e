"""What a model writes of its own accord, as rows."""

import numpy as np
import pytest

from afm_mlx.alignment.own_texts import own_rows
from afm_mlx.text.chat import render_chat


def written(chat_decoder, tokenizer, **changes):
    settings = {"rows": 6, "row_tokens": 48, "seed": 3, "chat": False} | changes
    return own_rows(chat_decoder, tokenizer, **settings)


def test_rows_are_full_and_hold_documents_that_end(chat_decoder, tokenizer):
    rows = written(chat_decoder, tokenizer)
    assert rows.shape == (6, 48)
    assert rows.dtype == np.int32
    assert (rows == tokenizer.eos_id).any()
    assert rows.max() < chat_decoder.shape.vocab_size


@pytest.mark.parametrize("chat", [False, True])
def test_the_same_seed_writes_the_same_rows_and_another_one_others(chat_decoder, tokenizer, chat):
    rows = written(chat_decoder, tokenizer, chat=chat)
    assert (written(chat_decoder, tokenizer, chat=chat) == rows).all()
    assert (written(chat_decoder, tokenizer, chat=chat, seed=4) != rows).any()


def test_a_model_that_chats_writes_conversations_too(chat_decoder, tokenizer):
    asked = render_chat(tokenizer, [{"role": "user", "content": "7"}])
    head = asked[: asked.index(tokenizer.encode("7")[-1])]
    texts = [
        " ".join(map(str, written(chat_decoder, tokenizer, chat=chat).reshape(-1)))
        for chat in (False, True)
    ]
    turns = [text.count(" ".join(map(str, head))) for text in texts]
    assert turns[1] > turns[0]
