import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from afm_mlx.decoder.gguf_tokenizer import write_tokenizer
from afm_mlx.errors import ModelError

START, END = 262, 263


@pytest.fixture
def tokenizer(byte_level_fields: Callable[..., dict[str, Any]], tmp_path: Path) -> Any:
    """Writes a tokenizer and opens it with the library that everybody uses."""

    def tokenizer(pre: str, **changes: Any) -> Tokenizer:
        write_tokenizer(byte_level_fields(pre, **changes), tmp_path, Path("m.gguf"))
        return Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    return tokenizer


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        # How each splits numbers, and whether a space stays with the digit that follows.
        ("gpt-2", ["1234", "\u0120", "1234"]),
        ("smollm", ["1", "2", "3", "4", "\u0120", "1", "2", "3", "4"]),
        ("qwen2", ["1", "2", "3", "4", "\u0120", "1", "2", "3", "4"]),
        ("llama-bpe", ["<|start|>", "123", "4", "\u0120", "123", "4"]),
    ],
)
def test_numbers_are_split_as_the_pre_tokenizer_says(pre, pieces, tokenizer):
    assert tokenizer(pre).encode("1234 1234").tokens == pieces


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_any_text_survives(pre, tokenizer):
    text = "he said: 'I'LL have\n\n  12 \u00e9clairs\u2014\u4f60\u597d \U0001f600\t'  \r\n"
    fast = tokenizer(pre)
    assert fast.decode(fast.encode(text).ids, skip_special_tokens=True) == text


def test_merges_are_applied_in_their_order(tokenizer):
    # "h e" stands before "\u0120 h"
    assert tokenizer("gpt-2").encode(" he ha").tokens == ["\u0120he", "\u0120h", "a"]


def test_qwen2_composes_characters_and_the_others_do_not(tokenizer):
    decomposed = "e\u0301"
    for pre, num_bytes in [("qwen2", 2), ("smollm", 3)]:
        assert len(tokenizer(pre).encode(decomposed).ids) == num_bytes


def test_llama_takes_a_word_that_is_a_piece_as_it_is(tokenizer):
    no_merges = {"tokenizer.ggml.merges": []}
    assert tokenizer("gpt-2", **no_merges).encode("he").tokens == ["h", "e"]
    assert tokenizer("llama-bpe", **no_merges).encode("he").tokens == ["<|start|>", "he"]


def test_control_pieces_are_found_in_text_and_not_decoded(tokenizer):
    fast = tokenizer("smollm")
    ids = fast.encode("<|start|>he<|end|>").ids
    assert (ids[0], ids[-1]) == (START, END)
    assert fast.decode(ids) == "he"


def test_unused_pieces_are_left_out(tokenizer):
    fast = tokenizer("gpt-2")
    assert fast.get_vocab_size() == 265
    assert fast.token_to_id("[PAD265]") is None


def test_settings_name_the_special_pieces_and_the_template(tmp_path, byte_level_fields):
    ids = write_tokenizer(byte_level_fields(), tmp_path, Path("m.gguf"))
    assert ids == {"bos_token_id": START, "eos_token_id": END, "pad_token_id": None}
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|end|>"
    assert settings["chat_template"] == "{{ messages[0].content }}"
    assert settings["add_bos_token"] is False


def test_a_second_piece_that_ends_turns_is_kept(tmp_path, byte_level_fields):
    fields = byte_level_fields(**{"tokenizer.ggml.eot_token_id": START})
    assert write_tokenizer(fields, tmp_path, Path("m.gguf"))["eos_token_id"] == [END, START]


def test_bos_is_added_where_the_file_says_so(tokenizer):
    added = tokenizer("gpt-2", **{"tokenizer.ggml.add_bos_token": True})
    assert added.encode("he").ids[0] == START
    without = tokenizer("llama-bpe", **{"tokenizer.ggml.add_bos_token": False})
    assert without.encode("he").ids == [259]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "of kind 'llama'; only gpt2"),
        ({"tokenizer.ggml.model": None}, "of kind 'None'"),
        ({"tokenizer.ggml.pre": "falcon"}, "pre-tokenizer is 'falcon', not one of gpt-2, smollm"),
        ({"tokenizer.ggml.pre": None}, "pre-tokenizer is 'None'"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "has 266 pieces, 2 kinds and 6 merges"),
        ({"tokenizer.ggml.eos_token_id": 266}, "eos_token_id is 266, of 266 pieces"),
    ],
)
def test_other_tokenizers_are_refused_by_name(change, message, tmp_path, byte_level_fields):
    with pytest.raises(ModelError, match=message):
        write_tokenizer(byte_level_fields(**change), tmp_path, Path("m.gguf"))
    assert not list(tmp_path.iterdir())
