"""afm sft on a model of one's own: what is printed, and what is refused."""

import json
import re

import pytest

CHAT = {
    "messages": [{"role": "user", "content": "the mat"}, {"role": "assistant", "content": "A cat"}]
}
SMALL = ["--set", "sft.row_tokens=64", "--set", "sft.epochs=1", "--set", "sft.lr=0.01"]


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    lines = [
        json.dumps(CHAT).replace("the mat", f"the mat {number}").replace("A cat", f"{number} cat")
        for number in range(20)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_model_is_taught_and_what_it_learned_is_measured(afm, chat_model, chats):
    answer = afm("sft", chat_model, "--data", chats, "--out", "taught", *SMALL)
    assert answer.code == 0, answer.err
    model, held_out, following = answer.out.splitlines()
    assert model == "model       taught"
    assert held_out.startswith("held out    ")
    after, before = (float(word) for word in held_out.split() if "." in word)
    assert after < before
    assert following == "next        afm chat taught"
    assert "rows are " in answer.err
    chatted = afm("generate", "taught", "--prompt", "the mat", "--max-tokens", "2")
    assert chatted.code == 0, chatted.err


def test_the_manifest_is_printed_as_json(afm, chat_model, chats):
    answer = afm("sft", chat_model, "--data", chats, "--out", "taught", "--json", *SMALL)
    manifest = json.loads(answer.out)
    assert manifest["stage"] == "sft"
    assert manifest["metrics"]["start_held_out_nats"] > manifest["metrics"]["held_out_nats"]


def test_masks_are_shown_in_plain_text_and_nothing_is_written(afm, chat_model, chats, tmp_path):
    before = sorted(tmp_path.iterdir())
    answer = afm("sft", chat_model, "--data", chats, "--show-masks")
    head, *lines = answer.out.splitlines()
    assert re.fullmatch(r"chats.jsonl, line 1: \d+ tokens, \d learned", head)
    assert lines == [
        "      | </s><turn:user>the mat 0<turn:end><turn:assistant>",
        "learn | 0 cat<turn:end>",
    ]
    assert sorted(tmp_path.iterdir()) == before


def test_a_bad_line_is_refused_with_its_place_or_skipped(afm, chat_model, chats):
    chats.write_text(chats.read_text() + '{"messages": [{"role": "wizard", "content": "x"}]}\n')
    words = ["sft", chat_model, "--data", chats, "--out", "taught", *SMALL]
    answer = afm(*words)
    assert answer.code == 2
    error, hint = answer.err.splitlines()[-2:]
    assert error.startswith("error: chats.jsonl, line 21: message 1 has the unknown role 'wizard'")
    assert hint == "hint: leave such lines out: --skip-bad"
    answer = afm(*words, "--skip-bad")
    assert answer.code == 0, answer.err
    assert "1 line left out" in answer.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--data", "none.jsonl", "--out", "taught"], "error: cannot read "),
        (["--data", "chats.jsonl"], "error: invalid value for --out"),
        (["--data", "chats.jsonl", "--out", "."], "error: '.' exists already"),
        (["--data", "chats.jsonl", "--out", "x", "--set", "sft.lr=0"], "error: --set: sft.lr is"),
    ],
)
def test_mistakes_are_said_in_two_lines(afm, chat_model, chats, words, error):
    answer = afm("sft", chat_model, *words)
    lines = [line for line in answer.err.splitlines() if line.startswith(("error", "hint"))]
    assert answer.code == 2
    assert lines[0].lower().startswith(error.lower())
    assert len(lines) == 2 or "exists" not in lines[0]
