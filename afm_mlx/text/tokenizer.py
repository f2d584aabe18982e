"""Text to ids and back, and the training of a tokenizer.

`Tokenizer` opens any folder with a `tokenizer.json`: ours, Qwen3's, Llama's. Plain text goes in,
plain ids come out: nothing is added at either end, and text that looks like a control piece stays
text. Sources. R24: arXiv:2407.21075. AX: apple/axlearn 34aed43, its SentencePiece settings.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afm_mlx.artifact import writing
from afm_mlx.errors import DataError, RecipeError
from afm_mlx.text import bpe
from afm_mlx.text.chat import TURN_END, control_pieces, tokenizer_config
from afm_mlx.text.sentences import Sentences, training_error

if TYPE_CHECKING:
    import tokenizers

_FIXED_PIECES = 3 + 1 + 256
"""Padding, end and unknown; the newline; the bytes."""


class Tokenizer:
    """Text to ids and back; made by `Tokenizer.open`."""

    def __init__(self, engine: tokenizers.Tokenizer, table: str, folder: Path) -> None:
        self._engine = engine
        self._table = table
        self.folder = folder
        """Where the tokenizer was read."""
        self._named = _named_pieces(folder)

    @classmethod
    def open(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` and what stands beside it about ends, starts and padding.

        Raises:
            DataError: there is no `tokenizer.json`, or it cannot be read.
        """
        import tokenizers

        path = Path(folder) / "tokenizer.json"
        try:
            table = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise DataError(
                f"no tokenizer in {folder}: tokenizer.json is missing",
                hint="afm tokenizer train writes one; models from the hub bring their own",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {str(error).lower()}") from None
        try:
            engine = tokenizers.Tokenizer.from_str(table)
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"{path} is not a tokenizer: {str(error).lower()}") from None
        engine.no_truncation()
        engine.no_padding()
        engine.encode_special_tokens = True
        return cls(engine, table, Path(folder))

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Text that looks like a control piece stays text.

        A piece that a foreign tokenizer adds without calling it special is found in text, as
        everywhere else (Qwen3's `<think>`).

        Raises:
            DataError: the text is not valid Unicode: it has half a surrogate pair.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, on all cores. Raises as `encode`."""
        try:
            found = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            raise _not_unicode(texts) from None
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control pieces show as they are written.

        Bytes that are not UTF-8, as in the middle of a character, show as U+FFFD each.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        ids = [int(number) for number in ids]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(number for number in ids if not 0 <= number < self.vocab_size)
            raise DataError(f"id {wrong:,} is not one of the tokenizer's {self.vocab_size:,}")
        return str(self._engine.decode(ids, skip_special_tokens=False))

    def piece_id(self, piece: str) -> int | None:
        """Id of a piece as it is written in the vocabulary, or None."""
        found = self._engine.token_to_id(piece)
        return None if found is None else int(found)

    def piece(self, number: int) -> str | None:
        """How the piece of an id is written in the vocabulary, or None."""
        found = self._engine.id_to_token(number)
        return None if found is None else str(found)

    @cached_property
    def vocab_size(self) -> int:
        """Number of pieces, reserved ones included: one above the largest id."""
        return max(self._engine.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def eos_id(self) -> int:
        """Id that ends a document.

        Raises:
            DataError: no file of the folder names one.
        """
        if not self.eos_ids:
            raise DataError(
                f"the tokenizer of {self.folder} names no piece that ends a document",
                hint='write "eos_token": "..." into its tokenizer_config.json',
            )
        return self.eos_ids[0]

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids at which generation stops: `eos_id` first, then others, such as a turn's end."""
        return self._ids("eos")

    @cached_property
    def bos_id(self) -> int | None:
        """Id that starts a document, or None."""
        return next(iter(self._ids("bos")), None)

    @cached_property
    def pad_id(self) -> int | None:
        """Id of padding, or None."""
        return next(iter(self._ids("pad")), None)

    @cached_property
    def control_pieces(self) -> dict[str, int]:
        """Pieces that plain text never becomes, by name: controls, padding, ends."""
        added = self._engine.get_added_tokens_decoder()
        return {token.content: number for number, token in sorted(added.items()) if token.special}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that decides ids; the files' formatting does not."""
        return hashlib.sha256(_canonical(json.loads(self._table)).encode()).hexdigest()

    def _ids(self, role: str) -> tuple[int, ...]:
        """Ids named for "eos", "bos" or "pad", by piece or number, best source first."""
        ids = []
        for name in self._named.get(role, []):
            number = self.piece_id(name) if isinstance(name, str) else name
            if number is not None and number not in ids:
                ids.append(number)
        return tuple(ids)


def train_tokenizer(
    texts: Iterable[str],
    out: Path,
    *,
    vocab_size: int,
    reserved_pieces: int,
    character_coverage: float,
    max_sentence_bytes: int,
    training_bytes: int,
) -> dict[str, Any]:
    """Learn a SentencePiece BPE vocabulary and write a tokenizer folder.

    Writes `tokenizer.model` (SentencePiece), `tokenizer.json` (same ids), `tokenizer_config.json`
    (with the chat template) and `generation_config.json` (both ids at which generation stops).
    The same texts give the same bytes. Memory is about 40 times the text that is read, in bytes.

    Args:
        texts: whole documents, already mixed evenly; read until `training_bytes`.
        out: folder to write into; made if absent.
        vocab_size: all pieces: 3 of the basics, the newline, 256 bytes, learned and reserved ones.
        reserved_pieces: control pieces at the end of the vocabulary.
        character_coverage: share of characters with a piece of their own, 0 to 1.
        max_sentence_bytes: longer texts are cut, at a newline where there is one.
        training_bytes: most text to learn from, in bytes of UTF-8.

    Returns:
        `documents` and `bytes` read, `pieces` in the vocabulary, `seconds`, `fingerprint`.

    Raises:
        DataError: the texts are too few for the vocabulary, or have too many characters for it.
        RecipeError: `reserved_pieces` is below the number of control pieces that have a name, or
            `vocab_size` leaves no room for learned pieces.

    Source: AX for the settings of SentencePiece, R24 for single digits and byte fallback.
    """
    import sentencepiece

    started = time.monotonic()
    names = control_pieces(reserved_pieces)
    fixed = _FIXED_PIECES + reserved_pieces
    if vocab_size <= fixed:
        raise RecipeError(
            f"shape.vocab_size is {vocab_size:,}, and {fixed:,} pieces are fixed "
            f"({reserved_pieces} of them reserved)",
            hint=f"--set shape.vocab_size={2 ** (2 * fixed).bit_length()}",
        )
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, and is to be the tokenizer's folder")
    sentences = Sentences(
        texts, max_sentence_bytes=max_sentence_bytes, training_bytes=training_bytes
    )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size - reserved_pieces,
            character_coverage=character_coverage,
            max_sentence_length=max_sentence_bytes,
            byte_fallback=True,
            split_digits=True,
            split_by_whitespace=False,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            normalization_rule_name="identity",
            user_defined_symbols=[bpe.NEWLINE],
            pad_id=bpe.PAD_ID,
            eos_id=bpe.EOS_ID,
            unk_id=bpe.UNKNOWN_ID,
            bos_id=-1,
            pad_piece=bpe.PAD,
            eos_piece=bpe.EOS,
            unk_piece=bpe.UNKNOWN,
            num_threads=2,  # any number gives the same pieces
            minloglevel=2,  # errors come as exceptions
        )
    except RuntimeError as error:
        if sentences.failure is not None:
            raise sentences.failure from None
        raise training_error(str(error), sentences, vocab_size, reserved_pieces) from None
    proto = bpe.append_control_pieces(model.getvalue(), names)
    out.mkdir(parents=True, exist_ok=True)
    with writing(out / "tokenizer.model"):
        (out / "tokenizer.model").write_bytes(proto)
    _write(out / "tokenizer.json", bpe.fast_tokenizer(proto))
    _write(out / "tokenizer_config.json", tokenizer_config())
    tokenizer = Tokenizer.open(out)
    stops = [bpe.EOS_ID, tokenizer.piece_id(TURN_END)]
    _write(out / "generation_config.json", {"eos_token_id": stops, "pad_token_id": bpe.PAD_ID})
    return {
        "documents": sentences.documents,
        "bytes": sentences.bytes,
        "pieces": tokenizer.vocab_size,
        "seconds": round(time.monotonic() - started, 2),
        "fingerprint": tokenizer.fingerprint,
    }


