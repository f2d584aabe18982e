"""Prompts whose answers are judged: our own sets as JSONL, and QMSum's meetings.

    {"id": "writing-7", "category": "writing", "prompt": "Write a letter ...", "reference": "..."}

A line of QMSum is a meeting with several queries, each of which makes a prompt: the query, and what
was said of its matter. Source: arXiv:2104.05938; 1 query in 8 is about a whole meeting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afm_mlx.corpus.sources.item_files import ItemRow, read_rows
from afm_mlx.errors import DataError

SUMMARIES = "summarization"
WRITING = "writing"

KINDS = (SUMMARIES, WRITING)
"""Categories that are judged: summaries, and what R24 calls composition."""

_FORMAT = 'a line is {"id": ..., "category": ..., "prompt": ...}'


@dataclass(frozen=True)
class Prompt:
    """What a model is asked to write."""

    key: str
    """Its name, one of a kind in the set."""
    text: str
    kind: str
    """One of `KINDS`."""
    reference: str = ""
    """What a person wrote; "" for none."""


def read_prompts(
    path: Path, *, kinds: Sequence[str] = KINDS, whole_meetings: bool = False
) -> list[Prompt]:
    """Prompts of a file or of a folder's files; those of other categories are left out.

    Args:
        path: JSONL of ours, or QMSum's.
        kinds: categories that are wanted.
        whole_meetings: take QMSum's queries about a whole meeting, too: tens of thousands of
            tokens each.

    Raises:
        DataError: a file or a line is broken, two prompts have one name, or there is no prompt.
    """
    found: dict[str, Prompt] = {}
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path)):
        meeting = "meeting_transcripts" in row.row
        prompts = _of_meeting(row, number, whole_meetings) if meeting else iter([_of_line(row)])
        for prompt in prompts:
            if prompt.key in found:
                raise row.broken(f"'{prompt.key}' is the name of an earlier prompt, too")
            seen.add(prompt.kind)
            if prompt.kind in kinds:
                found[prompt.key] = prompt
    if not found:
        there = f"it has {', '.join(sorted(seen))}" if seen else "it is empty"
        raise DataError(f"{path} has no prompt of {' or '.join(kinds)}: {there}", hint=_FORMAT)
    return list(found.values())


def _of_line(row: ItemRow) -> Prompt:
    key = row.field("key" if "key" in row.row else "id")
    fields = [key, row.field("prompt"), row.field("category"), row.row.get("reference") or ""]
    if not all(isinstance(value, str) for value in fields) or not all(map(str.strip, fields[:3])):
        raise row.broken("id, category and prompt must be texts that are not empty", hint=_FORMAT)
    return Prompt(*fields)


def _of_meeting(row: ItemRow, number: int, whole: bool) -> Iterator[Prompt]:
    """The prompts of one of QMSum's meetings."""
    try:
        turns = [
            f"{turn['speaker']}: {turn['content']}" for turn in row.field("meeting_transcripts")
        ]
        for count, query in enumerate(row.field("specific_query_list")):
            said = [turns[place] for place in _places(query["relevant_text_span"], len(turns))]
            yield _query(f"qmsum-{number}-{count}", query, said)
        for count, query in enumerate(row.field("general_query_list") if whole else ()):
            yield _query(f"qmsum-{number}-whole-{count}", query, turns)
    except (KeyError, TypeError, ValueError):
        raise row.broken("no meeting as QMSum has it") from None


def _places(spans: Any, turns: int) -> list[int]:
    """Turns of all spans, each of which includes its last; in order, each once."""
    found = {
        place
        for first, last in spans
        for place in range(int(first), int(last) + 1)
        if place < turns
    }
    return sorted(found)


def _query(key: str, query: Any, said: list[str]) -> Prompt:
    asked, answer = str(query["query"]).strip(), str(query["answer"]).strip()
    text = f"{asked}\n\nThis was said in the meeting:\n\n" + "\n".join(said)
    return Prompt(key, text, SUMMARIES, answer)
