"""From a trained SentencePiece model to our piece table, and to a fast tokenizer of equal ids.

SentencePiece learns the pieces; the `tokenizers` library runs them, because it keeps every text
intact: SentencePiece writes a space as U+2581 inside its pieces and so reads a real U+2581 as a
space. Here pieces hold real spaces, and U+2581 is a character like any other, spelled in bytes.

Equal ids. SentencePiece merges the adjacent pair whose concatenation is the best piece, the
leftmost of equals. `tokenizers` merges the adjacent pair that stands first in a list of merges. The
list here has every split of every piece, ordered by the piece, so both choose the same piece. They
can choose another place only where one piece overlaps itself, as in a run of one character,
through two different splits. Long left parts stand first, which is the leftmost pair in such runs.
Two differences are left: text with U+2581, by intention, and self-overlapping text of which a
piece can be built in two ways (`tests/text/test_bpe.py` holds the agreement on real text).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

SPACE = "\u2581"
"""What SentencePiece writes for a space."""
NEWLINE = "\n"
PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
PAD_ID, EOS_ID, UNKNOWN_ID = 0, 1, 2
"""Ids of padding, of the end of a document, and of the unknown piece. Source: AX."""

_NORMAL, _CONTROL = 1, 3  # sentencepiece_model.proto, ModelProto.SentencePiece.Type


def append_control_pieces(model: bytes, names: Sequence[str]) -> bytes:
    """The SentencePiece model with control pieces added at the end of its vocabulary.

    SentencePiece itself puts them in front. What depends on the machine (paths, threads) is
    removed, so that equal texts give equal bytes.
    """
    proto = parse_model(model)
    for name in names:
        proto.pieces.add(piece=name, score=0.0, type=_CONTROL)
    spec = proto.trainer_spec
    spec.vocab_size = len(proto.pieces)
    spec.control_symbols.extend(names)
    for machine in ("input", "model_prefix", "num_threads"):
        spec.ClearField(machine)
    return bytes(proto.SerializeToString(deterministic=True))


def fast_tokenizer(model: bytes) -> dict[str, Any]:
    """Contents of a `tokenizer.json` that gives the ids of a SentencePiece BPE model."""
    proto = parse_model(model)
    vocabulary = {
        piece.piece.replace(SPACE, " ") if piece.type == _NORMAL else piece.piece: number
        for number, piece in enumerate(proto.pieces)
    }
    if len(vocabulary) != len(proto.pieces):
        raise AssertionError("two pieces have one spelling")
    learned = [
        (piece.score, piece.piece.replace(SPACE, " "))
        for piece in proto.pieces
        if piece.type == _NORMAL
    ]
    learned.sort(key=lambda scored: -scored[0])  # the best has the highest score
    special = [
        number
        for number, piece in enumerate(proto.pieces)
        if piece.type == _CONTROL or number == UNKNOWN_ID
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(number, proto.pieces[number].piece) for number in special],
        "normalizer": None,
        # Exact, because no piece holds a newline and something else. Lines repeat, and the
        # library remembers short ones; a merge also costs less in a short text.
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": NEWLINE},
            "behavior": "Isolated",
            "invert": False,
        },
        # A document starts after the end of the one before, in training too: see corpus/packing.py.
        # Other programs that encode a prompt get that start by this; `Tokenizer` leaves it out.
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_START, _FIRST],
            "pair": [_START, _FIRST, _SECOND],
            "special_tokens": {EOS: {"id": EOS, "ids": [EOS_ID], "tokens": [EOS]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                # Finds nothing here. By it mlx-lm knows its fast streaming decoder, which is exact
                # but for a real U+2581, streamed as a space. The slow one repeats text after
                # characters that are spelled in bytes (mlx-lm 0.32.2).
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges([piece for _, piece in learned]),
        },
    }


_START = {"SpecialToken": {"id": EOS, "type_id": 0}}
_FIRST = {"Sequence": {"id": "A", "type_id": 0}}
_SECOND = {"Sequence": {"id": "B", "type_id": 0}}


def merges(pieces: Sequence[str]) -> list[list[str]]:
    """Every split of each piece into two pieces; best piece first, then long left parts first."""
    known = set(pieces)
    return [
        [piece[:cut], piece[cut:]]
        for piece in pieces
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in known and piece[cut:] in known
    ]


def to_json(table: dict[str, Any]) -> str:
    """Text of a JSON file: the same for the same table."""
    return json.dumps(table, ensure_ascii=False, indent=1) + "\n"


def _added_token(number: int, piece: str) -> dict[str, Any]:
    return {
        "id": number,
        "content": piece,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def parse_model(model: bytes) -> Any:
    """A SentencePiece model as its message: `pieces`, `trainer_spec`, `normalizer_spec`."""
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model)
    return proto
