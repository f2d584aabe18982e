import gzip
import io
import json
from collections import Counter

import pytest

pytest.importorskip("fastwarc")
from fastwarc.warc import ArchiveIterator

from afm_mlx.corpus.web.warc import read_warc
from afm_mlx.corpus.web.warc_writer import WarcWriter
from afm_mlx.errors import DataError
from afm_mlx.settings.web import Warc

PAGE = "<html><body><p>" + "A page of ordinary words. " * 40 + "</p></body></html>"
DATE = "2026-01-02T03:04:05Z"


def write(writer, number):
    return writer.write_response(
        f"https://example.org/{number}",
        date=DATE,
        status_line="HTTP/1.1 200 OK",
        headers=[("Content-Type", "text/html"), ("Content-Encoding", "gzip"), ("X-A", "b\r\nc")],
        body=PAGE.encode(),
        group="Applebot",
        train=True,
    )


def make(path, numbers, length=0):
    writer = WarcWriter(path, length=length)
    if not writer.size:
        writer.write_info({"software": "afm_mlx", "operator": "me@example.org"}, date=DATE)
    places = [write(writer, number) for number in numbers]
    writer.sync()
    writer.close()
    return places


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "w.warc.gz"
    places = make(path, [1, 2])
    skipped = Counter()
    first, second = read_warc(path, "web", Warc(), skipped)
    assert skipped == {}
    assert first.text == PAGE
    assert first.facts == {
        "fetched": DATE,
        "content_type": "text/html",
        "charset": "utf-8",
        "robots_group": "Applebot",
        "train": True,
    }
    assert first.id != second.id
    offset, length = places[1]
    alone = gzip.decompress(path.read_bytes()[offset : offset + length])
    assert alone.startswith(b"WARC/1.1\r\nWARC-Type: response\r\n")
    assert json.loads(first.to_json())["url"] == "https://example.org/1"


def test_fastwarc_confirms_the_digests(tmp_path):
    path = tmp_path / "w.warc.gz"
    make(path, [1, 2])
    records = list(ArchiveIterator(io.BytesIO(path.read_bytes()), verify_digests=True))
    kinds = [one.headers["WARC-Type"] for one in records]
    assert kinds == ["warcinfo", "response", "response"]


def test_the_same_pages_give_the_same_bytes(tmp_path):
    make(tmp_path / "w.warc.gz", [1, 2])
    (tmp_path / "again").mkdir()
    make(tmp_path / "again" / "w.warc.gz", [1, 2])
    again = tmp_path / "again" / "w.warc.gz"
    assert (tmp_path / "w.warc.gz").read_bytes() == again.read_bytes()


def test_what_is_behind_the_length_is_cut_off(tmp_path):
    path = tmp_path / "w.warc.gz"
    places = make(path, [1, 2, 3])
    whole = path.read_bytes()
    make(path, [2, 3], length=sum(places[0]))
    assert path.read_bytes() == whole


def test_a_file_shorter_than_it_was_is_an_error(tmp_path):
    path = tmp_path / "w.warc.gz"
    make(path, [1])
    with pytest.raises(DataError, match="bytes, and 99,999 were written"):
        WarcWriter(path, length=99_999)
