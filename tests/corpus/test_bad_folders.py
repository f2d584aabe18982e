"""What is wrong with the folders of a step: one line that says so, and nothing is lost."""

import json
import random
import shutil

import pytest
from afm_cli import main

from afm_mlx.artifact import locked
from afm_mlx.corpus.clean import clean_sources
from afm_mlx.corpus.collect import collect
from afm_mlx.corpus.overlap.groups import Groups
from afm_mlx.corpus.record_shards import list_shards, read_shard
from afm_mlx.errors import DataError
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.sections import Source
from afm_mlx.settings.web import Warc

WORDS = "the boats had gone out before dawn and others lay along a wall with their sails down "


def tale(seed, length=90):
    return " ".join(random.Random(seed).choices(WORDS.split(), k=length)) + "."


@pytest.fixture
def documents(tmp_path):
    """A folder with forty tales."""
    (tmp_path / "in").mkdir()
    lines = [json.dumps({"text": tale(seed)}) for seed in range(40)]
    (tmp_path / "in" / "tales.jsonl").write_text("\n".join(lines))
    return tmp_path / "in"


@pytest.fixture
def dedup(capsys):
    """The command: its exit code, and what it says."""

    def run(path, out, *settings):
        settings = [word for one in ("workers=1", *settings) for word in ("--set", one)]
        code = main(["data", "dedup", str(path), str(out), *settings])
        said = capsys.readouterr()
        return code, said.out if code == 0 else said.err

    return run


SMALL = "shard_bytes=3000"


def texts(folder):
    return [record.text for shard in list_shards(folder) for record in read_shard(shard)]


@pytest.mark.parametrize("out", [".", "inside", "deep/inside", "../in"])
def test_a_result_among_its_own_input_is_refused(documents, dedup, out):
    code, said = dedup(documents, documents / out)
    assert code == 2
    assert "would be among its own input" in said
    assert [path.name for path in documents.iterdir()] == ["tales.jsonl"]


def test_a_result_over_its_only_file_is_refused(documents, dedup):
    tales = documents / "tales.jsonl"
    before = tales.read_bytes()
    assert dedup(tales, tales)[0] == 2
    assert tales.read_bytes() == before


def test_records_inside_a_source_of_records_are_refused(documents):
    source = {"tales": Source(kind="jsonl", path=str(documents))}
    with pytest.raises(DataError, match="whose records would be read as documents"):
        collect(source, documents / "out", shard_bytes=99, pages=False, warc=Warc())
    assert not (documents / "out").exists()


def test_two_commands_at_once_on_one_folder_are_refused(documents, dedup, tmp_path):
    with locked(tmp_path / "out"):
        code, said = dedup(documents, tmp_path / "out")
    assert code == 2
    assert "another process is running in" in said
    assert dedup(documents, tmp_path / "out")[0] == 0


def test_other_settings_or_another_step_on_a_result_are_refused(documents, dedup, tmp_path, capsys):
    out = tmp_path / "out"
    assert dedup(documents, out, SMALL)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.gz")}
    for settings in (["shard_bytes=4000"], [SMALL, "dedup.threshold=0.7"]):
        code, said = dedup(documents, out, *settings)
        assert code == 2
        assert "holds a result of other settings or other input" in said
    words = ["data", "filter", str(documents), str(out), "--step", "pii", "--set", SMALL]
    assert main(words) == 2
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.gz")} == before


def test_a_folder_in_which_nothing_was_made_takes_other_settings(documents, tmp_path, capsys):
    words = ["data", "dedup", str(documents), str(tmp_path / "out"), "--set", "workers=1"]
    assert main([*words, "--kind", "text"]) == 2
    assert main([*words, "--kind", "jsonl"]) == 0


def test_a_finished_step_is_not_made_again(documents, dedup, tmp_path):
    out = tmp_path / "out"
    code, said = dedup(documents, out, SMALL)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}
    assert (code, said) == dedup(documents, out, SMALL)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}
    assert {path: stamp for path, stamp in after.items() if path.is_file()} == {
        path: stamp for path, stamp in before.items() if path.is_file()
    }


def test_a_shard_that_was_deleted_is_made_again(documents, dedup, tmp_path):
    out = tmp_path / "out"
    dedup(documents, out, SMALL)
    whole = texts(out)
    (out / "00002.jsonl.gz").unlink()
    (out / "00003.drops.jsonl.gz").unlink()
    assert dedup(documents, out, SMALL)[0] == 0
    assert texts(out) == whole


