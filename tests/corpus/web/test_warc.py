import gzip
import time
import zlib
from collections import Counter

import pytest

pytest.importorskip("fastwarc")
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.web.warc import read_warc
from afm_mlx.errors import DataError
from afm_mlx.settings.web import Warc

PAGE = "<html><body><p>" + "A page of ordinary words. " * 40 + "</p></body></html>"


def record(number, body=PAGE, *, content_type="text/html; charset=utf-8", fields="", http=""):
    """A response record, plain."""
    body = body.encode() if isinstance(body, str) else body
    block = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{http}\r\n".encode() + body
    head = (
        "WARC/1.1\r\nWARC-Type: response\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\n"
        "WARC-Date: 2026-01-02T03:04:05Z\r\n"
        f"WARC-Target-URI: https://example.org/{number}\r\n{fields}"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def read(tmp_path, data, name="a.warc.gz", **settings):
    path = tmp_path / name
    path.write_bytes(data)
    skipped = Counter()
    records = list(read_warc(path, "web", Warc(**settings), skipped))
    return [int(found.url.rsplit("/", 1)[1]) for found in records], dict(skipped), records


def pack(*records):
    return b"".join(gzip.compress(one, mtime=0) for one in records)


@pytest.mark.parametrize("form", ["plain", "gzip per record", "one gzip"])
def test_pages_come_as_records_with_their_facts(tmp_path, form):
    data = {
        "plain": record(1) + record(2),
        "gzip per record": pack(record(1), record(2)),
        "one gzip": pack(record(1) + record(2)),
    }[form]
    numbers, skipped, records = read(tmp_path, data)
    assert (numbers, skipped) == ([1, 2], {})
    assert records[0] == Record(
        id="urn:uuid:00000000-0000-0000-0000-000000000001",
        text=PAGE,
        source="web",
        url="https://example.org/1",
        facts={
            "fetched": "2026-01-02T03:04:05Z",
            "content_type": "text/html",
            "charset": "utf-8",
        },
    )


@pytest.mark.parametrize("packed", [True, False])
def test_a_cut_last_record_is_counted(tmp_path, packed):
    data = pack(record(1), record(2)) if packed else record(1) + record(2)
    assert read(tmp_path, data[:-60])[:2] == ([1], {"truncated record": 1})


def test_broken_gzip_in_the_middle_loses_one_record(tmp_path):
    members = [pack(record(number)) for number in range(5)]
    broken = bytearray(members[2])
    broken[len(broken) // 2 :] = bytes(255 - byte for byte in broken[len(broken) // 2 :])
    numbers, skipped, _ = read(tmp_path, b"".join([*members[:2], bytes(broken), *members[3:]]))
    assert (numbers, sum(skipped.values())) == ([0, 1, 3, 4], 1)


def test_a_wrong_gzip_head_loses_one_record(tmp_path):
    members = [pack(record(number)) for number in range(4)]
    numbers, skipped, _ = read(
        tmp_path, members[0] + b"xx" + members[1][2:] + b"".join(members[2:])
    )
    assert (numbers, skipped) == ([0, 2, 3], {"broken gzip": 1})


def test_a_record_that_claims_more_than_it_has_swallows_nothing(tmp_path):
    broken = record(2).replace(b"Content-Length: ", b"Content-Length: 9")
    numbers, skipped, _ = read(tmp_path, record(1) + broken + record(3), name="a.warc")
    assert (numbers, skipped) == ([1, 3], {"truncated record": 1})


def test_a_record_that_is_cut_inside_a_plain_file_costs_at_most_itself(tmp_path):
    numbers, skipped, _ = read(
        tmp_path, record(1) + record(2)[:-9] + record(3) + record(4), "a.warc"
    )
    assert set(numbers) >= {1, 4}
    assert sum(skipped.values()) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello, this is no archive\r\n" * 40, "not WARC"),
        (gzip.compress(b"hello, this is no archive\r\n" * 40, mtime=0), "broken record"),
        (bytes(range(256)) * 40, "not WARC"),
    ],
)
def test_a_file_of_another_kind_is_counted(tmp_path, data, reason):
    assert read(tmp_path, data)[:2] == ([], {reason: 1})


