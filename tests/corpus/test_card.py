"""The data card: it adds up, shows why documents went, and is safe Markdown."""

import json

import pytest
from afm_cli import main

from afm_mlx.corpus.card import make_card, timing, timing_table, to_markdown
from afm_mlx.corpus.clean import clean_folder, clean_sources
from afm_mlx.errors import DataError
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.sections import Source

OFF = ["duplicate-ngrams", "top-ngram", "stop-words", "duplicate-lines", "punctuation"]


@pytest.fixture
def run(tmp_path):
    """A run's folder, of twelve texts: two equal, three short."""
    texts = [f"{i} " + " ".join(f"word{i}x{j}" for j in range(60)) + "." for i in range(8)]
    texts += [texts[0], "short", "also | short", "<b>short</b>"]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "", None]))
    sources = {"texts": Source(kind="jsonl", path=str(source), license="CC-BY-4.0")}
    rules = {"off": OFF, "least_words": 10}
    given = {"workers": 1, "shard_bytes": 1_000, "heuristics": rules, "dedup": {}}
    clean_sources(sources, Clean.model_validate(given), tmp_path / "run" / "clean")
    return tmp_path / "run"


def test_card_adds_up(run):
    card = make_card(run)
    (source,) = card["sources"]
    assert (source["documents_read"], source["documents"]) == (12, 8)
    assert source["documents_read"] - source["documents"] == sum(source["dropped"].values())
    assert {one["rule"]: one["documents"] for one in card["drops"]} == source["dropped"]
    assert source["dropped"]["dedup.exact"] == card["duplicates"]["exact_duplicates"] == 1
    assert source["licenses"] == ["CC-BY-4.0"]
    assert source["skipped"] == {"empty": 1, "without text in 'text'": 1}
    assert card["total"]["documents"] == 8
    assert json.loads(json.dumps(card)) == card


def test_card_shows_dropped_and_kept_documents(run):
    card = make_card(run)
    short = next(one for one in card["drops"] if one["rule"] == "heuristics.too-short")
    assert short["share"] == 3 / 12
    assert [sample["id"] for sample in short["samples"]] == [
        "texts.jsonl:10",
        "texts.jsonl:11",
        "texts.jsonl:12",
    ]
    assert all(sample["evidence"] for sample in short["samples"])
    assert len({sample["id"] for sample in card["samples"]}) == 2
    assert all(0 < len(sample["text"]) <= 200 for sample in card["samples"])


def test_cells_of_the_page_cannot_break_its_tables(run):
    card = make_card(run)
    card["drops"][0]["samples"][0]["evidence"] = "a | b\n<script>`x`"
    page = to_markdown(card)
    assert "a \\| b &lt;script>'x'" in page
    tables = [line for line in page.splitlines() if line.startswith("| heuristics")]
    assert tables
    assert all(line.endswith(" |") for line in tables)


def test_throughput_has_a_row_for_each_step_and_each_pass(run):
    rows = timing(run / "clean")
    names = [row["step"] for row in rows]
    assert names == ["heuristics", "all of 1-filters", "dedup", "all of 2-dedup"]
    assert rows[0]["documents"] == 12
    assert rows[2]["documents"] == 9
    assert all(row["documents_per_second"] > 0 for row in rows)
    assert len(timing_table(rows).splitlines()) == 5


def test_card_of_one_step_alone(run, tmp_path):
    clean_folder(run / "clean", tmp_path / "pii", Clean(workers=1, pii={}))
    card = make_card(tmp_path / "pii")
    assert card["total"]["documents"] == 8
    assert card["samples"][0]["source"] == "texts"


def test_folder_without_counts_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no counts of documents"):
        make_card(tmp_path)


def test_command_prints_the_card_and_writes_both_forms(run, tmp_path, capsys):
    assert main(["data", "card", str(run), "--out", str(tmp_path / "card")]) == 0
    assert capsys.readouterr().out.startswith("# Data card: run\n")
    assert (tmp_path / "card" / "data-card.md").read_text() == to_markdown(make_card(run))
    assert main(["data", "card", str(run), "--json"]) == 0
    written = json.loads((tmp_path / "card" / "data-card.json").read_text())
    assert json.loads(capsys.readouterr().out) == written


def test_commands_run_a_step_and_say_what_went(run, tmp_path, capsys):
    texts, out = str(tmp_path / "texts.jsonl"), tmp_path / "out"
    assert main(["data", "dedup", texts, str(out), "--set", "workers=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == {"dedup.exact": 1}
    rules = ["--set", "workers=1", "--set", "heuristics.least_words=10"]
    rules += ["--set", f"heuristics.off={json.dumps(OFF)}", "--step", "heuristics"]
    assert main(["data", "filter", str(out), str(tmp_path / "more"), *rules]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split()[:2] == ["in", "11"]
    assert "3 heuristics.too-short" in printed


def test_commands_refuse_what_they_do_not_run(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    words = ["data", "dedup", str(tmp_path), str(tmp_path / "out")]
    assert main([*words, "--set", 'pii.mode="drop"']) == 2
    assert "runs dedup only" in capsys.readouterr().err
    assert main([*words, "--set", "dedup.band=3"]) == 2
    assert "did you mean 'dedup.bands'?" in capsys.readouterr().err
    assert main(["data", "filter", str(tmp_path), str(tmp_path / "out"), "--step", "x"]) == 2
    assert main(["data", "dedup", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "none does not exist" in capsys.readouterr().err
