"""afm adapt and afm adapters: what is printed, and what is refused."""

import io
import json
import shutil

import pytest

from afm_mlx.decoder.checkpoint import read_shape, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize

CHAT = {
    "messages": [{"role": "user", "content": "the mat"}, {"role": "assistant", "content": "A cat"}]
}
LR = "adapters.cats.lr=0.1"
SMALL = ["--set", "adapters.cats.row_tokens=64", "--set", "adapters.cats.epochs=2"]


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    lines = [
        json.dumps(CHAT).replace("the mat", f"the mat {number}").replace("A cat", f"{number} cat")
        for number in range(20)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def cats(chat_model, tmp_path_factory):
    """Folder of a trained adapter `cats`, made by the command."""
    from afm_cli import main

    folder = tmp_path_factory.mktemp("cats")
    data = folder / "chats.jsonl"
    lines = [json.dumps(CHAT).replace("the mat", f"the mat {number}") for number in range(20)]
    data.write_text("\n".join([*lines, json.dumps(CHAT)]))
    words = ["adapt", chat_model, "--name", "cats", "--data", data, "--out", folder / "cats"]
    assert main([str(word) for word in (*words, "--rank", 2, *SMALL, "--set", LR)]) == 0
    return folder / "cats"


def test_an_adapter_is_trained_into_a_folder_of_its_name(afm, chat_model, chats, tmp_path):
    answer = afm("adapt", chat_model, "--name", "cats", "--data", chats, *SMALL)
    assert answer.code == 0, answer.err
    adapter, held_out, following = answer.out.splitlines()
    assert adapter.startswith("adapter     adapters/cats, rank 16, ")
    after, before = (float(word) for word in held_out.split() if "." in word)
    assert after < before
    assert following == f"next        afm chat {chat_model} --adapter adapters/cats"
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == ["cats"]
    answer = afm("adapt", chat_model, "--name", "cats", "--data", chats, *SMALL)
    assert answer.code == 2
    assert "'adapters/cats' exists already" in answer.err


def test_an_adapter_answers_and_the_model_can_answer_without(afm, chat_model, cats):
    words = ["generate", chat_model, "--prompt", "the mat", "--max-tokens", 4]
    plain, none, own = (
        afm(*words, *more) for more in ([], ["--adapter", "none"], ["--adapter", cats])
    )
    assert plain.out == none.out != own.out
    assert "adapter: cats" in own.err
    assert "adapter" not in none.err


def test_a_chat_changes_between_adapters(afm, chat_model, cats, tmp_path, monkeypatch):
    other = shutil.copytree(cats, tmp_path / "adapters" / "dogs")
    file = other / "adapter.json"
    file.write_text(file.read_text().replace('"cats"', '"dogs"'))
    lines = ["/adapter", "the mat", "/adapter dogs", "the mat", "/adapter"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    answer = afm("chat", chat_model, "--max-tokens", 2, "--adapter", cats, "--adapter", "dogs")
    assert answer.code == 0, answer.err
    said = answer.out.splitlines()
    assert said[0] == "adapter: cats (of cats, dogs)"
    assert said[-1] == "adapter: dogs (of cats, dogs)"


def test_adapters_are_listed_and_shown(afm, cats, tmp_path):
    assert "no adapters in adapters; afm adapt makes one" in afm("adapters", "list").err
    (tmp_path / "adapters" / "half").mkdir(parents=True)
    (tmp_path / "adapters" / "half" / "adapter.json").write_text("{")
    shutil.copytree(cats, tmp_path / "adapters" / "cats")
    listed = afm("adapters", "list")
    head, line = listed.out.splitlines()
    assert head.split() == ["name", "rank", "MB", "base", "made", "data"]
    assert line.split()[:2] == ["cats", "2"]
    assert line.endswith("chats.jsonl")
    assert "adapters/half/adapter.json is damaged" in listed.err
    (known,) = json.loads(afm("adapters", "list", "--json").out)
    assert (known["name"], known["rank"]) == ("cats", 2)
    shown = afm("adapters", "show", "cats").out.splitlines()
    assert shown[0] == "adapter     cats, rank 2, alpha 2"
    assert shown[-1].startswith("held out    ")


def test_fused_it_answers_alone(afm, chat_model, cats):
    answer = afm("adapters", "fuse", chat_model, cats, "--out", "fused")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0] == "model       fused"
    words = ["--prompt", "the mat", "--max-tokens", 4]
    beside = afm("generate", chat_model, "--adapter", cats, *words)
    assert afm("generate", "fused", *words).out == beside.out
    assert afm("adapters", "fuse", chat_model, cats, "--out", "fused").code == 2


def test_an_adapter_of_another_model_is_refused_in_two_lines(afm, chat_model, cats, tmp_path):
    model = Decoder(read_shape(chat_model))
    initialize(model, seed=9)
    save_checkpoint(tmp_path / "other", model, chat_model, facts={"stage": "sft"})
    answer = afm("generate", "other", "--adapter", cats, "--prompt", "x")
    error, hint = answer.err.splitlines()
    assert answer.code == 2
    assert error.startswith("error: adapter 'cats' is for '")
    assert "and 'other' is another base (" in error
    assert hint == "hint: train one for this base: afm adapt other --name cats --data FILE"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (
            ["generate", "MODEL", "--prompt", "x", "--adapter", "cast"],
            "error: no adapter is called 'cast'",
            "hint: did you mean 'cats'?",
        ),
        (
            ["adapters", "show", "chats.jsonl"],
            "error: 'chats.jsonl' is no adapter: it has no adapter.json",
            "hint: afm adapters list DIR shows some",
        ),
        (
            ["adapt", "MODEL", "--name", "none", "--data", "chats.jsonl"],
            "error: an adapter cannot be called 'none'",
            "hint: --name with letters",
        ),
        (
            ["adapt", "MODEL", "--name", "x", "--data", "absent.jsonl"],
            "error: cannot read",
            "hint: check --data",
        ),
    ],
)
def test_mistakes_are_said_in_two_lines(afm, chat_model, chats, cats, tmp_path, words, error, hint):
    shutil.copytree(cats, tmp_path / "adapters" / "cats")
    answer = afm(*(chat_model if word == "MODEL" else word for word in words))
    assert answer.code == 2
    said = [line for line in answer.err.splitlines() if line.startswith(("error", "hint"))]
    assert said[0].startswith(error)
    assert said[1].startswith(hint)


def test_a_bad_line_is_named_by_file_and_line_or_skipped(afm, chat_model, chats):
    chats.write_text(chats.read_text() + '{"messages": [{"role": "wizard", "content": "x"}]}\n')
    words = ["adapt", chat_model, "--data", chats, "--name", "cats", *SMALL]
    answer = afm(*words)
    assert answer.code == 2
    error, hint = answer.err.splitlines()[-2:]
    assert error.startswith("error: chats.jsonl, line 21: message 1 has the unknown role 'wizard'")
    assert hint == "hint: leave such lines out: --skip-bad"
    answer = afm(*words, "--skip-bad")
    assert answer.code == 0, answer.err
