"""QMSum's meetings as prompts."""

import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.prompts import read_prompts

MEETING = {
    "meeting_transcripts": [
        {"speaker": name, "content": f"Turn {number}."} for number, name in enumerate("PQPQP")
    ],
    "topic_list": [],
    "general_query_list": [{"query": "Summarize the meeting.", "answer": "Five turns."}],
    "specific_query_list": [
        {
            "query": "What did Q say?",
            "answer": "A turn.",
            "relevant_text_span": [["1", "2"], [2, 3]],
        }
    ],
}


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_meeting_gives_a_prompt_for_each_query_with_what_was_said_of_it(tmp_path):
    path = lines(tmp_path / "test.jsonl", MEETING)
    (prompt,) = read_prompts(path)
    assert prompt.prompt.startswith("What did Q say?\n\n")
    assert prompt.prompt.endswith("\n\nQ: Turn 1.\nP: Turn 2.\nQ: Turn 3.")
    assert (prompt.id, prompt.category) == ("qmsum-0-0", "summarization")
    assert prompt.reference == "A turn."
    whole = read_prompts(path, whole_meetings=True)[1]
    assert whole.prompt.endswith("P: Turn 0.\nQ: Turn 1.\nP: Turn 2.\nQ: Turn 3.\nP: Turn 4.")


def test_qmsum_has_281_queries_of_which_244_are_about_a_part(real_data):
    path = real_data / "qmsum" / "test.jsonl"
    assert len(read_prompts(path)) == 244
    prompts = read_prompts(path, whole_meetings=True)
    assert len(prompts) == 281
    assert all(prompt.prompt and prompt.reference for prompt in prompts)


@pytest.mark.parametrize(
    "broken",
    [
        {"specific_query_list": [{}]},
        {"meeting_transcripts": ["P: Turn 0."]},
        {"specific_query_list": [{"query": "?", "answer": "", "relevant_text_span": [["a", 1]]}]},
    ],
)
def test_what_is_no_meeting_is_refused_with_its_line(tmp_path, broken):
    path = lines(tmp_path / "test.jsonl", MEETING, MEETING | broken)
    with pytest.raises(DataError, match=r"test\.jsonl, line 2: no meeting as QMSum has it"):
        read_prompts(path)
