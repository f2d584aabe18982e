"""Ids, addresses and licenses of rows."""

import json
from collections import Counter

import pytest

from afm_mlx.corpus.documents import read_documents
from afm_mlx.settings.sections import Source

ROWS = [
    {"text": "one", "id": "a", "meta": {"url": "https://x/1", "license": "mit"}},
    {"text": "two", "id": 7, "meta": {"url": None, "license": "Apache 2.0"}},
    {"text": "three", "id": None, "meta": {"url": "https://x/3", "license": "GPL-3.0"}},
    {"text": "four", "id": " ", "meta": None},
    {"text": "five", "id": "e", "meta": {"url": "", "license": "MIT OR GPL-2.0"}},
]
FIELDS = {"id_field": "id", "url_field": "meta.url", "license_field": "meta.license"}


@pytest.fixture(params=["jsonl", "parquet"])
def rows(request, tmp_path):
    """Settings of a source with the rows, in both kinds of file."""
    path = tmp_path / f"a.{request.param}"
    if request.param == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {key: [row[key] for row in ROWS] for key in ("text", "meta")}
        ids = [None if row["id"] is None else str(row["id"]) for row in ROWS]
        parquet.write_table(pyarrow.table(columns | {"id": ids}), path)
    return {"kind": request.param, "path": str(path)}


def read(settings):
    skipped = Counter()
    return list(read_documents("web", Source(**settings), skipped)), dict(skipped)


def test_a_row_brings_its_id_address_and_license(rows):
    found, skipped = read(rows | FIELDS | {"license": "CC0-1.0"})
    name = rows["path"].rpartition("/")[2]
    assert [doc.id for doc in found] == ["a", "7", f"{name}:3", f"{name}:4", "e"]
    assert [doc.url for doc in found] == ["https://x/1", "", "https://x/3", "", ""]
    assert [doc.license for doc in found] == [
        "MIT",
        "NOASSERTION",
        "GPL-3.0-only",
        "CC0-1.0",
        "MIT OR GPL-2.0-only",
    ]
    assert skipped == {}


def test_rows_whose_license_is_not_allowed_are_left_out_and_counted(rows):
    found, skipped = read(rows | FIELDS | {"licenses": ["permissive"]})
    assert [doc.text for doc in found] == ["one", "five"]
    assert skipped == {"license GPL-3.0-only": 1, "license not known": 1, "no license": 1}


def test_the_license_of_the_source_stands_for_rows_without_one(rows):
    found, _ = read(rows | FIELDS | {"licenses": ["MIT"], "license": "MIT"})
    assert [doc.text for doc in found] == ["one", "four", "five"]
    assert len(read(rows | {"licenses": ["MIT"], "license": "MIT"})[0]) == len(ROWS)


def test_a_list_of_licenses_all_hold(tmp_path):
    lines = [{"text": "one", "l": ["MIT", "ISC"]}, {"text": "two", "l": ["MIT", "GPL-2.0"]}]
    lines += [{"text": "three", "l": []}, {"text": "four", "l": [["MIT"]]}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"kind": "jsonl", "path": str(path), "license_field": "l", "licenses": ["any"]}
    found, skipped = read(settings)
    assert [doc.license for doc in found] == ["MIT AND ISC", "MIT AND GPL-2.0-only"]
    assert skipped == {"no license": 2}


def test_a_field_with_a_dot_in_its_name_comes_before_one_inside(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"a.b": "plain", "a": {"b": "inside"}}) + "\nnull\n")
    found, skipped = read({"kind": "jsonl", "path": str(path), "text_field": "a.b"})
    assert [doc.text for doc in found] == ["plain"]
    assert skipped == {"without text in 'a.b'": 1}


def test_a_parquet_file_without_a_named_column_is_counted(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["x"], "url": ["u"]}), tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["y"]}), tmp_path / "b.parquet")
    found, skipped = read({"kind": "parquet", "path": str(tmp_path), "url_field": "url"})
    assert [doc.text for doc in found] == ["x"]
    assert skipped == {"without column 'url'": 1}


def test_files_chooses_by_path_below_the_source(tmp_path):
    for name in ("a.jsonl", "data/train-1.jsonl", "data/train-2.jsonl", "data/test-1.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": name}) + "\n")
    found, _ = read({"kind": "jsonl", "path": str(tmp_path), "files": "data/train-*"})
    assert [doc.text for doc in found] == ["data/train-1.jsonl", "data/train-2.jsonl"]
