import gzip
import json
import os
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from afm_mlx.corpus import documents as module
from afm_mlx.corpus.documents import read_documents
from afm_mlx.corpus.files import PART_BYTES
from afm_mlx.errors import DataError
from afm_mlx.settings.sections import Source


def read(path, kind="text", **settings):
    """Documents by id, and what was skipped."""
    skipped = Counter()
    source = Source(kind=kind, path=str(path), **settings)
    found = {doc.id: doc.text for doc in read_documents("web", source, skipped)}
    return found, dict(skipped)


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_a_folder_of_text_is_read_in_order_of_paths(tmp_path):
    write(tmp_path, {"b.txt": "two", "a/z.txt": "three", "a.TXT": "one", "c.pdf": "no"})
    found, skipped = read(tmp_path)
    assert list(found.items()) == [("a.TXT", "one"), ("b.txt", "two"), ("a/z.txt", "three")]
    assert skipped == {}


def test_hidden_files_and_folders_are_no_part_of_a_source(tmp_path):
    write(tmp_path, {"a.txt": "yes", ".b.txt": "no", ".git/c.txt": "no"})
    assert list(read(tmp_path)[0]) == ["a.txt"]


def test_a_single_file_is_read_whatever_its_ending(tmp_path):
    write(tmp_path, {"notes": "text without an ending"})
    assert read(tmp_path / "notes")[0] == {"notes": "text without an ending"}


def test_byte_order_marks_and_windows_line_ends_are_removed(tmp_path):
    write(tmp_path, {"a.txt": b"\xef\xbb\xbfone\r\ntwo\rthree\n"})
    assert read(tmp_path)[0] == {"a.txt": "one\ntwo\rthree\n"}


def test_files_that_are_no_text_are_skipped_and_counted(tmp_path):
    write(
        tmp_path,
        {
            "good.md": "# Title",
            "latin.md": "caf\u00e9".encode("latin-1"),
            "wide.md": "text".encode("utf-16"),
            "nul.md": b"ab\0cd",
            "empty.md": b"",
            "blank.md": b" \n\t\n",
        },
    )
    found, skipped = read(tmp_path, "markdown")
    assert found == {"good.md": "# Title"}
    assert skipped == {"not UTF-8": 1, "binary": 2, "empty": 2}


def test_an_unreadable_file_is_skipped_and_counted(tmp_path):
    write(tmp_path, {"good.txt": "text", "bad.txt": "text"})
    (tmp_path / "bad.txt").chmod(0)
    if os.access(tmp_path / "bad.txt", os.R_OK):
        pytest.skip("this user may read every file")
    assert read(tmp_path) == ({"good.txt": "text"}, {"unreadable": 1})


