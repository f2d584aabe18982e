"""`afm tokenizer train` and `show`."""

import json

import pytest
from afm_cli.tokenizer import app
from typer.testing import CliRunner

from afm_mlx.errors import DataError

from .conftest import library_texts


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_train_then_show(tmp_path):
    text = tmp_path / "texts.md"
    text.write_text("\n".join(library_texts(1)), encoding="utf-8")
    out = tmp_path / "tokenizer"
    limit = ["--training-bytes", 200_000, "--vocab-size", 600]
    trained = json.loads(run("train", text, "--out", out, *limit, "--json").stdout)
    assert (trained["pieces"], trained["bytes"], trained["documents"]) == (600, 200_000, 1)
    shown = json.loads(run("show", out, text, "--text", "x 12", "--json").stdout)
    assert shown["vocab_size"] == 600
    assert shown["fingerprint"] == trained["fingerprint"]
    assert list(shown["texts"]) == [str(text)]
    assert shown["pieces"][-2:] == ["1", "2"]
    page = run("show", out, "--text", "12").stdout
    assert "</s> (1), <turn:end> (540)" in page
    assert "and 55 reserved" in page
    assert "Chinese" in page


def test_an_unknown_kind_is_named_with_those_that_exist(tmp_path):
    found = run("train", tmp_path, "--out", tmp_path / "o", "--vocab-size", 600, "--kind", "pdf")
    assert found.exit_code == 2
    words = found.stderr.replace("\u2502", "").split()  # Typer draws a box around them
    assert "pdf is not one of text, markdown" in " ".join(words)


def test_a_text_that_cannot_be_read_is_an_error(folder, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"latin\.txt: not UTF-8"):
        run("show", folder, tmp_path / "latin.txt")
