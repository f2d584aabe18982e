"""A tokenizer's files as the settings of a GGUF file, for llama.cpp.

Two kinds: byte-level BPE, of which GGUF keeps the merges and names the pre-tokenizer; and
SentencePiece's BPE, of which it keeps the scores. What llama.cpp would encode otherwise is refused.

Sources. ggml-org/ggml, docs/gguf.md: names. ggml-org/llama.cpp, convert_hf_to_gguf.py: scores of
added pieces, fillers; src/llama-vocab.cpp: what its SentencePiece does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afm_mlx.decoder.gguf_tokenizer import (
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    UNUSED,
    USER_DEFINED,
)
from afm_mlx.errors import ExportError
from afm_mlx.inference.prompts import plain_ids
from afm_mlx.text.bpe import parse_model
from afm_mlx.text.tokenizer import Tokenizer

ADDED_SCORE = -1000.0
"""Of pieces that SentencePiece does not know."""

_BPE = 2  # sentencepiece_model.proto, TrainerSpec.ModelType
_LLAMA3 = "llama-bpe"


def tokenizer_fields(folder: Path, rows: int) -> dict[str, Any]:
    """Settings `tokenizer.*` by name.

    Args:
        folder: with tokenizer.json, and tokenizer.model where the tokenizer is SentencePiece's.
        rows: of the embedding; rows without a piece become unused pieces.

    Raises:
        ExportError: GGUF has no name for what the tokenizer does.
    """
    table = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    name = pre_tokenizer(table)
    if name is not None:
        found = _byte_level(table, name, rows)
    elif (folder / "tokenizer.model").is_file():
        found = _sentencepiece(table, (folder / "tokenizer.model").read_bytes(), rows)
    else:
        raise ExportError(
            f"the tokenizer of '{folder}' splits words in a way that GGUF has no name for, and it "
            "has no tokenizer.model",
            hint=f"names are known for {', '.join(PRE_TOKENIZERS)}",
        )
    template = chat_template(folder)
    if template is not None:
        found["tokenizer.chat_template"] = template
    return found | _ends(Tokenizer.open(folder))


def pre_tokenizer(table: Mapping[str, Any]) -> str | None:
    """llama.cpp's name of what a tokenizer.json does to a text before merges; None for none."""
    wanted = _steps(table.get("pre_tokenizer"))
    normalizer = (table.get("normalizer") or {}).get("type")
    model = table.get("model", {})
    for name, steps in PRE_TOKENIZERS.items():
        plain = normalizer is None or (name == "qwen2" and normalizer == "NFC")
        # llama.cpp looks whole words up for Llama 3, and for no other of these.
        same_words = bool(model.get("ignore_merges")) == (name == _LLAMA3)
        if model.get("type") == "BPE" and wanted == _steps(steps) and plain and same_words:
            return name
    return None


def chat_template(folder: Path) -> str | None:
    """The folder's chat template; of several, the one called default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return None
    found = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(found, list):
        found = {each["name"]: each["template"] for each in found}.get("default")
    return None if found is None else str(found)


def _steps(pre: Any) -> list[tuple[Any, ...]]:
    """What decides the words, of a pre-tokenizer or of a list of them."""
    if isinstance(pre, list):
        return [step for each in pre for step in _steps(each)]
    kind = (pre or {}).get("type")
    if kind == "Sequence":
        return _steps(pre["pretokenizers"])
    if kind == "ByteLevel":
        return [(kind, pre.get("add_prefix_space", True), pre.get("use_regex", True))]
    if kind == "Split":
        return [(kind, str(pre["pattern"]), pre["behavior"], pre.get("invert", False))]
    return [(kind, json.dumps(pre, sort_keys=True))]


def _byte_level(table: Mapping[str, Any], name: str, rows: int) -> dict[str, Any]:
    kinds = {number: NORMAL for number in table["model"]["vocab"].values()}
    pieces = {number: piece for piece, number in table["model"]["vocab"].items()}
    for added in table.get("added_tokens") or ():
        pieces[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [
        each if isinstance(each, str) else " ".join(each) for each in table["model"]["merges"]
    ]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": [pieces.get(number, f"[PAD{number}]") for number in range(rows)],
        "tokenizer.ggml.token_type": [kinds.get(number, UNUSED) for number in range(rows)],
        "tokenizer.ggml.merges": merges,
    }


def _sentencepiece(table: Mapping[str, Any], model: bytes, rows: int) -> dict[str, Any]:
    proto = parse_model(model)
    if proto.trainer_spec.model_type != _BPE or proto.normalizer_spec.name != "identity":
        raise ExportError(
            "the tokenizer's SentencePiece model is not BPE on the text as it is "
            f"(kind {proto.trainer_spec.model_type}, normalization "
            f"'{proto.normalizer_spec.name}'), and llama.cpp would encode other ids"
        )
    pieces = {number: piece.piece for number, piece in enumerate(proto.pieces)}
    kinds = {number: int(piece.type) for number, piece in enumerate(proto.pieces)}
    scores = {number: float(piece.score) for number, piece in enumerate(proto.pieces)}
    for added in table.get("added_tokens") or ():
        if added["id"] not in pieces:
            pieces[added["id"]], scores[added["id"]] = added["content"], ADDED_SCORE
            kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.get(number, f"[PAD{number}]") for number in range(rows)],
        "tokenizer.ggml.scores": [scores.get(number, ADDED_SCORE) for number in range(rows)],
        "tokenizer.ggml.token_type": [kinds.get(number, UNUSED) for number in range(rows)],
        "tokenizer.ggml.add_space_prefix": bool(proto.normalizer_spec.add_dummy_prefix),
    }


def _ends(tokenizer: Tokenizer) -> dict[str, Any]:
    """Where texts start and end. A text starts with what the tokenizer's own files put there."""
    bare = tokenizer.encode("x")
    whole = plain_ids(tokenizer, [{"content": "x"}])
    start, end = whole[: -len(bare)], []
    if whole[len(whole) - len(bare) :] != bare:
        start, end = whole[: whole.index(bare[0])], whole[whole.index(bare[0]) + len(bare) :]
    if len(start) > 1 or end:
        raise ExportError(
            f"the tokenizer puts {start} before a text and {end} after it, and llama.cpp puts at "
            "most one piece before it"
        )
    first = start[0] if start else tokenizer.bos_id
    ids = {
        "bos": first,
        "eos": next(iter(tokenizer.eos_ids), None),
        "eot": next(iter(tokenizer.eos_ids[1:]), None),
        "padding": tokenizer.pad_id,
    }
    return {
        **{f"tokenizer.ggml.{name}_token_id": id_ for name, id_ in ids.items() if id_ is not None},
        "tokenizer.ggml.add_bos_token": bool(start),
        "tokenizer.ggml.add_eos_token": False,
    }
