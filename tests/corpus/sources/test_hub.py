"""Data sets of the hub, against a hub on this machine."""

import json
from collections import Counter

import pytest
from huggingface_hub import constants
from pydantic import ValidationError

from afm_mlx.corpus.collect import collect
from afm_mlx.corpus.documents import read_documents
from afm_mlx.corpus.sources.hub import pin_source
from afm_mlx.errors import DataError
from afm_mlx.settings.sections import Source
from afm_mlx.settings.web import Warc

from .conftest import COMMIT

LATER = "fedcba9876543210fedcba9876543210fedcba98"


def lines(*texts):
    return "".join(json.dumps({"text": text, "url": f"https://x/{text}"}) + "\n" for text in texts)


@pytest.fixture
def mirror(tmp_path, hub):
    """A folder laid out as the set `org/texts`, which the hub has."""
    folder = tmp_path / "mirror"
    files = {
        ".gitattributes": "",
        "README.md": "# Card",
        "z.jsonl": lines("last of the top"),
        "data/b.jsonl": lines("three", "four"),
        "data/a.jsonl": lines("one", "two"),
        "data/deep/c.jsonl": lines("five"),
        ".hidden/d.jsonl": lines("no"),
        "a/bad.jsonl": b"\xff\xfe\n{\n",
        "cut.jsonl.gz": b"\x1f\x8b\x08 nothing more",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    hub.sets["org/texts"] = folder
    return folder


def read(path, **settings):
    skipped = Counter()
    source = Source(kind="jsonl", path=str(path), **settings)
    found = list(read_documents("web", source, skipped))
    return [(one.id, one.text, one.url) for one in found], skipped


def test_a_set_of_the_hub_gives_what_a_folder_with_its_files_gives(mirror):
    for settings in ({}, {"files": "data/*"}, {"files": "data/a.jsonl", "url_field": "url"}):
        here = read(mirror, **settings)
        assert read("hub:org/texts", **settings) == here
        assert len(here[0]) >= 2


def test_files_are_fetched_one_by_one_as_they_are_read(mirror, hub):
    source = Source(kind="jsonl", path="hub:org/texts", files="data/*")
    documents = read_documents("web", source, Counter())
    next(documents)
    assert hub.fetched() == ["data/a.jsonl"]
    assert [one.text for one in documents] == ["two", "three", "four", "five"]
    assert hub.fetched() == ["data/a.jsonl", "data/b.jsonl", "data/deep/c.jsonl"]


def test_max_bytes_fetches_no_more_files_than_it_needs(mirror, hub):
    read("hub:org/texts", files="data/*", max_bytes=6)
    assert hub.fetched() == ["data/a.jsonl"]


def test_what_is_in_the_cache_is_read_without_the_hub(mirror, hub, monkeypatch):
    before = read("hub:org/texts")
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read("hub:org/texts") == before
    assert len(hub.asked) == asked


def test_a_cache_that_lacks_a_file_is_an_error_offline(mirror, hub, monkeypatch):
    read("hub:org/texts", files="data/a.jsonl")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(read("hub:org/texts", files="data/a.jsonl")[0]) == 2
    with pytest.raises(DataError, match=r"org/texts is not all in the cache .* switched off"):
        read("hub:org/texts", files="data/*")
    with pytest.raises(DataError, match="org/other is not all in the cache"):
        read("hub:org/other")


def test_a_download_that_broke_goes_on_where_it_stopped(mirror, hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # what a break can cost
    (mirror / "data" / "a.jsonl").write_text(lines(*(f"text {i}" for i in range(20_000))))
    hub.cut.add("data/a.jsonl")
    found, skipped = read("hub:org/texts", files="data/a.jsonl")
    assert len(found) == 20_000
    assert not skipped
    assert hub.fetched() == ["data/a.jsonl", "data/a.jsonl"]
    half = (mirror / "data" / "a.jsonl").stat().st_size // 2
    assert hub.ranges == [half - half % 2**16]


def test_a_revision_is_pinned_to_its_commit(mirror, hub):
    source = Source(kind="jsonl", path="hub:org/texts@v1")
    assert pin_source("web", source).path == f"hub:org/texts@{COMMIT}"
    asked = len(hub.asked)
    pinned = Source(kind="jsonl", path=f"hub:org/texts@{COMMIT}")
    local = Source(kind="jsonl", path=str(mirror))
    assert pin_source("web", pinned) == pinned
    assert pin_source("web", local) == local
    assert len(hub.asked) == asked


def test_a_corpus_that_goes_on_reads_the_commit_it_began_with(mirror, hub, tmp_path):
    sources = {"web": Source(kind="jsonl", path="hub:org/texts", files="data/*")}
    out = tmp_path / "out"

    def run():
        return collect(sources, out, shard_bytes=1_000, pages=False, warc=Warc())

    first = run()
    assert first["web"]["hub"] == f"hub:org/texts@{COMMIT}"
    assert first["web"]["documents"] == 5
    (out / "sources.json").unlink()  # as if it had been stopped just before the end
    hub.commits["main"] = LATER
    assert run() == first


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("hub:texts", "'hub:texts' is not hub:ORG/NAME", "hub:ORG/NAME@REVISION"),
        ("hub:org/texts/data", "is not hub:ORG/NAME", "files go to data.web.files"),
        ("hub:org/other", "hub set org/other is not on the hub, or is private", "hf auth login"),
        ("hub:org/texts@v9", "hub set org/texts has no revision 'v9'", "check data.web.path"),
        ("hub:org/--", "hub set org/-- cannot be read from the hub", "check the network"),
    ],
)
def test_mistakes_are_one_line_with_a_hint(mirror, path, message, hint):
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("data.web.path: ")
    assert hint in caught.value.hint


def test_a_gated_set_says_so(mirror, hub):
    hub.gated.add("org/texts")
    with pytest.raises(DataError, match="org/texts is gated: its owners decide") as caught:
        read("hub:org/texts")
    assert caught.value.hint.endswith("hf auth login")


def test_no_network_and_no_cache_is_an_error(mirror, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="cannot be read from the hub") as caught:
        read("hub:org/texts")
    assert "\n" not in str(caught.value)
    assert "give a folder with the set's files as data.web.path" in caught.value.hint


def test_a_set_without_files_of_the_kind_is_an_error(mirror):
    with pytest.raises(DataError, match=r"hub:org/texts holds no files of kind jsonl .* called x/"):
        read("hub:org/texts", files="x/*")


def test_source_code_is_not_read_from_the_hub():
    with pytest.raises(ValidationError, match="kind code needs a folder"):
        Source(kind="code", path="hub:org/texts")