def test_a_damaged_shard_is_named_and_can_be_made_again(documents, dedup, tmp_path):
    dedup(documents, tmp_path / "one", SMALL)
    shard = tmp_path / "one" / "00001.jsonl.gz"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    code, said = dedup(tmp_path / "one", tmp_path / "two")
    assert code == 2
    assert f"record shard {shard} is broken" in said
    assert "hint: delete it, and run the step that wrote it again" in said
    shard.unlink()
    assert dedup(documents, tmp_path / "one", SMALL)[0] == 0
    assert shard.read_bytes() == whole


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_damaged_counts_are_named(documents, dedup, tmp_path, text):
    counts = tmp_path / "out" / "00001.counts.json"
    dedup(documents, tmp_path / "out", SMALL)
    counts.write_text(text, encoding="latin-1")
    code, said = dedup(documents, tmp_path / "out", SMALL)
    assert code == 2
    assert f"{counts} is damaged\nhint: delete the file, and run the step again" in said
    counts.unlink()
    assert dedup(documents, tmp_path / "out", SMALL)[0] == 0


def test_files_that_macos_leaves_on_foreign_disks_are_no_counts(documents, dedup, tmp_path):
    dedup(documents, tmp_path / "out", SMALL)
    for name in ("._00001.counts.json", "._00001.jsonl.gz"):
        (tmp_path / "out" / name).write_bytes(b"\0\5\x16\7")
    assert dedup(documents, tmp_path / "out", SMALL)[0] == 0


@pytest.fixture
def cleaned(documents, tmp_path):
    """A folder of `clean_sources`, and the function that goes on with it."""
    sources = {"tales": Source(kind="jsonl", path=str(documents))}
    clean = Clean.model_validate({"shard_bytes": 3_000, "workers": 1, "pii": {}, "dedup": {}})
    out = tmp_path / "out"

    def run():
        return clean_sources(sources, clean, out)

    run()
    return out, run


@pytest.mark.parametrize(
    ("name", "to_delete"),
    [("0-sources/sources.json", "steps/0-sources"), ("1-filters/done.json", "")],
)
def test_a_damaged_note_of_what_is_finished_is_named_and_can_be_made_again(
    cleaned, name, to_delete
):
    out, run = cleaned
    summary = run()
    (out / "steps" / name).write_text("{")
    with pytest.raises(DataError, match=f"{name} is damaged") as error:
        run()
    assert error.value.hint == f"delete {out / to_delete}, and run again"
    shutil.rmtree(out / to_delete)
    assert run()["sources"] == summary["sources"]


def test_a_damaged_decision_is_named(documents, dedup, tmp_path):
    out = tmp_path / "out"
    dedup(documents, out, SMALL)
    (out / "decided" / "metrics.json").write_text("{")
    code, said = dedup(documents, out, SMALL)
    assert code == 2
    assert f"metrics.json is damaged\nhint: delete {out}, and run again" in said


def test_records_that_are_missing_in_the_end_are_no_smaller_corpus(cleaned):
    out, run = cleaned
    shard = list_shards(out / "tales")[2]
    shard.unlink()
    with pytest.raises(DataError, match=f"record shard {shard} is missing") as error:
        run()
    assert error.value.hint == f"delete {out}, and run again"


def test_records_that_are_missing_before_a_pass_are_no_smaller_corpus(cleaned):
    out, run = cleaned
    (out / "steps" / "2-dedup" / "done.json").unlink()
    with pytest.raises(DataError, match=r"1-filters/00000.jsonl.gz is missing"):
        run()


def test_no_source_chosen_for_deduplication_is_none(documents, tmp_path):
    with (documents / "tales.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"text": tale(0)}))
    sources = {"tales": Source(kind="jsonl", path=str(documents))}
    for chosen, left in (({"dedup": []}, 41), ({}, 40)):
        clean = Clean.model_validate({"workers": 1, "dedup": {}, "sources": chosen})
        summary = clean_sources(sources, clean, tmp_path / str(left))
        assert summary["sources"]["tales"]["out"] == left


def test_files_that_are_mapped_to_memory_have_their_room_on_the_disk(tmp_path):
    # A mapped hole that the full disk has no room for ended the process with SIGBUS.
    class Documents:
        def __len__(self):
            return 300_000

        def blocks(self, rows):
            return []

    Groups.create(tmp_path, Documents()).close()
    for path in tmp_path.iterdir():
        assert path.stat().st_blocks * 512 >= path.stat().st_size >= 300_000