def test_a_long_text_is_cut_at_blank_lines_and_loses_nothing(tmp_path):
    text = "".join(f"paragraph {number}\n" * 5 + "\n" for number in range(40_000))
    write(tmp_path, {"long.txt": text})
    found, _ = read(tmp_path)
    assert list(found) == [f"long.txt#{number + 1}" for number in range(len(found))]
    assert "".join(found.values()) == text
    assert len(found) == -(-len(text) // (PART_BYTES - 200))
    assert all(len(part) <= PART_BYTES for part in found.values())
    assert all(part.endswith("\n\n") for part in found.values())


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u4e2d", "\U0001f600"])
def test_a_long_text_without_lines_is_cut_between_characters(tmp_path, letter):
    text = letter * (PART_BYTES * 2 // len(letter.encode()) + 5)
    write(tmp_path, {"long.txt": "x" + text})
    found, skipped = read(tmp_path)
    assert "".join(found.values()) == "x" + text
    assert len(found) == 3
    assert skipped == {}


def test_a_text_that_fills_its_parts_exactly_has_no_empty_part(tmp_path):
    write(tmp_path, {"long.txt": "x" * PART_BYTES * 2})
    assert [len(part) for part in read(tmp_path)[0].values()] == [PART_BYTES] * 2
    assert read(tmp_path)[1] == {}


def test_a_bad_byte_costs_one_part_of_a_long_text(tmp_path):
    good = b"some words\n" * 100_000
    write(tmp_path, {"long.txt": good + b"\xff" + good * 2})
    found, skipped = read(tmp_path)
    assert skipped == {"not UTF-8": 1}
    assert sum(len(part) for part in found.values()) > 2 * len(good)


LINES = [
    b'{"text": "one", "other": 1}',
    b"",
    b'{"text": "two"',
    b'{"body": "three"}',
    b'{"text": 4}',
    b'"five"',
    b'{"text": ""}',
    b'{"text": "caf\xe9"}',
    b'{"text": "half \\ud800"}',
    b'{"text": "nul \\u0000"}',
    b"[" * 100_000,
    b'{"text": "last"}',
]
SKIPPED = {
    "broken JSON": 2,
    "without text in 'text'": 3,
    "empty": 1,
    "not UTF-8": 2,
    "binary": 1,
}


@pytest.mark.parametrize("packed", [False, True])
def test_bad_lines_of_jsonl_are_skipped_and_counted_by_reason(tmp_path, packed):
    data = b"\n".join(LINES)
    name = "a.jsonl.gz" if packed else "a.jsonl"
    write(tmp_path, {name: gzip.compress(data) if packed else data})
    found, skipped = read(tmp_path, "jsonl")
    assert found == {f"{name}:1": "one", f"{name}:12": "last"}
    assert skipped == SKIPPED


def test_jsonl_takes_the_field_of_the_settings(tmp_path):
    write(tmp_path, {"a.jsonl": json.dumps({"body": "caf\u00e9\r\n", "text": "no"})})
    assert read(tmp_path, "jsonl", text_field="body")[0] == {"a.jsonl:1": "caf\u00e9\r\n"}


def test_a_truncated_gzip_keeps_what_came_before(tmp_path):
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(50_000))
    write(tmp_path, {"a.jsonl.gz": gzip.compress(lines)[:-5_000]})
    found, skipped = read(tmp_path, "jsonl")
    assert 1_000 < len(found) < 50_000
    assert skipped == {"broken gzip": 1}


def test_a_line_that_is_too_long_is_skipped_without_holding_it(tmp_path):
    limit = module.MAX_DOCUMENT_BYTES
    long = b'{"text": "' + b"x" * (8 * limit) + b'"}\n'
    write(tmp_path, {"a.jsonl": b'{"text": "one"}\n' + long + b'{"text": "two"}\n'})
    tracemalloc.start()
    try:
        found, skipped = read(tmp_path, "jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == {"a.jsonl:1": "one", "a.jsonl:3": "two"}
    assert skipped == {"too long": 1}
    assert peak < 4 * limit


def test_parquet_is_read_by_column_and_bad_files_are_counted(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [f"text {number}" for number in range(1_000)]
    texts[7] = None
    table = pyarrow.table({"text": texts, "number": list(range(1_000))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "b.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    write(tmp_path, {"c.parquet": whole[: len(whole) // 2]})
    found, skipped = read(tmp_path, "parquet")
    assert len(found) == 999
    assert found["a.parquet:1000"] == "text 999"
    assert skipped == {
        "without text in 'text'": 1,
        "without column 'text'": 1,
        "broken Parquet": 1,
    }
    _, skipped = read(tmp_path / "b.parquet", "parquet", text_field="body")
    assert skipped == {}


PAGE = """<html><head><title>A page</title></head><body><nav>Home About Contact</nav>
<article><h1>The river</h1><p>{}</p></article><div class="comments">First!</div></body></html>"""


def test_html_gives_the_main_text(tmp_path):
    pytest.importorskip("trafilatura")
    sentence = "The river ran slowly past the old mill and the children watched it for hours. "
    write(
        tmp_path,
        {
            "a.html": PAGE.format(sentence * 10),
            "b.html": PAGE.format(sentence * 10 + "Caf\u00e9.").encode("latin-1"),
            "c.html": "",
            "d.html": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        },
    )
    found, skipped = read(tmp_path, "html")
    assert list(found) == ["a.html", "b.html"]
    assert sentence.strip() in found["a.html"]
    assert "Home About" not in found["a.html"]
    assert "First!" not in found["a.html"]
    assert sum(skipped.values()) == 2


@pytest.mark.parametrize(
    ("kind", "package"), [("parquet", "pyarrow.parquet"), ("html", "trafilatura")]
)
def test_a_missing_package_is_said_with_what_to_install(tmp_path, monkeypatch, kind, package):
    write(tmp_path, {f"a.{kind}": "content"})
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"kind {kind} needs the package") as caught:
        read(tmp_path, kind)
    assert caught.value.hint == f"pip install 'afm-mlx[{kind}]'"


def test_code_leaves_out_what_nobody_wrote_there(tmp_path):
    write(
        tmp_path,
        {
            "main.c": "int main(void) { return 0; }\n",
            "src/Makefile": "all:\n\tcc main.c\n",
            "src/lib.rs": "fn main() {}\n",
            "readme.md": "# prose",
            "node_modules/x/index.js": "no",
            "vendor/y.go": "no",
            ".venv/z.py": "no",
            "jquery.min.js": "a=1;\n",
            "packed.js": "x" * 1_001,
            "table.py": ("1," * 60 + "\n") * 30,
            "generated.py": "x = 1\n" * 200_000,
            "module.py": b"\x00\x01",
        },
    )
    found, skipped = read(tmp_path, "code")
    assert list(found) == ["main.c", "src/Makefile", "src/lib.rs"]
    assert skipped == {"minified": 3, "too long": 1, "binary": 1}


def test_the_library_of_the_running_python_is_a_source():
    found, _ = read("python:library", "code")
    assert "def dumps(" in found["json/__init__.py"]
    assert sum(len(text) for text in found.values()) > 5_000_000
    assert not {"site-packages", "test", "tests"} & {part for id in found for part in id.split("/")}


def test_the_documentation_of_the_running_python_is_a_source():
    found, _ = read("python:docs", max_bytes=1_000_000)
    assert "expression" in found["topics/lambda"].lower()
    assert all("\0" not in text for text in found.values())
    sections = [text for id, text in found.items() if id.endswith("argparse.py")]
    assert sections[0].startswith("argparse\n\nCommand-line parsing library")
    assert "argparse.ArgumentParser\n\nObject for parsing command line" in sections[0]


def test_code_and_documentation_of_a_module_are_one_group():
    groups = []
    for path in ("python:library", "python:docs"):
        source = Source(kind="code", path=path, max_bytes=1_000_000)
        groups.append({doc.id: doc.group for doc in read_documents("x", source, Counter())})
    assert groups[0]["argparse.py"] == groups[1]["argparse.py"] != ""


def test_another_python_path_is_an_error():
    with pytest.raises(DataError, match="there is no 'python:tests'") as caught:
        read("python:tests")
    assert caught.value.hint == "there are python:library and python:docs"


@pytest.mark.parametrize("max_bytes", [1, 4, 5, 6, 9, 10, 11, 100])
def test_max_bytes_ends_the_text_there(tmp_path, max_bytes):
    write(tmp_path, {"a.txt": "aaaaa", "b.txt": "bbbbb", "c.txt": "ccccc"})
    found, _ = read(tmp_path, max_bytes=max_bytes)
    assert "".join(found.values()) == "aaaaabbbbbccccc"[:max_bytes]


def test_max_bytes_does_not_split_a_character(tmp_path):
    write(tmp_path, {"a.txt": "\u00e9\u00e9\u00e9"})
    assert read(tmp_path, max_bytes=3)[0] == {"a.txt": "\u00e9"}


@pytest.mark.parametrize("path", ["", "no/such/folder"])
def test_a_path_that_is_not_there_is_an_error_at_once(path):
    with pytest.raises(DataError, match=f"data.web: '{path}' does not exist") as caught:
        read_documents("web", Source(kind="text", path=path), Counter())
    assert caught.value.hint == "check data.web.path"


def test_a_folder_without_files_of_the_kind_is_an_error(tmp_path):
    write(tmp_path, {"a.txt": "text"})
    with pytest.raises(DataError, match=r"holds no files of kind markdown \(\.md, \.markdown\)"):
        read(tmp_path, "markdown")
    with pytest.raises(DataError, match="holds no files of source code"):
        read(tmp_path, "code")


def test_a_source_without_a_usable_document_is_an_error_that_counts_why(tmp_path):
    write(tmp_path, {"a.txt": b"\xff", "b.txt": b"\xfe", "c.txt": b""})
    with pytest.raises(DataError, match=r"no usable document in .*\(kind text\); skipped 1 empty,"):
        read(tmp_path)
    write(tmp_path, {"a.jsonl": '{"body": "x"}\n'})
    with pytest.raises(DataError, match="skipped 1 without text in 'text'"):
        read(tmp_path, "jsonl")


def test_the_error_counts_this_source_only(tmp_path):
    write(tmp_path, {"a.txt": ""})
    skipped = Counter({"binary": 5})
    with pytest.raises(DataError, match=r"skipped 1 empty$"):
        list(read_documents("web", Source(kind="text", path=str(tmp_path)), skipped))
    assert skipped == {"binary": 5, "empty": 1}
