"""Which part of a conversation is asked, and which prompts a round takes."""

import json
import shutil

import pytest

from afm_mlx.alignment.prompts import PromptOrder, read_prompts, shuffled
from afm_mlx.errors import DataError
from afm_mlx.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "What is on the hill?"}
ANSWER = {"role": "assistant", "content": "A house."}


def read(tmp_path, tokenizer, *conversations, max_tokens=200, skip_bad=False):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in conversations))
    said = []
    prompts = read_prompts(
        [file], tokenizer, max_tokens=max_tokens, skip_bad=skip_bad, say=said.append
    )
    return prompts, said


def strict(tokenizer, folder):
    """The tokenizer with a template that refuses two turns of one role in a row."""
    shutil.copytree(tokenizer.folder, folder / "strict")
    file = folder / "strict" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    refusal = (
        "{% for turn in messages[1:] %}{% if turn.role == messages[loop.index0].role %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
    )
    file.write_text(json.dumps(config | {"chat_template": refusal + config["chat_template"]}))
    return Tokenizer.open(folder / "strict")


def test_what_follows_the_user_s_last_message_is_ignored(tmp_path, tokenizer):
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {}}]}
    seen = {"role": "tool", "content": "a house"}
    prompts, _ = read(
        tmp_path,
        tokenizer,
        {"messages": [USER]},
        {"messages": [USER, ANSWER]},
        {"messages": [USER, call, seen, ANSWER]},
        {"messages": [USER, ANSWER, USER, ANSWER]},
    )
    assert prompts[0].ids == prompts[1].ids == prompts[2].ids
    assert tokenizer.decode(prompts[0].ids).endswith("hill?<turn:end><turn:assistant>")
    assert len(prompts[3].conversation.messages) == 3


def test_prompts_that_are_too_long_are_left_out_and_said(tmp_path, tokenizer):
    long = {"role": "user", "content": "What is on the hill? " * 20}
    prompts, said = read(
        tmp_path, tokenizer, {"messages": [USER]}, {"messages": [long]}, max_tokens=40
    )
    assert len(prompts) == 1
    assert said == ["  prompts.jsonl: 1 prompts left out, above 40 tokens"]
    with pytest.raises(DataError, match="no prompt of at most 4 tokens"):
        read(tmp_path, tokenizer, {"messages": [USER]}, max_tokens=4)


def test_a_conversation_without_a_user_is_refused_by_line(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"prompts.jsonl, line 2: the user says nothing"):
        read(tmp_path, tokenizer, {"messages": [USER]}, {"messages": [ANSWER]})


@pytest.mark.parametrize("bad", ["no user", "refused by the template"])
def test_bad_lines_are_also_those_that_make_no_prompt(tmp_path, tokenizer, bad):
    other = {"no user": [ANSWER], "refused by the template": [USER, USER]}[bad]
    if bad == "refused by the template":
        tokenizer = strict(tokenizer, tmp_path)
    lines = [{"messages": [USER]}, {"messages": other}, {"messages": [USER, ANSWER]}]
    with pytest.raises(DataError, match=r"^prompts.jsonl, line 2: ") as caught:
        read(tmp_path, tokenizer, *lines)
    assert "--skip-bad" in caught.value.hint
    prompts, said = read(tmp_path, tokenizer, *lines, skip_bad=True)
    assert len(prompts) == 2
    assert said[0].startswith(
        "  prompts.jsonl: 1 bad lines left out, the first: prompts.jsonl, line 2: "
    )


def test_bad_lines_are_skipped_as_asked_and_counted(tmp_path, tokenizer):
    prompts, said = read(tmp_path, tokenizer, {"messages": [USER]}, {"nothing": 1}, skip_bad=True)
    assert len(prompts) == 1
    assert said[0].startswith(
        "  prompts.jsonl: 1 bad lines left out, the first: prompts.jsonl, line 2"
    )


def test_rounds_go_through_all_prompts_before_one_comes_again():
    order = PromptOrder(10, per_round=4, seed=1)
    places = [place for number in range(1, 6) for place in order.of_round(number)]
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert places[:10] == shuffled(10, 1, 0) != places[10:]
    assert PromptOrder(10, per_round=4, seed=1).of_round(4) == places[12:16]
