"""Sets of prompts, and files of answers."""

import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.judge.answers import Answering, read_answers
from afm_mlx.evaluation.judge.prompts import Prompt, read_prompts
from afm_mlx.evaluation.run import run_task

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


def test_prompts_of_the_wanted_categories_are_taken(tmp_path):
    path = lines(
        tmp_path / "prompts.jsonl",
        {"id": "w-1", "category": "writing", "prompt": "Write.", "reference": None},
        {"id": "m-1", "category": "math", "prompt": "2 + 2?", "reference": "4"},
        {"id": "s-1", "category": "summarization", "prompt": "Sum up.", "reference": "Short."},
    )
    assert read_prompts(path) == [
        Prompt("w-1", "Write.", "writing"),
        Prompt("s-1", "Sum up.", "summarization", "Short."),
    ]
    assert [prompt.key for prompt in read_prompts(path, kinds=["writing"])] == ["w-1"]


def test_a_meeting_gives_a_prompt_for_each_query_with_what_was_said_of_it(tmp_path):
    path = lines(tmp_path / "test.jsonl", MEETING)
    (prompt,) = read_prompts(path)
    assert prompt.text.startswith("What did Q say?\n\n")
    assert prompt.text.endswith("\n\nQ: Turn 1.\nP: Turn 2.\nQ: Turn 3.")
    assert (prompt.kind, prompt.reference) == ("summarization", "A turn.")
    whole = read_prompts(path, whole_meetings=True)[1]
    assert whole.text.endswith("P: Turn 0.\nQ: Turn 1.\nP: Turn 2.\nQ: Turn 3.\nP: Turn 4.")


def test_qmsum_has_281_queries_of_which_244_are_about_a_part(real_data):
    path = real_data / "qmsum" / "test.jsonl"
    assert len(read_prompts(path)) == 244
    prompts = read_prompts(path, whole_meetings=True)
    assert len(prompts) == 281
    assert all(prompt.text and prompt.reference for prompt in prompts)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "category": "writing"}], "line 1: no 'prompt'"),
        ([{"category": "writing", "prompt": "x"}], "line 1: no 'id'"),
        ([{"id": "a", "category": "math", "prompt": "x"}], "no prompt of .*: it has math"),
        ([], "no prompt of .*: it is empty"),
        ([{"id": "a", "category": "writing", "prompt": " "}], "line 1: id, category and prompt"),
        ([{"id": "a", "category": "writing", "prompt": "x"}] * 2, "line 2: 'a' is the name of an"),
        ([{**MEETING, "specific_query_list": [{}]}], "line 1: no meeting as QMSum has it"),
    ],
)
def test_a_broken_set_is_refused_with_its_line(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_prompts(lines(tmp_path / "prompts.jsonl", *rows))


def test_what_a_model_wrote_is_kept_and_can_be_judged_later(stub, quiet, tmp_path):
    prompts = [Prompt(key, f"Write {key}.", "writing") for key in ("one", "two", "three")]
    said = {"one": "It is.", "two": "", "three": None}
    who = stub(writes=lambda question: said[question.key], name="mine")
    result = run_task(Answering(prompts, max_tokens=9), who, tmp_path / "run", quiet)
    assert result.scores["empty"].value == pytest.approx(2 / 3)
    assert result.scores["characters"].value == 2
    assert result.refused == {"not asked": 1}
    answers = read_answers(tmp_path / "run")
    assert answers.model == "mine"
    assert answers.texts == {"one": "It is.", "two": "", "three": ""}
    assert read_answers(tmp_path / "run" / "samples.jsonl") == answers


def test_answers_of_others_come_as_lines(tmp_path):
    path = lines(
        tmp_path / "theirs.v2.jsonl", {"key": "a", "answer": "x"}, {"id": "b", "answer": ""}
    )
    assert read_answers(path).texts == {"a": "x", "b": ""}
    assert read_answers(path).model == "theirs"
    assert read_answers(path, model="them").model == "them"
    path = lines(tmp_path / "people.jsonl", {"id": "a", "prompt": "?", "model": "M", "answer": "x"})
    assert read_answers(path).model == "M"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no answer"),
        ([{"key": "a"}], "line 1: no 'answer'"),
        ([{"answer": "x"}], "line 1: no 'id'"),
        ([{"key": "a", "answer": 3}], "line 1: 'answer' is no text"),
        ([{"key": "a", "answer": "x"}] * 2, "line 2: 'a' has an answer in an earlier line"),
    ],
)
def test_broken_answers_are_refused_with_their_line(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_answers(lines(tmp_path / "answers.jsonl", *rows))


def test_a_folder_without_answers_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no samples\.jsonl"):
        read_answers(tmp_path)
