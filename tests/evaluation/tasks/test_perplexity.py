"""Perplexity: by hand, of any kind of file."""

import json
import math

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Likelihood
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.tasks.perplexity import Perplexity


def test_figures_by_hand(stub, quiet, tmp_path):
    data = tmp_path / "x.jsonl"
    data.write_text('{"text": "abcd"}\n{"text": "\\u00e4\\u00e4"}\n')  # 4 bytes each
    told = {"abcd": Likelihood(-6.0, 2), "ää": Likelihood(-2.0, 2)}
    result = run_task(Perplexity(data), stub(reads=lambda p: told[p.text]), tmp_path / "run", quiet)
    assert result.scores["nats_per_token"].value == pytest.approx(8 / 4)
    assert result.scores["perplexity"].value == pytest.approx(math.exp(2))
    assert result.scores["bits_per_byte"].value == pytest.approx(8 / math.log(2) / 8)
    low, high = result.scores["nats_per_token"].low, result.scores["nats_per_token"].high
    assert (result.scores["perplexity"].low, result.scores["perplexity"].high) == (
        pytest.approx(math.exp(low)),
        pytest.approx(math.exp(high)),
    )


def test_a_certain_model_has_perplexity_1(stub, quiet, tmp_path):
    (tmp_path / "x.txt").write_text("abc")
    who = stub(reads=lambda passage: Likelihood(0.0, 3, True))
    result = run_task(Perplexity(tmp_path / "x.txt"), who, tmp_path / "run", quiet)
    for name, least in (("perplexity", 1.0), ("bits_per_byte", 0.0), ("nats_per_token", 0.0)):
        score = result.scores[name]
        assert (score.value, score.low, score.high) == (least, least, least)


def test_texts_that_were_not_read_have_no_figure(never_replies, quiet, tmp_path):
    (tmp_path / "x.txt").write_text("abc")
    result = run_task(Perplexity(tmp_path / "x.txt"), never_replies, tmp_path / "run", quiet)
    assert result.scores == {}
    assert result.refused == {"not asked": 1}


def test_files_of_a_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("One text\n\nof three lines.\n")
    (folder / "b.md").write_text("# Head\n")
    (folder / "c.jsonl").write_text(
        json.dumps({"text": "first"}) + "\n" + json.dumps({"text": "next"})
    )
    (folder / ".hidden.txt").write_text("no")
    (folder / "picture.png").write_bytes(b"\x89")
    texts = [item.text for item in Perplexity(folder).items()]
    assert texts == ["One text\n\nof three lines.\n", "# Head\n", "first", "next"]
    assert [item.text for item in Perplexity(folder, max_chars=3).items()] == [
        "One",
        "# H",
        "fir",
        "nex",
    ]


def test_texts_themselves_are_taken():
    assert [item.text for item in Perplexity(["One", "", "two"]).items()] == ["One", "two"]


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"content": "a"}\n')
    with pytest.raises(DataError, match="line 1: no 'text'"):
        Perplexity(tmp_path / "x.jsonl").items()
    assert Perplexity(tmp_path / "x.jsonl", field="content").items()[0].text == "a"
    with pytest.raises(DataError, match="does not exist"):
        Perplexity(tmp_path / "y").items()
    (tmp_path / "z.txt").write_bytes(b"a\nb\xff")
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        Perplexity(tmp_path / "z.txt").items()
