"""What the tokens of a vocabulary say, in bytes, and sets of tokens as bits.

Bits of a set are words [ceil(V / 32)]: bit i % 32 of word i // 32 is token i.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from afm_mlx.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from afm_mlx.text.tokenizer import Tokenizer

CHOICES_PER_TOKEN = 3
"""Most choices that one token may make while the end is not looked at: `"},{"` makes three. Tokens
that make more are left out. Ours."""


CONTROL_WORD = "tool"
"""Added pieces that have it in their names are control pieces, whatever the tokenizer says."""


class Vocabulary:
    """The bytes of each token, and sets of tokens as bits."""

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        """Read `tokenizer.json` of the tokenizer's folder.

        Raises:
            DataError: its pieces do not say which bytes they stand for.
        """
        import llguidance

        self.num_words = (rows + 31) // 32
        self.bytes = _token_bytes(tokenizer, rows)
        """Of each row; empty for rows that are no text: control pieces, and beyond the pieces."""
        special = [token for token, text in enumerate(self.bytes) if not text]
        stops = [token for token in tokenizer.eos_ids if token < rows]
        if not stops:
            raise DataError(
                f"the tokenizer of {tokenizer.folder} names no piece that ends an answer"
            )
        table = _Table(self.bytes, special, stops[0])
        self.engine = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(table), n_vocab=rows, eos_token=stops
        )
        everything = range(len(self.bytes))
        self.stops = self._bits(stops)
        """Tokens that end an answer."""
        self.usable = self._bits(token for token in everything if token not in set(stops))
        """All others; control pieces are only allowed where a form names them."""
        texts = self.bytes
        limit = CHOICES_PER_TOKEN
        self.simple = self._bits(
            token for token in everything if sum(texts[token].count(c) for c in b"[{,:") < limit
        )
        """Tokens that make few choices."""
        self.plain = self._bits(token for token in everything if _is_plain(texts[token]))
        """Tokens of whole characters that a JSON string has as they are."""
        self.single = self._bits(
            token for token in everything if len(texts[token]) < 2 and texts[token] < b"\x80"
        )
        """Tokens of one ASCII character, and control pieces."""

    def said(self, token: int) -> bytes | int:
        """The bytes of a token, or the token itself if it is a control piece."""
        return self.bytes[token] or token

    def tokens_of(self, text: str) -> list[int]:
        """Tokens of a text, the longest piece that fits first."""
        return list(self.engine.greedy_tokenize(text)) if text else []

    def _bits(self, tokens: Iterator[int] | Sequence[int]) -> NDArray[np.uint32]:
        bits = np.zeros(self.num_words, np.uint32)
        set_bits(bits, list(tokens))
        return bits


class _Table:
    """A vocabulary as llguidance wants it."""

    def __init__(self, texts: Sequence[bytes], special: Sequence[int], stop: int) -> None:
        marked = set(special)
        self.eos_token_id = stop
        self.bos_token_id = None
        self.special_token_ids = list(special)
        self.tokens = [
            f"<|control {token}|>".encode() if token in marked else text
            for token, text in enumerate(texts)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        return []  # forms without forced tokens need no tokenizer


def _token_bytes(tokenizer: Tokenizer, rows: int) -> list[bytes]:
    """Bytes of each row; empty where it is no piece of text."""
    table = json.loads((tokenizer.folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = table["model"].get("vocab")
    if not isinstance(vocabulary, Mapping):
        raise DataError(
            f"the tokenizer of {tokenizer.folder} is of the kind "
            f"'{table['model'].get('type', 'unknown')}', and guided answers need BPE"
        )
    decoder = json.dumps(table.get("decoder"))
    from_letters = _byte_letters() if '"ByteLevel"' in decoder else None
    falls_back = '"ByteFallback"' in decoder
    found = [b""] * rows
    for piece, number in vocabulary.items():
        if number >= rows:
            continue
        if from_letters is not None:
            if all(letter in from_letters for letter in piece):
                found[number] = bytes(from_letters[letter] for letter in piece)
        elif falls_back and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            found[number] = bytes([int(piece[3:5], 16)])
        else:
            found[number] = piece.replace("\u2581", " ").encode()
    for entry in table.get("added_tokens") or []:
        number, name = entry["id"], entry["content"]
        if number < rows:
            # Pieces such as <think> are text by their own account; those of tools are marks.
            is_control = entry.get("special") or CONTROL_WORD in name
            found[number] = b"" if is_control else name.encode()
    for number in tokenizer.control_pieces.values():
        if number < rows:
            found[number] = b""
    return found


def _byte_letters() -> dict[str, int]:
    """The byte of each letter of a byte-level BPE. Source: openai/gpt-2, src/encoder.py."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]
    return dict(zip(letters, [*plain, *others], strict=True))


def _is_plain(text: bytes) -> bool:
    try:
        characters = text.decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and not any(c < " " or c in '"\\\x7f' for c in characters)


def set_bits(bits: NDArray[np.uint32], tokens: Sequence[int]) -> None:
    """Set the bits of tokens."""
    numbers = np.asarray(tokens, np.int64)
    np.bitwise_or.at(bits, numbers >> 5, np.uint32(1) << (numbers & 31).astype(np.uint32))


def tokens_in(bits: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Tokens whose bits are set."""
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
