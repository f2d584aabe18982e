import json

import pytest

LINES = [
    {"prompt": f"{number} cats?", "chosen": f"The cat {number}.", "rejected": "A mat."}
    for number in range(12)
]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_reward_then_score(afm, chat_model, data):
    found = afm(
        "reward", chat_model, "--data", data, "--out", "out", "--set", "reward.pairs_per_step=4"
    )
    assert found.code == 0, found.err
    assert "model       out" in found.out
    assert "has the higher reward in" in found.out

    from pathlib import Path

    from afm_mlx.alignment.reward import open_reward_model
    from afm_mlx.text.conversations import Conversation

    said = ({"role": "user", "content": "On?"}, {"role": "assistant", "content": "A house."})
    assert len(open_reward_model(Path("out")).score([Conversation(said)])) == 1


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_prefer_leaves_a_model_that_answers(afm, chat_model, data, method):
    found = afm("prefer", chat_model, "--method", method, "--data", data, "--out", "out", "--json")
    assert found.code == 0, found.err
    manifest = json.loads(found.out)
    assert manifest["settings"]["prefer"]["method"] == method
    assert manifest["metrics"]["pairs"]["comparisons"] == 11
    answer = afm("generate", "out", "--prompt", "On?", "--max-tokens", 3)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("command", ["reward", "prefer"])
def test_a_bad_line_is_named_in_two_lines(afm, chat_model, data, command):
    data.write_text(data.read_text() + '{"prompt": "On?", "chosen": "4"}\n')
    found = afm(command, chat_model, "--data", data, "--out", "out")
    assert found.code == 2
    errors = [line for line in found.err.splitlines() if line.startswith(("error", "hint"))]
    assert errors[0] == "error: pairs.jsonl, line 13: no 'rejected'"
    assert errors[1].startswith("hint: a line is")
    skipped = afm(command, chat_model, "--data", data, "--out", "out", "--skip-bad")
    assert skipped.code == 0, skipped.err
    assert "1 bad lines" in skipped.err
