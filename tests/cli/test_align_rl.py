"""afm rl and afm reject on the command line: a tiny run each, and a user's mistakes."""

import json

import pytest

FAST = ["--set", "rl.rounds=1", "--set", "rl.prompts_per_step=2", "--set", "rl.max_tokens=6"]


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    line = {
        "messages": [{"role": "user", "content": "What is it?"}],
        "check": {"kind": "contains", "texts": ["a"]},
    }
    file.write_text((json.dumps(line) + "\n") * 12)
    return file


def test_rl_leaves_a_model_and_says_what_it_learned(afm, chat_model, prompts):
    said = afm("rl", chat_model, "--data", prompts, "--out", "better", *FAST)
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == "model       better"
    assert said.out.splitlines()[1].startswith("held out    ")
    generated = afm("generate", "better", "--prompt", "What?", "--max-tokens", 2)
    assert generated.code == 0, generated.err


def test_reject_leaves_conversations(afm, chat_model, prompts, tmp_path):
    said = afm(
        "reject", chat_model, "--data", prompts, "--out", "kept", "--set", "reject.max_tokens=8"
    )
    assert said.code == 0, said.err
    assert said.out.startswith("kept ")
    assert "afm sft" in said.out
    assert (tmp_path / "kept" / "conversations.jsonl").exists()
    manifest = json.loads((tmp_path / "kept" / "manifest.json").read_text())
    assert manifest["metrics"]["answers"] == 12 * 4


def test_a_line_that_is_no_conversation_is_named_or_skipped(afm, chat_model, prompts):
    with prompts.open("a") as file:
        file.write("{}\n")
    said = afm("rl", chat_model, "--data", prompts, "--out", "better", *FAST)
    assert said.code == 2
    assert "error: prompts.jsonl, line 13: not a conversation" in said.err
    said = afm("rl", chat_model, "--data", prompts, "--out", "better", "--skip-bad", *FAST)
    assert said.code == 0, said.err
    assert "prompts.jsonl: 1 bad lines left out" in said.err


def test_a_reward_model_that_is_none_is_refused(afm, chat_model, prompts):
    judged = ["--set", "rl.model_weight=1", "--set"]
    said = afm(
        "rl",
        chat_model,
        "--data",
        prompts,
        "--out",
        "x",
        *FAST,
        *judged,
        f"rl.reward_model={chat_model}",
    )
    assert said.code == 2
    assert "is no reward model" in said.err
    said = afm("rl", chat_model, "--data", prompts, "--out", "x", *FAST, *judged[:2])
    assert said.code == 2
    assert "rl.model_weight (1) needs a [reward], or rl.reward_model" in said.err


def test_answers_that_leave_no_room_for_a_prompt_are_refused(afm, chat_model, prompts):
    said = afm("rl", chat_model, "--data", prompts, "--out", "x", "--set", "rl.max_tokens=64")
    assert said.code == 2
    assert "rl.max_tokens (64) leaves no room for a prompt" in said.err


COMMITTEE = [
    *("--set", "itec.rounds=1", "--set", "itec.prompts_per_round=4", "--set", "itec.max_tokens=6"),
    *("--set", 'itec.members=["ipo"]', "--set", "itec.answers_per_member=2"),
    *("--set", "reward.pairs_per_step=2", "--set", "prefer.pairs_per_step=2", *FAST),
]


def test_itec_of_a_model_that_ends_no_answer_says_so(afm, chat_model, tmp_path):
    """People's comparisons are enough for a reward model; but nothing can be picked."""
    prompts, pairs = tmp_path / "prompts.jsonl", tmp_path / "pairs.jsonl"
    asked = [f"Where is {number}?" for number in range(12)]
    prompts.write_text(
        "".join(json.dumps({"messages": [{"role": "user", "content": q}]}) + "\n" for q in asked)
    )
    pairs.write_text(
        "".join(json.dumps({"prompt": q, "chosen": "on", "rejected": "at"}) + "\n" for q in asked)
    )
    words = ["itec", chat_model, "--data", prompts, "--comparisons", pairs, "--out", "better"]
    said = afm(*words, *COMMITTEE)
    assert said.code == 2
    assert "error: no answer of the last committee was picked" in said.err


def test_itec_with_nothing_to_compare_says_so(afm, chat_model, prompts):
    prompts.write_text(prompts.read_text().replace('"a"', '"never said"'))
    said = afm("itec", chat_model, "--data", prompts, "--out", "better", *COMMITTEE)
    assert said.code == 2
    assert "error: all answers to all prompts are equally right" in said.err
    assert "hint: more prompts" in said.err