def test_an_empty_file_has_no_pages(tmp_path):
    assert read(tmp_path, b"")[:2] == ([], {})


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="is no file"):
        list(read_warc(tmp_path / "none.warc.gz", "web", Warc(), Counter()))


BAD = {
    "not HTML": record(2, b"%PDF-1.7", content_type="application/pdf"),
    "binary": record(2, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20),
    "unknown charset": record(
        2, "привет ".encode("koi8-r") * 20, content_type="text/html;charset=klingon"
    ),
    "too long": record(2, "x" * 300_000),
    "empty": record(2, b" \n"),
    "status not 200": record(2).replace(b"200 OK", b"404 No"),
    "not HTTP": record(2).replace(b"HTTP/1.1 200 OK", b"GOPHER ABCD 123"),
    "truncated page": record(2, fields="WARC-Truncated: length\r\n"),
    "wrong digest": record(2, fields="WARC-Block-Digest: sha1:" + "A" * 32 + "\r\n"),
    "broken encoding": record(2, b"\x1f\x8b" + b"x" * 50, http="Content-Encoding: gzip\r\n"),
    "unknown encoding": record(2, b"x" * 50, http="Content-Encoding: rot13\r\n"),
    "page forbids training": record(2, http="X-Robots-Tag: noai\r\n"),
}


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("packed", [True, False])
def test_a_bad_record_is_counted_and_the_rest_goes_on(tmp_path, reason, packed):
    records = (record(1), BAD[reason], record(3))
    data = pack(*records) if packed else b"".join(records)
    assert read(tmp_path, data, max_page_bytes=100_000)[:2] == ([1, 3], {reason: 1})


def test_200_megabytes_are_passed_over(tmp_path):
    path = tmp_path / "big.warc.gz"
    big = record(2, b"x" * 10).replace(b"Content-Length: ", b"Content-Length: 2000000")
    with path.open("wb") as file:
        file.write(pack(record(1)))
        squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
        file.write(squeeze.compress(big.removesuffix(b"\r\n\r\n")))
        size = int(big.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
        left = size - len(big.partition(b"\r\n\r\n")[2]) + 4
        assert left > 190 * 10**6
        while left:
            left -= (piece := min(left, 10**6))
            file.write(squeeze.compress(b"x" * piece))
        file.write(squeeze.compress(b"\r\n\r\n") + squeeze.flush() + pack(record(3)))
    skipped = Counter()
    urls = [found.url[-1] for found in read_warc(path, "web", Warc(), skipped)]
    assert (urls, skipped) == (["1", "3"], {"too long": 1})


def test_a_small_record_that_unpacks_to_a_large_page_is_too_long(tmp_path):
    bomb = gzip.compress(b"x" * 20_000_000, 1)
    started = time.perf_counter()
    data = record(1, bomb, http="Content-Encoding: gzip\r\n") + record(2)
    assert read(tmp_path, data)[:2] == ([2], {"too long": 1})
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("body", "content_type", "charset"),
    [
        ("Grüße", "text/html", "utf-8"),
        ("\ufeffGrüße".encode(), "text/html; charset=latin-1", "utf-8-sig"),
        ("Grüße".encode("utf-16"), "text/html", "utf-16"),
        ("Grüße".encode("latin-1"), 'text/html; Charset="ISO-8859-1"', "cp1252"),
        ("<meta charset=koi8-r>Привет".encode("koi8-r"), "text/html", "koi8-r"),
        ("<meta charset=utf-16>Grüße", "text/html", "utf-8"),
        ("Grüße", "text/html; charset=klingon", "utf-8"),
        ("日本語のページです".encode("shift_jis"), "text/html; charset=x-sjis", "shift_jis"),
        ("日本語のページです".encode("euc_jp"), "application/xhtml+xml; charset=EUC-JP", "euc_jp"),
        ("Grüße aus München, es ist schön".encode("latin-1"), "text/html; charset=utf-8", "cp1252"),
    ],
)
def test_the_charset_used_is_the_one_that_fits(tmp_path, body, content_type, charset):
    data = record(1, body, content_type=content_type)
    _, skipped, records = read(tmp_path, data)
    assert skipped == {}
    assert records[0].facts["charset"] == charset
    assert any(word in records[0].text for word in ("Grüße", "Привет", "日本語"))
