import csv
import gzip
import io
import json

import pytest

from afm_mlx.corpus.overlap.benchmarks_text import Item, read_benchmark
from afm_mlx.errors import DataError

MMLU = ["Which bone is longest?", "Femur, left", 'The "tibia"', "Ulna", "Rib", "A"]
LETTERED = 'A. Femur, left\nB. The "tibia"\nC. Ulna\nD. Rib'


def rows(*cells, delimiter=","):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(cells)
    return text.getvalue()


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(path, fields=()):
    return [item.text for item in read_benchmark(path, fields)]


# Kinds of files.


def test_jsonl_with_and_without_gzip(tmp_path):
    content = '{"question": "One?"}\n\n{"prompt": "Two."}\n"Three"\n'
    for name in ("a.jsonl", "a.ndjson", "A.JSONL"):
        assert texts(written(tmp_path / name, content)) == ["One?", "Two.", "Three"]
    for name in ("b.jsonl.gz", "b.jsonl"):  # told by its first bytes, not by its name
        packed = gzip.compress(content.encode())
        assert texts(written(tmp_path / name, packed)) == ["One?", "Two.", "Three"]


def test_json_as_a_list_or_as_lines(tmp_path):
    items = [{"question": "One?"}, "Two"]
    assert texts(written(tmp_path / "a.json", json.dumps(items, indent=2))) == ["One?", "Two"]
    lines = "\n".join(map(json.dumps, items))
    assert texts(written(tmp_path / "b.json", lines)) == ["One?", "Two"]
    assert texts(written(tmp_path / "c.json", json.dumps(items[0]))) == ["One?"]


@pytest.mark.parametrize(("name", "delimiter"), [("m.csv", ","), ("m.csv.gz", ",")])
@pytest.mark.parametrize("header", [True, False])
def test_csv_of_mmlu_with_and_without_its_header(tmp_path, name, delimiter, header):
    head = [["question", "A", "B", "C", "D", "answer"]] if header else []
    content = rows(*head, MMLU, delimiter=delimiter).encode()
    if name.endswith(".gz"):
        content = gzip.compress(content)
    (item,) = read_benchmark(written(tmp_path / name, content))
    assert item == Item(
        "\n".join(MMLU[:5]), (f"{MMLU[0]}\n{LETTERED}",), question="Which bone is longest?"
    )


def test_csv_whose_quotes_are_not_doubled(tmp_path):
    content = 'question,A,B,C,D,answer\n"He said "no" twice","Yes, "he" did","b","c","d",0\n'
    (item,) = read_benchmark(written(tmp_path / "m.csv", content))
    assert item.text == 'He said "no" twice\nYes, "he" did\nb\nc\nd'


def test_csv_with_line_ends_in_cells_and_a_byte_order_mark(tmp_path):
    content = b"\xef\xbb\xbf" + rows(["question", "answer"], ["One\ntwo?", "x"]).encode()
    assert texts(written(tmp_path / "m.csv", content)) == ["One\ntwo?\nx"]


def test_tsv(tmp_path):
    content = 'question\tanswer\nWhat "is" it?\tThis\r\n\n'
    assert texts(written(tmp_path / "a.tsv", content)) == ['What "is" it?\nThis']


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {"question": ["One?", "Two?"], "choices": [["a", "b"], ["c", "d"]], "answer": [0, 1]}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["One?\na\nb", "Two?\nc\nd"]


def test_text_has_an_item_on_each_line(tmp_path):
    assert texts(written(tmp_path / "a.txt", "One \n\n  Two\n")) == ["One", "Two"]
    assert texts(written(tmp_path / "a.txt.gz", gzip.compress(b"One\n"))) == ["One"]


def test_a_folder_is_read_in_order_of_names_and_without_other_and_hidden_files(tmp_path):
    (tmp_path / "deep").mkdir()
    written(tmp_path / "deep" / "b.txt", "Two\n")
    written(tmp_path / "a.jsonl", '{"text": "One"}\n')
    written(tmp_path / "README.md", "no item")
    written(tmp_path / "._a.jsonl", b"\x00\x05\x16\x07\xff")  # what tar of macOS leaves
    (tmp_path / ".cache").mkdir()
    written(tmp_path / ".cache" / "c.txt", "Three\n")
    assert texts(tmp_path) == ["One", "Two"]


# What an item is.


