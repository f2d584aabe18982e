"""Decontamination over shards and workers: its files, its settings, what is refused."""

import json
import random

import pytest

from afm_mlx.corpus.clean import clean_folder
from afm_mlx.corpus.overlap.decontaminate import Decontamination, NgramIndex
from afm_mlx.corpus.record_shards import (
    list_shards,
    read_drops,
    read_shard,
)
from afm_mlx.errors import DataError
from afm_mlx.recipe import load_section
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.decontamination import Decontaminate

from .decontaminating import PEARLS, decide, hosted, prepare, settings_of, words


def test_prepared_files_of_other_benchmarks_are_refused(tmp_path):
    prepared = prepare(tmp_path, [["a text"]], settings_of(tmp_path, {"math": [PEARLS]}))
    other = Decontamination(settings_of(tmp_path, {"math": [words(20)]}))
    with pytest.raises(
        DataError, match=r"00000\.hits was prepared with other benchmarks"
    ) as caught:
        other.decide(prepared, tmp_path / "out")
    assert caught.value.hint


def test_a_cut_prepared_file_is_refused(tmp_path):
    settings = settings_of(tmp_path, {"math": [PEARLS]})
    (path,) = prepare(tmp_path, [[PEARLS]], settings)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"00000\.hits is broken"):
        Decontamination(settings).decide([path], tmp_path / "out")


def test_an_empty_shard_and_an_empty_document_are_no_problem(tmp_path):
    settings = settings_of(tmp_path, {"math": [PEARLS]})
    metrics, dropped = decide(tmp_path, [[], ["", "\u00ad", PEARLS]], settings)
    assert metrics["documents"] == 3
    assert list(dropped) == [(1, 2)]


def test_no_benchmark_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no benchmark to decontaminate against"):
        NgramIndex(Decontaminate())


def test_two_workers_leave_the_same_files_as_one(tmp_path):
    draw = random.Random(0)
    items = [words(20, f"i{number}x") for number in range(40)]
    paths = settings_of(tmp_path, {"math": items}).benchmarks
    (tmp_path / "in").mkdir()
    texts = [
        hosted(draw.choice(items) if draw.random() < 0.2 else words(30, f"d{i}x"), i)
        for i in range(200)
    ]
    (tmp_path / "in" / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts)
    )
    results = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        clean = Clean(workers=workers, shard_bytes=5_000, decontaminate={"benchmarks": paths})
        counts = clean_folder(tmp_path / "in", out, clean)
        kept = [record for shard in list_shards(out) for record in read_shard(shard)]
        drops = [drop for path in sorted(out.glob("*.drops.jsonl.gz")) for drop in read_drops(path)]
        assert len(list_shards(out)) > 3
        assert len(kept) + len(drops) == len(texts)
        assert counts["dropped"] == {"contaminated": len(drops)}
        results.append((kept, drops, counts["metrics"]["benchmarks"]))
    assert results[0] == results[1]
    planted = sum(text.split()[4].startswith("i") for text in texts)
    assert len(results[0][1]) == planted > 0


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"n_min \(14\) must not be above n_max \(13\)"):
        Decontaminate(n_min=14)
    with pytest.raises(ValueError, match=r"common_least \(2000\) must not be above"):
        Decontaminate(common_least=2_000, common_fraction=0.5)


def test_the_literal_rule_can_be_set_on_the_command_line(tmp_path):
    given = [
        "decontaminate.lengths=all",
        "decontaminate.n_min=4",
    ]
    clean = load_section(Clean, {"decontaminate": {"benchmarks": {}}}, given)
    assert (clean.decontaminate.n_min, clean.decontaminate.n_max) == (4, 13)
    assert clean.decontaminate.lengths == "all"
    assert clean.decontaminate.common_from(10) == 1_000
