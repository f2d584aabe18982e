import json

import pytest

from afm_mlx.decoder.checkpoint import open_checkpoint


def test_import_writes_a_checkpoint_and_says_what_is_in_it(afm, chat_model, tmp_path):
    answer = afm("import", chat_model, "--out", "copy")
    assert answer.code == 0
    number = sum(v.size for v in _arrays(open_checkpoint(tmp_path / "copy")))
    assert f"parameters  {number:,}" in answer.out
    assert "1 layers, width 16, 2 heads of 8 on 1 key/value heads" in answer.out


def test_import_can_answer_in_json(afm, chat_model, tmp_path):
    found = json.loads(afm("import", chat_model, "--out", "copy", "--json").out)
    assert found["shape"]["hidden_size"] == 16
    assert found["bytes"] == sum(file.stat().st_size for file in (tmp_path / "copy").iterdir())


def test_import_does_not_overwrite(afm, chat_model, tmp_path):
    (tmp_path / "copy").mkdir()
    answer = afm("import", chat_model, "--out", "copy")
    assert answer.code == 2
    assert "'copy' exists already" in answer.err
    assert list((tmp_path / "copy").iterdir()) == []


@pytest.mark.parametrize("word", ["nothing", "./nothing.gguf"])
def test_import_of_what_is_not_there_is_refused(afm, word):
    answer = afm("import", word, "--out", "copy")
    assert answer.code == 2
    assert answer.err.startswith("error: ")


def _arrays(model):
    from mlx.utils import tree_flatten

    return [array for _, array in tree_flatten(model.parameters())]