def _write(path: Path, table: dict[str, Any]) -> None:
    with writing(path):
        path.write_text(bpe.to_json(table), encoding="utf-8", newline="\n")


def _named_pieces(folder: Path) -> dict[str, list[Any]]:
    """Pieces (text) and ids (numbers) that the files beside a tokenizer name for each role."""
    named: dict[str, list[Any]] = {"eos": [], "bos": [], "pad": []}
    files = "tokenizer_config", "special_tokens_map", "generation_config", "config"
    for name in files:
        settings = _settings(folder / f"{name}.json")
        for role, found in named.items():
            token = settings.get(f"{role}_token")
            found.append(token.get("content") if isinstance(token, dict) else token)
            number = settings.get(f"{role}_token_id")
            found.extend(number if isinstance(number, list) else [number])
    return {role: [x for x in found if isinstance(x, str | int)] for role, found in named.items()}


def _settings(path: Path) -> dict[str, Any]:
    """A JSON file's table; empty if there is no such file.

    Raises:
        DataError: the file is not JSON.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {str(error).lower()}") from None
    return table if isinstance(table, dict) else {}


def _canonical(table: dict[str, Any]) -> str:
    """One spelling of what decides ids in a `tokenizer.json`."""
    model = {key: value for key, value in table["model"].items() if value not in (None, False)}
    if "merges" in model:  # older files write "a b", newer ones ["a", "b"]
        model["merges"] = [
            merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]
        ]
    added = sorted(table.get("added_tokens") or [], key=lambda token: token["id"])
    parts = [model, added, table.get("normalizer"), table.get("pre_tokenizer")]
    return json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _not_unicode(texts: Sequence[str]) -> DataError:
    """The first text that has no UTF-8 form, and where."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return DataError(
                f"text is not valid Unicode: half a surrogate pair at character {error.start:,}"
            )
    return DataError("texts to encode must be strings")
