"""QMSum's meetings as prompts: each query, and what was said of its matter.

A line of a file is a meeting with several queries, of which 1 in 8 is about the whole of it.
Source: arXiv:2104.05938.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afm_mlx.errors import DataError

TURNS = "meeting_transcripts"
"""Field that a meeting has, and no prompt of ours."""


def queries_of(
    meeting: Mapping[str, Any], number: int, *, whole: bool
) -> list[tuple[str, str, str]]:
    """Id, prompt and reference of each query.

    Args:
        meeting: a line of QMSum's files.
        number: of the line, from 0 on; ids are made of it.
        whole: take queries about the whole meeting, too.

    Raises:
        DataError: it is no such meeting.
    """
    try:
        return list(_queries(meeting, number, whole))
    except (KeyError, TypeError, ValueError):
        raise DataError("no meeting as QMSum has it") from None


def _queries(
    meeting: Mapping[str, Any], number: int, whole: bool
) -> Iterator[tuple[str, str, str]]:
    turns = [f"{turn['speaker']}: {turn['content']}" for turn in meeting[TURNS]]
    for count, query in enumerate(meeting["specific_query_list"]):
        said = [turns[place] for place in _places(query["relevant_text_span"], len(turns))]
        yield f"qmsum-{number}-{count}", *_prompt(query, said)
    for count, query in enumerate(meeting["general_query_list"] if whole else ()):
        yield f"qmsum-{number}-whole-{count}", *_prompt(query, turns)


def _places(spans: Any, turns: int) -> list[int]:
    """Turns of all spans, each of which includes its last; in order, each once."""
    found = {
        place
        for first, last in spans
        for place in range(int(first), int(last) + 1)
        if place < turns
    }
    return sorted(found)


def _prompt(query: Mapping[str, Any], said: Sequence[str]) -> tuple[str, str]:
    asked, answer = str(query["query"]).strip(), str(query["answer"]).strip()
    return f"{asked}\n\nThis was said in the meeting:\n\n" + "\n".join(said), answer
