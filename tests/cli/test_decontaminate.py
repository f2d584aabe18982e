"""afm data decontaminate as a user types it."""

import json

import pytest

from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import (
    list_shards,
    read_drops,
    read_shard,
    shard_name,
    write_shard,
)

ITEM = "Natalia sold clips to 48 of her friends in April, and then half as many in May. How many?"


@pytest.fixture
def folder(tmp_path):
    """Texts and a benchmark, in the folder where `afm` runs."""
    texts = [f"A page. {ITEM.upper()} The end.", "A page about nothing in particular."]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "sold.jsonl").write_text(json.dumps({"question": ITEM, "answer": "72"}) + "\n")
    return tmp_path


def test_texts_become_records_without_the_contaminated_one(folder, afm):
    ran = afm("data", "decontaminate", "texts.jsonl", "out", "--benchmark", "sold.jsonl")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-2:] == [
        "dropped              1 contaminated",
        "found                1 of 1 items of sold",
    ]
    (shard,) = list_shards(folder / "out")
    assert [record.text for record in read_shard(shard)] == ["A page about nothing in particular."]
    (drop,) = read_drops(folder / "out" / "00000.drops.jsonl.gz")
    assert drop.evidence.startswith("sold, item 1: 'natalia sold clips to 48 of her friends ")


def test_record_shards_are_taken_as_they_are(folder, afm):
    write_shard(folder / "records" / shard_name(0), [Record("a", ITEM), Record("b", "other")])
    ran = afm("data", "decontaminate", "records", "out", "--benchmark", "sold.jsonl", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["dropped"] == {"contaminated": 1}


def test_benchmarks_of_one_file_name_are_told_apart_by_their_folders(folder, afm):
    for name, item in (("a", ITEM), ("b", "One two three four five six seven eight nine ten.")):
        (folder / name).mkdir()
        (folder / name / "test.txt").write_text(item + "\n")
    given = ("data", "decontaminate", "texts.jsonl", "out", "--json")
    ran = afm(*given, "--benchmark", "a/test.txt", "--benchmark", "b/test.txt")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)["metrics"]["benchmarks"]
    assert {name: one["items_found"] for name, one in found.items()} == {"a-test": 1, "b-test": 0}
    ran = afm(*given, "--benchmark", "a/test.txt", "--benchmark", "a/test.txt")
    assert ran.code == 2
    assert "are both called a-test" in ran.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "error: benchmark none.jsonl does not exist"),
        ("empty.jsonl", b"", "error: benchmark empty.jsonl holds no item"),
        ("b.csv", b"id,label\n1,x\n", "error: b.csv, line 2: no question among the fields id, la"),
        ("b.jsonl", b"\x7fELF\x00\xff", "error: b.jsonl, line 1: not UTF-8"),
        ("b.pdf", b"%PDF-1.4", "error: b.pdf: no benchmark ends in '.pdf'"),
        ("b", b"some", "error: b has no ending for its kind"),
    ],
)
def test_a_bad_benchmark_is_told_in_two_lines_and_leaves_nothing(
    folder, afm, name, content, message
):
    if content is not None:
        (folder / name).write_bytes(content)
    ran = afm("data", "decontaminate", "texts.jsonl", "out", "--benchmark", name)
    assert ran.code == 2
    error, hint = ran.err.splitlines()
    assert error.startswith(message)
    assert hint.startswith("hint: ")
    assert not (folder / "out").exists()


def test_the_fields_of_the_hint_can_be_typed(folder, afm):
    (folder / "b.csv").write_text(f'id,label\n1,"{ITEM}"\n')
    given = ("data", "decontaminate", "texts.jsonl", "out", "--benchmark", "b.csv")
    assert afm(*given).code == 2
    ran = afm(*given, "--set", 'decontaminate.benchmarks.b.fields=["label"]')
    assert ran.code == 0, ran.err
    assert "dropped              1 contaminated" in ran.out
