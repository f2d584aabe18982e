"""Bad documents among good ones: counted by reason and left out; all good ones come out."""

import gzip
import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.small_recipes import pretraining, shape

pytest.importorskip("fastwarc", reason="not installed: pip install 'afm-mlx[corpus]'")
pytest.importorskip("pyarrow", reason="not installed: pip install 'afm-mlx[parquet]'")

import pyarrow
import pyarrow.parquet
from afm_cli import main

from afm_mlx.corpus.documents import read_documents
from afm_mlx.corpus.record_shards import list_shards, read_shard
from afm_mlx.settings.sections import Source

LEVELS = 100_000
HUGE = 200 * 10**6  # bytes
WORDS = "the boats had gone out before dawn and others lay along a wall with their sails down "


def tale(seed, length=90):
    chosen = random.Random(seed).choices(WORDS.split(), k=length)
    return ". ".join(" ".join(chosen[i : i + 9]) for i in range(0, length, 9)) + "."


def noise(size):
    return random.Random(5).randbytes(size)


def page(text):
    return f"<html><body><article><p>{text}</p></article></body></html>"


def warc_record(name, body, *, length=None):
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <{name}>\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {length or len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def write_huge(path, before, after=b""):
    """A file with 200 MB between two parts, which take no room on the disk."""
    with path.open("wb") as file:
        file.write(before)
        file.seek(HUGE, os.SEEK_CUR)
        file.write(after or b"\0")


def make_html(folder):
    for name in "abc":
        (folder / f"good-{name}.html").write_text(page(tale(name)))
    (folder / "binary.html").write_bytes(noise(50_000))
    (folder / "packed.html").write_bytes(gzip.compress(noise(9_000)))
    (folder / "bytes.html").write_bytes(b"<html><body>" + bytes(range(0x81, 0xFF)) * 50)
    (folder / "deep.html").write_text("<div>" * LEVELS + tale(1) + "</div>" * LEVELS)
    (folder / "tables.html").write_text("<table><tr><td>" * LEVELS + tale(1))
    (folder / "empty.html").touch()
    write_huge(folder / "huge.html", b"<html><body>")
    os.mkfifo(folder / "pipe.html")
    (folder / "loop").symlink_to(folder)
    (folder / "itself.html").symlink_to(folder / "itself.html")
    (folder / "nowhere.html").symlink_to(folder / "nothing")
    return {"binary": 2, "empty": 1, "too long": 1, "undecodable": 1}


def make_warc(folder):
    records = [warc_record(f"good-{name}", page(tale(name)).encode()) for name in "abcd"]
    cut = gzip.compress(warc_record("cut", page(tale("x")).encode()))
    (folder / "cut.warc.gz").write_bytes(gzip.compress(records[0]) + cut[:-40])
    wrong = cut[:60] + bytes(30) + cut[90:]
    (folder / "wrong.warc.gz").write_bytes(
        gzip.compress(records[1]) + wrong + gzip.compress(records[2])
    )
    (folder / "empty.warc").touch()
    (folder / "noise.warc.gz").write_bytes(noise(3_000))
    head = warc_record("huge", b"", length=HUGE + 64).rstrip(b"\r\n") + b"\r\n\r\n"
    left = HUGE + 64 - len(head.partition(b"\r\n\r\n")[2])
    with (folder / "huge.warc").open("wb") as file:
        file.write(head)
        file.seek(left, os.SEEK_CUR)
        file.write(b"\r\n\r\n" + records[3])
    return {"broken gzip": 1, "not WARC": 1, "too long": 1, "truncated record": 1}


def make_jsonl(folder):
    good = [json.dumps({"text": tale(name)}).encode() for name in "abcd"]
    bad = [
        b'{"text": "cut',
        b"[" * LEVELS,
        b'{"text":' * LEVELS,
        b'{"text": ' + b"9" * LEVELS + b"}",
        b"\xff\xfe\xff",
        b'{"text": "\\ud800"}',
        b'{"text": 3}',
        b'{"body": "words"}',
        b'{"text": ""}',
        b'{"text": "a\\u0000b"}',
    ]
    lines = [line for pair in zip(bad, [*good[:2], b""] * 4, strict=False) for line in pair]
    (folder / "lines.jsonl").write_bytes(b"\n".join(dict.fromkeys(lines)))
    write_huge(folder / "huge.jsonl", b'{"text": "', b'"}\n' + good[2])
    (folder / "cut.jsonl.gz").write_bytes(
        gzip.compress(good[3] + b"\n" + noise(200).hex().encode())[:-9]
    )
    (folder / "wrong.jsonl.gz").write_bytes(b"\x1f\x8b\x08\0" + noise(200))
    (folder / "empty.jsonl").touch()
    return {
        "binary": 1,
        "broken JSON": 4,
        "broken gzip": 2,
        "empty": 1,
        "not UTF-8": 2,
        "too long": 1,
        "without text in 'text'": 2,
    }


def make_parquet(folder):
    def write(name, **columns):
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet")

    write("a", text=[tale("a"), None, "", tale("b"), "x" * (8 * 2**20 + 1)])
    write("column", body=[tale("c")])
    write("numbers", text=[1, 2])
    write("bytes", text=[b"\xff\xfe"])
    whole = (folder / "a.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "wrong.parquet").write_bytes(b"PAR1" + noise(400) + b"PAR1")
    (folder / "empty.parquet").touch()
    return {
        "broken Parquet": 3,
        "empty": 1,
        "too long": 1,
        "without column 'text'": 1,
        "without text in 'text'": 4,
    }


def make_text(folder):
    for name in "abc":
        (folder / f"{name}.txt").write_text(tale(name))
    (folder / "binary.txt").write_bytes(b"words \0" + noise(1_000))
    (folder / "bytes.txt").write_bytes(b"words \xff\xfe" * 30)
    (folder / "empty.txt").touch()
    return {"binary": 1, "empty": 1, "not UTF-8": 1}


def make_code(folder):
    for name in "abc":
        (folder / f"{name}.py").write_text(f"def {name}(x):\n    return x + 1\n" * 3)
    (folder / "binary.py").write_bytes(noise(999) + b"\0")
    (folder / "bytes.py").write_bytes(b"x = '\xff'\n")
    (folder / "deep.py").write_text("(" * LEVELS)
    write_huge(folder / "huge.py", b"x = 1\n")
    return {"binary": 1, "minified": 1, "not UTF-8": 1, "too long": 1}


MAKERS = {
    "html": make_html,
    "warc": make_warc,
    "jsonl": make_jsonl,
    "parquet": make_parquet,
    "text": make_text,
    "code": make_code,
}
GOOD = {"html": 3, "warc": 4, "jsonl": 4, "parquet": 2, "text": 3, "code": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of each kind of source."""
    root = tmp_path_factory.mktemp("bad")
    for kind, make in MAKERS.items():
        (root / kind).mkdir()
        (root / f"{kind}.json").write_text(json.dumps(make(root / kind)))
    (root / "pearls.jsonl").write_text('{"question": "how many pearls did seven divers bring"}\n')
    return root


def skipped(corpus, kind):
    return json.loads((corpus / f"{kind}.json").read_text())


def texts(folder):
    return [record.text for shard in list_shards(folder) for record in read_shard(shard)]


def good_texts(kind):
    if kind == "code":
        return [f"def {name}(x):\n    return x + 1\n" * 3 for name in "abc"]
    return [tale(name) for name in "abcd"[: GOOD[kind]]]


PLAIN = ["--set", "heuristics.off=['duplicate-ngrams', 'top-ngram', 'stop-words']"]
COMMANDS = {
    "extract": ["--set", "extract.least_words=20"],
    "filter": ["--step", "pii", "--step", "heuristics", *PLAIN],
    "dedup": [],
    "decontaminate": ["--benchmark", "pearls.jsonl"],
}


@pytest.mark.parametrize("command", ["filter", "dedup", "decontaminate"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text", "code"])
def test_every_command_counts_bad_documents_and_keeps_the_good(
    corpus, tmp_path, monkeypatch, capsys, kind, command
):
    monkeypatch.chdir(corpus)
    words = ["data", command, kind, str(tmp_path / "out"), *COMMANDS[command]]
    assert main([*words, "--set", "workers=1", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["skipped"] == skipped(corpus, kind)
    assert counts["dropped"] == {}
    assert sorted(texts(tmp_path / "out")) == sorted(good_texts(kind))


@pytest.mark.parametrize(("kind", "dropped"), [("html", {"extract.too-deep": 2}), ("warc", {})])
def test_extraction_counts_bad_pages_and_keeps_the_good(corpus, tmp_path, capsys, kind, dropped):
    words = ["data", "extract", str(corpus / kind), str(tmp_path / "out"), *COMMANDS["extract"]]
    assert main([*words, "--set", "workers=1", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["skipped"] == skipped(corpus, kind)
    assert counts["dropped"] == dropped
    assert sorted(texts(tmp_path / "out")) == sorted(good_texts(kind))


def test_pages_without_extraction_are_counted_likewise(corpus, tmp_path, capsys):
    words = ["data", "dedup", str(corpus / "html"), str(tmp_path / "out"), "--set", "workers=1"]
    assert main([*words, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["skipped"] == {"too long": 1, "without main text": 5}
    assert set(good_texts("html")) <= set(texts(tmp_path / "out"))


RECIPE = (
    shape(vocab_size=512)
    + pretraining("core", {"text": 1.0}, tokens=512, row_tokens=16)
    + """\
[clean]
shard_bytes = 500
workers = 2
[clean.extract]
least_words = 20
[clean.language]
least_probability = 0.3
[clean.pii]
[clean.heuristics]
off = ["duplicate-ngrams", "top-ngram", "stop-words"]
[clean.math]
[clean.decontaminate.benchmarks.pearls]
path = "{corpus}/pearls.jsonl"
"""
)


def test_a_recipe_cleans_a_corpus_with_all_of_them(corpus, tmp_path, capsys):
    sources = [f'[data.{kind}]\nkind = "{kind}"\npath = "{corpus}/{kind}"\n' for kind in MAKERS]
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE.format(corpus=corpus) + "".join(sources))
    assert main(["data", "clean", str(recipe), "--runs", str(tmp_path / "runs"), "--json"]) == 0
    (manifest,) = json.loads(capsys.readouterr().out)
    for kind, counts in manifest["metrics"]["sources"].items():
        assert counts["skipped"] == skipped(corpus, kind), kind
        assert counts["dropped"] == ({"extract.too-deep": 2} if kind == "html" else {}), kind
        folder = tmp_path / "runs" / "small" / "clean" / kind
        assert sorted(texts(folder)) == sorted(good_texts(kind)), kind


MEASURED = """
import resource, subprocess, sys
command = [sys.executable, "-c", "import sys; from afm_cli import main; sys.exit(main())"]
code = subprocess.run([*command, *sys.argv[1:]], stdout=subprocess.DEVNULL).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(code, peak if sys.platform == "darwin" else peak * 1024)  # kilobytes on Linux
"""


@pytest.mark.parametrize(
    ("kind", "command"), [("html", "extract"), ("warc", "extract"), ("jsonl", "dedup")]
)
def test_a_page_of_200_megabytes_is_never_in_memory(corpus, tmp_path, kind, command):
    words = ["data", command, str(corpus / kind), str(tmp_path / "out"), *COMMANDS[command]]
    # Between this process and the command stands a small one: a process that is started counts
    # the memory of the one that started it as its own.
    said = subprocess.check_output(
        [sys.executable, "-c", MEASURED, *words, "--set", "workers=1"], text=True
    )
    code, peak = map(int, said.split())
    assert code == 0
    assert peak < HUGE


@pytest.mark.parametrize("kind", MAKERS)
def test_a_source_with_nothing_usable_is_an_error(tmp_path, capsys, kind):
    endings = {"text": "txt", "code": "py", "warc": "warc", "html": "html"}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a.{endings.get(kind, kind)}").write_bytes(b"\0" * 2_000)
    command = "extract" if kind in ("html", "warc") else "dedup"
    words = ["data", command, str(tmp_path / "in"), str(tmp_path / "out"), "--kind", kind]
    assert main([*words, "--set", "workers=1"]) == 2
    said = capsys.readouterr().err
    assert "error: data.in: no usable " in said
    assert "skipped 1 " in said
    assert "hint: check data.in.path" in said


def test_a_name_that_is_not_utf_8_is_read_and_has_an_id(tmp_path):
    (tmp_path / "a.txt").write_text("plain")
    name = os.fsencode(tmp_path) + b"/b-\xff\xfe.txt"
    with suppress(OSError), open(name, "w") as file:  # macOS refuses such names
        file.write("strange")
    if not Path(os.fsdecode(name)).exists():
        pytest.skip("this file system takes UTF-8 names only")
    source = Source(kind="text", path=str(tmp_path))
    found = {one.id: one.text for one in read_documents("x", source, {})}
    assert found == {"a.txt": "plain", "b-??.txt": "strange"}


def test_a_file_that_vanishes_while_others_are_read_is_no_end(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    documents = read_documents("x", Source(kind="text", path=str(tmp_path)), {})
    assert next(documents).text == "a"
    (tmp_path / "b.txt").unlink()
    assert [one.text for one in documents] == ["c"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_files_and_folders_that_may_not_be_read_are_counted(tmp_path, capsys):
    source = tmp_path / "in"
    (source / "closed").mkdir(parents=True)
    for name in "abc":
        (source / f"{name}.txt").write_text(tale(name))
    (source / "b.txt").chmod(0)
    (source / "closed").chmod(0)
    words = ["data", "dedup", str(source), str(tmp_path / "out"), "--set", "workers=1"]
    assert main([*words, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["out"], counts["skipped"]) == (2, {"unreadable": 2})
    (source / "closed").chmod(0o700)