@pytest.mark.parametrize(
    ("row", "item"),
    [
        ({"question": "Q", "answer": "A"}, Item("Q\nA", (), "Q")),
        (
            {"question": "Q", "answer": "2+3 = <<2+3=5>>5"},
            Item("Q\n2+3 = <<2+3=5>>5", ("Q\n2+3 = 5",), "Q"),
        ),
        ({"key": 1, "prompt": "Write."}, Item("Write.")),
        ({"question": "Q", "choices": ["x", "y"], "answer": 1},
         Item("Q\nx\ny", ("Q\nA. x\nB. y",), "Q")),
        ({"question": "Q", "choices": {"text": ["x"], "label": ["1"]}},
         Item("Q\nx", ("Q\nA. x",), "Q")),
        ({"ctx": "Then", "endings": ["x"]}, Item("Then\nx", ("Then\nA. x",), "Then")),
        ({"prompt": "def f():", "canonical_solution": " pass"},
         Item("def f():\n pass", (), "def f():")),
    ],
)  # fmt: skip
def test_items_are_found_by_the_usual_names(tmp_path, row, item):
    assert read_benchmark(written(tmp_path / "a.jsonl", json.dumps(row))) == [item]


def test_fields_say_what_an_item_is(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"passage": "P", "lines": ["x", "y"], "question": "Q"}')
    assert texts(path, ("passage", "lines")) == ["P\nx\ny"]


# Broken files.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": "One?"}\n{"question": "Tw', r"a\.jsonl, line 2: no JSON: "),
        ("a.jsonl", '{"question": "One?"}\n\n[1]\n', r"a\.jsonl, line 3: no JSON object but \[1\]"),
        ("a.jsonl", '{"question": 5}\n', r"a\.jsonl, line 1: 'question' is no text but 5"),
        ("a.jsonl", '{"id": 5}\n', r"a\.jsonl, line 1: no question among the fields id"),
        ("a.json", '[\n {"question": "One?"},\n {"questi', r"a\.json, line 3: no JSON: "),
        ("a.json", '[{"question": "One?"}, 7]', r"a\.json, item 2: no JSON object but 7"),
        ("a.csv", "question,answer\nOne?,1\nTwo?\n", r"a\.csv, line 3: 1 columns where there sho"),
        ("a.csv", "id,label\n1,x\n", r"a\.csv, line 2: no question among the fields id, label"),
        ("a.csv", 'question\n"One', r"a\.csv, line 2: no CSV: "),
        ("a.tsv", "question\tanswer\nOne?\n", r"a\.tsv, line 2: 1 columns where there should be 2"),
        ("a.txt", b"One\nTwo\nThr\xff\n", r"a\.txt, line 3: not UTF-8"),
        ("a.jsonl", b"\x7fELF\x02\x01\x00\x00\xff\xfe", r"a\.jsonl, line 1: not UTF-8"),
        ("a.txt", b"One\nT\x00o\n", r"a\.txt, line 2: binary, not text"),
        ("a.csv", b"question\nT\x00o\n", r"a\.csv, line 2: binary, not text"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "One"}\n' * 99)[:30],
            r"a\.jsonl\.gz is a broken gz",
        ),
        ("a.parquet", b"PAR1 no", r"a\.parquet: no Parquet after 0 items: "),
        ("a.pdf", b"%PDF", r"a\.pdf: no benchmark ends in '\.pdf'"),
        ("a.jsonl", "", r"a\.jsonl holds no item"),
        ("a.csv", "question,answer\n", r"a\.csv holds no item"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, name, content, message):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    path = written(tmp_path / name, content)
    for place in (path, tmp_path):
        if place == tmp_path and name.endswith(".pdf"):
            continue  # a folder may hold anything
        if place == tmp_path and "holds no item" in message:
            message = "holds no item"
        with pytest.raises(DataError, match=message) as caught:
            read_benchmark(place)
        assert caught.value.hint


def test_a_parquet_value_that_is_no_text_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"question": [b"\xff\x00"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, item 1: 'question' is no text but .b'"):
        read_benchmark(tmp_path / "a.parquet")


def test_a_missing_field_is_named_with_those_there(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"a": "x", "b": "y"}')
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: no 'c'") as caught:
        read_benchmark(path, ("a", "c"))
    assert caught.value.hint == "its fields are a, b"


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl does not exist"):
        read_benchmark(tmp_path / "none.jsonl")


def test_real_benchmarks_are_read_whole(real_data):
    for path, count in (
        ("gsm8k/test.jsonl", 1_319),
        ("ifeval/input_data.jsonl", 541),
        ("mmlu/test", 9_183),
    ):
        assert len(read_benchmark(real_data / path)) == count
