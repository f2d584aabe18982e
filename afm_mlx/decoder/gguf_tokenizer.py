"""The tokenizer inside a GGUF file, written as the files that transformers and mlx-lm read.

Byte-level BPE only, with the pre-tokenizers below. GGUF names a pre-tokenizer and does not hold it,
so an unknown name cannot be represented. Nor can SentencePiece's kind (`llama`): GGUF keeps scores
in place of merges, and merges made of scores do not give equal ids for every text.

Sources. Patterns: tokenizer.json of SmolLM2, Qwen2 and Llama 3; ggml-org/llama.cpp,
src/llama-vocab.cpp, has the same ones by these names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afm_mlx.errors import ModelError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of pieces. Source: ggml-org/ggml, docs/gguf.md: tokenizer.ggml.token_type."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _bytes(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(pattern: str) -> list[dict[str, Any]]:
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return [split, _bytes(use_regex=False)]


_QWEN2 = _split(_WORDS.replace("{DIGITS}", ""))
_LLAMA3 = _split(_WORDS.replace("{DIGITS}", "{1,3}"))

PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_bytes(use_regex=True)],
    "smollm": [{"type": "Digits", "individual_digits": True}, _bytes(use_regex=True)],
    "qwen2": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}
"""Steps of tokenizer.json by llama.cpp's name for them."""


def write_tokenizer(fields: Mapping[str, Any], out: Path, file: Path) -> dict[str, Any]:
    """Write tokenizer.json and tokenizer_config.json (with the chat template) into a folder.

    Args:
        fields: the GGUF file's settings.
        out: an existing folder.
        file: the GGUF file, for messages.

    Returns:
        bos_token_id, eos_token_id and pad_token_id; eos is a list where the file names more than
        one piece that ends a turn.

    Raises:
        ModelError: the file has no tokenizer, or one that cannot be represented.
    """
    kind, name = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise ModelError(
            f"{file}: the tokenizer is of kind '{kind}'; only gpt2 can be represented",
            hint="import the safetensors folder of the same model",
        )
    if name not in PRE_TOKENIZERS:
        raise ModelError(
            f"{file}: the pre-tokenizer is '{name}', not one of {', '.join(PRE_TOKENIZERS)}",
            hint="import the safetensors folder of the same model",
        )
    tokens = fields.get("tokenizer.ggml.tokens")
    kinds = fields.get("tokenizer.ggml.token_type")
    merges = fields.get("tokenizer.ggml.merges")
    if not tokens or not kinds or merges is None or len(tokens) != len(kinds):
        raise ModelError(
            f"{file}: the tokenizer has {len(tokens or ()):,} pieces, {len(kinds or ()):,} kinds "
            f"and {len(merges or ()):,} merges"
        )
    ids = _ids(fields, file, len(tokens))
    adds_bos = bool(fields.get("tokenizer.ggml.add_bos_token", str(name).startswith("llama")))
    bos = ids["bos"] if adds_bos else None
    _write(out / "tokenizer.json", _tokenizer(str(name), tokens, kinds, merges, bos))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bos is not None,
        **{f"{key}_token": tokens[id_] for key, id_ in ids.items() if id_ is not None},
    }
    settings.pop("eot_token", None)
    settings.pop("eom_token", None)
    if template := fields.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    _write(out / "tokenizer_config.json", settings)
    ends = list(dict.fromkeys(ids[key] for key in ("eos", "eot", "eom") if ids[key] is not None))
    return {
        "bos_token_id": ids["bos"],
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": ids["pad"],
    }


def _ids(fields: Mapping[str, Any], file: Path, num_tokens: int) -> dict[str, int | None]:
    """Ids of the named pieces, None where the file names none."""
    names = {
        "bos": "bos_token_id",
        "eos": "eos_token_id",
        "eot": "eot_token_id",
        "eom": "eom_token_id",
        "unk": "unknown_token_id",
        "pad": "padding_token_id",
    }
    ids = {key: fields.get(f"tokenizer.ggml.{name}") for key, name in names.items()}
    for key, id_ in ids.items():
        if id_ is not None and not 0 <= id_ < num_tokens:
            raise ModelError(
                f"{file}: tokenizer.ggml.{names[key]} is {id_}, of {num_tokens:,} pieces"
            )
    return ids


def _tokenizer(
    name: str, tokens: list[str], kinds: list[int], merges: list[str], bos: int | None
) -> dict[str, Any]:
    """Contents of tokenizer.json."""
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    # Unused pieces only fill the embedding up to a round number of rows.
    vocab = {
        token: number
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind != UNUSED
    }
    after: dict[str, Any] = _bytes(use_regex=True)
    if bos is not None:
        piece = tokens[bos]
        first = {"SpecialToken": {"id": piece, "type_id": 0}}
        text = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
        second = {"SpecialToken": {"id": piece, "type_id": 1}}
        template = {
            "type": "TemplateProcessing",
            "single": [first, text[0]],
            "pair": [first, text[0], second, text[1]],
            "special_tokens": {piece: {"id": piece, "ids": [bos], "tokens": [piece]}},
        }
        after = {"type": "Sequence", "processors": [after, template]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        # Qwen's own tokenizer composes characters; GGUF has no place to say so.
        "normalizer": {"type": "NFC"} if name == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[name]},
        "post_processor": after,
        "decoder": _bytes(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # Llama 3 takes a word that is a piece as it is, even where merges would not build it.
            "ignore_merges": PRE_TOKENIZERS[name] is _LLAMA3,
            "vocab": vocab,
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }


def _write(file: Path, table: dict[str, Any]) -> None:
    file.write_text(json.dumps(table, ensure_ascii=False) + "\n", encoding="utf-8")
