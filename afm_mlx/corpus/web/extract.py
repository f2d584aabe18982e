"""Main content of web pages: HTML becomes text that keeps its structure.

The balanced mode follows the report's idea of Safari Reader together with Boilerpipe: trafilatura
finds the blocks of the main content, and of those the ones stay that most of three others kept.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from typing import Any

from afm_mlx.corpus.record import Drop, Record, drop
from afm_mlx.corpus.web.extractors import (
    boilerpipe_texts,
    load_libraries,
    reader_blocks,
    resiliparse_blocks,
    trafilatura_blocks,
)
from afm_mlx.corpus.web.markdown import Block, join_blocks, prepare_page, read_blocks
from afm_mlx.corpus.web.page import is_text, page_facts, page_size, parse_page
from afm_mlx.corpus.web.words import Words, words_of
from afm_mlx.settings.extraction import Extract, ExtractMode


class Extractor:
    """Turns pages into text, one at a time; make one in each worker process.

    Raises:
        DataError: trafilatura or resiliparse is not installed.
    """

    def __init__(self, settings: Extract) -> None:
        self.settings = settings
        load_libraries()
        logger = logging.getLogger("trafilatura")
        if not logger.handlers:  # its warnings about single pages would go to the terminal
            logger.addHandler(logging.NullHandler())

    def __call__(self, record: Record) -> Record | Drop:
        """The record with the main content in place of its HTML, or why there is none.

        Facts added where known: `extractor`, `title`, `date` (ISO 8601), `language_hint`.
        Never raises for what is in a page.
        """
        settings = self.settings
        if len(record.text) > settings.most_characters:
            return drop(
                record,
                "extract.too-large",
                f"{len(record.text):,} characters of HTML, above {settings.most_characters:,}",
            )
        try:
            return self._extract(record)
        except Exception as error:  # the libraries' own defects, on pages nobody has tested
            return drop(record, "extract.failed", f"{type(error).__name__}: {error}")

    def _extract(self, record: Record) -> Record | Drop:
        if not is_text(record.text):
            return drop(record, "extract.failed", "not text: control characters or no UTF-8")
        tree, problem = parse_page(record.text)
        if problem:
            return drop(record, "extract.too-deep", problem)
        if tree is None:
            return drop(record, "extract.failed", "no element in it")
        elements, nested = page_size(tree)
        if elements > self.settings.most_elements:
            evidence = f"{elements:,} elements, above {self.settings.most_elements:,}"
            return drop(record, "extract.too-large", evidence)
        if nested > (most := self.settings.most_nested_characters):
            return drop(record, "extract.too-deep", f"{nested:,} nested characters, above {most:,}")
        facts = page_facts(tree)
        prepare_page(tree)
        name, blocks = main_content(Page(tree), self.settings)
        text = join_blocks(blocks)
        words = len(words_of(text))
        if words < self.settings.least_words:
            evidence = f"{words} words of main content, below {self.settings.least_words}"
            return drop(record, "extract.too-short", evidence)
        return replace(record, text=text, facts={**record.facts, **facts, "extractor": name})


class Page:
    """A page's main content as each extractor sees it; each runs once, when it is asked for."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree

    @cached_property
    def main(self) -> list[Block]:
        """Blocks by trafilatura."""
        return trafilatura_blocks(self.tree)

    @cached_property
    def precise(self) -> Words:
        """Words by trafilatura's precise rules."""
        return Words(join_blocks(trafilatura_blocks(self.tree, precise=True)))

    @cached_property
    def read(self) -> list[Block]:
        """Blocks by Reader."""
        return reader_blocks(self.tree)

    @cached_property
    def reader(self) -> Words:
        """Words by Reader."""
        return Words(join_blocks(self.read))

    @cached_property
    def boilerpipe(self) -> Words:
        """Words by Boilerpipe."""
        return Words("\n".join(boilerpipe_texts(self.tree)))

    @cached_property
    def fast(self) -> list[Block]:
        """Blocks by resiliparse."""
        return resiliparse_blocks(self.tree)

    @cached_property
    def visible(self) -> Words:
        """Words by resiliparse, which leaves out the least."""
        return Words(join_blocks(self.fast))

    @cached_property
    def all(self) -> list[Block]:
        """All blocks of the page, also those around its main content."""
        return read_blocks(self.tree)


def main_content(page: Page, settings: Extract) -> tuple[str, list[Block]]:
    """Blocks of a page's main content, and the name of what decided: a value of `extractor`."""
    match settings.mode:
        case ExtractMode.FAST:
            name, blocks = "resiliparse", page.fast
        case ExtractMode.READER:
            name, blocks = _reader(page, settings)
        case ExtractMode.BALANCED:
            name, blocks = _balanced(page, settings)
    return name, without_last_headings(blocks)


def _reader(page: Page, settings: Extract) -> tuple[str, list[Block]]:
    """Reader's output if it is long and Boilerpipe mostly agrees, otherwise the fallback."""
    enough = page.reader.count >= settings.least_reader_words
    if enough and page.boilerpipe.covers(page.reader.grams) >= settings.least_overlap:
        return "reader", page.read
    return "fallback", _vote_of_page(page, settings)


def _balanced(page: Page, settings: Extract) -> tuple[str, list[Block]]:
    """The blocks of trafilatura that most voters kept, or the fallback where they miss much.

    What Reader and Boilerpipe both kept is main content, most likely: the result has to cover
    enough of it.
    """
    overlap = settings.block_overlap
    voters = [page.reader, page.precise, page.boilerpipe]
    blocks = vote(page.main, voters, votes=settings.votes, overlap=overlap)
    found = Words(join_blocks(blocks))
    if found.covers(page.reader.grams & page.boilerpipe.grams) < settings.least_overlap:
        return "fallback", _vote_of_page(page, settings)
    has_code = next(page.tree.iter("pre"), None) is not None
    if has_code and found.count < settings.code_share * page.visible.count:
        return "documentation", vote(page.all, [page.visible], votes=1, overlap=overlap)
    return "vote", blocks


def _vote_of_page(page: Page, settings: Extract) -> list[Block]:
    """The fallback: blocks of the page that most of Reader, Boilerpipe, resiliparse kept."""
    voters = [page.reader, page.boilerpipe, page.visible]
    return vote(page.all, voters, votes=settings.votes, overlap=settings.block_overlap)


def vote(blocks: list[Block], voters: list[Words], *, votes: int, overlap: float) -> list[Block]:
    """Blocks that at least `votes` of the voters hold to the share `overlap`, 0 to 1."""
    kept = []
    for block in blocks:
        words = words_of(block.text)
        if sum(voter.holds(words) >= overlap for voter in voters) >= votes:
            kept.append(block)
    return kept


def without_last_headings(blocks: list[Block]) -> list[Block]:
    """Leave out headings at the end: what they are for is not there."""
    end = len(blocks)
    while end and blocks[end - 1].kind == "heading":
        end -= 1
    return blocks[:end]
