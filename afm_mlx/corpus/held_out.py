"""Which documents are kept for validation and never trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

from afm_mlx.corpus.documents import Document

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")


def split_documents(
    documents: Iterable[Document], held_out_fraction: float
) -> Iterator[tuple[Split, str]]:
    """Split and text of each document, decided by the SHA-256 of its group, else of its text.

    Copies of a document fall on the same side, and the side does not depend on the order. Strictly
    between 0 and 1 no side stays empty, if there are two different documents; a single one is
    for training. For that, while all documents fell on one side, the one nearest to the other side
    is kept back, so the order within a split may differ from that of the documents.

    Args:
        documents: read once, in order; one of them is kept in memory, or those of one group.
        held_out_fraction: expected share of documents in the split "held_out", 0 to 1.
    """
    border = round(held_out_fraction * 2**64)
    one_sided = 0 < held_out_fraction < 1
    kept: list[str] = []  # copies share one string
    kept_hash, others = -1, False
    for document in documents:
        text, value = document.text, text_hash(document.group or document.text)
        side = _side(value, border)
        if not one_sided:
            yield side, text
        elif value == kept_hash:
            kept.append(kept[-1] if text == kept[-1] else text)
        elif kept and side != _side(kept_hash, border):
            one_sided = False
            yield from ((_side(kept_hash, border), copy) for copy in kept)
            yield side, text
        elif not kept or (value < kept_hash) == (side == "train"):  # nearer to the other side
            others = others or bool(kept)
            yield from ((side, copy) for copy in kept)
            kept, kept_hash = [text], value
        else:
            others = True
            yield side, text
    if one_sided:
        to_held_out = others and _side(kept_hash, border) == "train"
        yield from (("held_out" if to_held_out else "train", copy) for copy in kept)


def text_hash(text: str) -> int:
    """64 bits of the SHA-256 of a text, by which it is held out or not."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def border_of(hashes: Iterable[int], held_out_fraction: float) -> int:
    """Things whose hash is below it are held out, where all hashes are known.

    About `held_out_fraction` of them, from 0 to below 1. Above 0, and with two different hashes or
    more, there is one at least on each side.
    """
    values = sorted(set(hashes))
    if len(values) < 2 or held_out_fraction <= 0:
        return 0
    return min(max(round(held_out_fraction * 2**64), values[0] + 1), values[-1])


def _side(value: int, border: int) -> Split:
    return "held_out" if value < border else "train"
