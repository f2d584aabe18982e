"""afm export --to coreai: what a user sees."""

import sys

import pytest


def test_a_missing_package_is_named_with_what_to_type(afm, chat_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coreai", None)
    answer = afm("export", chat_model, "--to", "coreai", "--out", "out")
    assert answer.code == 2
    error, hint = answer.err.splitlines()[-2:]
    assert error == "error: --to coreai needs the package coreai, which is not installed"
    assert "macOS 26" in hint
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_fit_are_refused_with_their_values(afm, chat_model):
    words = ["export", chat_model, "--to", "coreai", "--out", "out"]
    answer = afm(*words, "--set", "decode_tokens=7")
    assert answer.code == 2
    assert "prefill_tokens (64) must be a multiple of decode_tokens (7)" in answer.err


def test_the_list_names_the_target_and_its_settings_without_the_package(afm, monkeypatch):
    monkeypatch.setitem(sys.modules, "coreai", None)
    answer = afm("export", "--list")
    assert answer.code == 0
    (line,) = [line for line in answer.out.splitlines() if line.startswith("coreai ")]
    assert "context_tokens=4096" in line


def test_a_model_that_the_runner_cannot_take_is_refused_in_a_line(afm, chat_model, tmp_path):
    pytest.importorskip("coreai", reason="coreai-core is not installed")
    words = ["export", chat_model, "--to", "coreai", "--set", "prefill_tokens=8192"]
    answer = afm(*words, "--out", "out")
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith(
        "error: --to coreai cannot hold this model: it reads"
    )
    assert not (tmp_path / "out").exists()
