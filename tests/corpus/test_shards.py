import errno
import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from afm_mlx.corpus.documents import Document
from afm_mlx.corpus.shards import Shards, write_shards
from afm_mlx.errors import DataError

TEXTS = [f"document {number}: " + "word " * (number % 17) for number in range(200)]


def documents(texts=TEXTS):
    return (Document(text, "source", str(number)) for number, text in enumerate(texts))


@pytest.fixture
def folder(tmp_path, tokenizer):
    """Shards of TEXTS in several files."""
    write_shards(documents(), tokenizer, tmp_path, held_out_fraction=0.1, shard_tokens=1_000)
    return tmp_path


def texts_of(shards: Shards) -> list[str]:
    """All documents, decoded from the stream."""
    stream = shards.read(0, shards.num_tokens).tolist()
    texts, text = [], bytearray()
    for token in stream:
        if token == shards.eos_id:
            texts.append(text.decode())
            text.clear()
        else:
            text.append(token)
    assert not text
    return texts


def test_every_document_comes_back_from_exactly_one_split(folder):
    train, held_out = (texts_of(Shards.open(folder, split)) for split in ("train", "held_out"))
    assert sorted(train + held_out) == sorted(TEXTS)
    assert train
    assert held_out


def test_metrics_and_index_agree_with_the_texts(tmp_path, tokenizer):
    metrics = write_shards(documents(), tokenizer, tmp_path, held_out_fraction=0.1)
    sums = {
        key: metrics[f"train_{key}"] + metrics[f"held_out_{key}"]
        for key in ("tokens", "documents", "text_bytes")
    }
    text_bytes = sum(len(text.encode()) for text in TEXTS)
    assert sums == {"tokens": text_bytes + 200, "documents": 200, "text_bytes": text_bytes}
    assert metrics["bytes_per_token"] == pytest.approx(text_bytes / (text_bytes + 200))
    train = Shards.open(tmp_path, "train")
    assert train.num_tokens == metrics["train_tokens"]
    assert train.documents == metrics["train_documents"]
    assert train.text_bytes == metrics["train_text_bytes"]


def test_reading_across_files_equals_reading_at_once(folder):
    shards = Shards.open(folder, "train")
    assert len(list((folder / "train").glob("0*.bin"))) > 3
    whole = shards.read(0, shards.num_tokens)
    assert whole.dtype == np.int32
    for start in range(0, shards.num_tokens, 701):
        stop = min(start + 2_500, shards.num_tokens)
        assert np.array_equal(shards.read(start, stop), whole[start:stop])
    assert shards.read(5, 5).size == 0


def test_a_shard_file_ends_with_a_document(folder):
    for path in (folder / "train").glob("0*.bin"):
        assert np.fromfile(path, "<u2")[-1] == 256


def test_the_same_documents_give_the_same_files(folder, tmp_path, tokenizer):
    again = tmp_path / "again"
    write_shards(documents(), tokenizer, again, held_out_fraction=0.1, shard_tokens=1_000)
    names = [path.relative_to(again) for path in again.rglob("*") if path.is_file()]
    assert len(names) > 5
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_ids_take_16_bits_if_the_vocabulary_allows_else_32(tmp_path, tokenizer, wide_tokenizer):
    for name, used, dtype in (("a", tokenizer, "uint16"), ("b", wide_tokenizer, "uint32")):
        metrics = write_shards(documents(), used, tmp_path / name, held_out_fraction=0)
        shards = Shards.open(tmp_path / name, "train")
        assert metrics["dtype"] == dtype
        assert shards.dtype.itemsize * 8 == int(dtype[4:])
        assert sorted(texts_of(shards)) == sorted(TEXTS)


def test_text_bytes_are_exact_for_whole_documents(folder):
    shards = Shards.open(folder, "held_out")
    ends = np.flatnonzero(shards.read(0, shards.num_tokens) == shards.eos_id) + 1
    texts = texts_of(shards)
    for first in range(len(texts)):
        for last in range(first, len(texts)):
            start = 0 if first == 0 else int(ends[first - 1])
            expected = sum(len(text.encode()) for text in texts[first : last + 1])
            assert shards.text_bytes_between(start, int(ends[last])) == expected
    assert shards.text_bytes_between(0, shards.num_tokens) == shards.text_bytes
    assert shards.text_bytes_between(3, 3) == 0


def test_text_bytes_of_a_cut_document_are_its_share_and_add_up(tmp_path, tokenizer):
    # 10 tokens, 20 bytes: each token stands for two.
    tokenizer.encode_batch = lambda texts: [[1] * (len(text.encode()) // 2) for text in texts]
    text = "\u00e9" * 10
    write_shards(documents([text]), tokenizer, tmp_path, held_out_fraction=0)
    shards = Shards.open(tmp_path, "train")
    assert shards.text_bytes_between(2, 5) == pytest.approx(6)
    assert shards.text_bytes_between(9, 11) == pytest.approx(2)
    assert shards.text_bytes_between(10, 11) == 0
    pieces = [shards.text_bytes_between(at, at + 1) for at in range(11)]
    assert sum(pieces) == pytest.approx(20)


def test_memory_stays_bounded_while_writing(tmp_path, tokenizer):
    total = 30_000_000

    def many():
        for number in range(total // 10_000):
            yield Document(f"{number:09d}\n" * 1_000, "source", str(number))

    tracemalloc.start()
    try:
        write_shards(many(), tokenizer, tmp_path, held_out_fraction=0.01)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert Shards.open(tmp_path, "train").num_tokens > 0.9 * total
    # A list of all ids takes 240 MB.
    assert peak < 25_000_000


def test_verify_finds_a_changed_byte(folder):
    Shards.open(folder, "train").verify()
    for name in ("00002.bin", "documents.bin"):
        path = folder / "train" / name
        original = path.read_bytes()
        path.write_bytes(bytes([original[0] ^ 1]) + original[1:])
        with pytest.raises(DataError, match=rf"{name} changed since it was written: SHA-256"):
            Shards.open(folder, "train").verify()
        path.write_bytes(original)


def test_a_truncated_shard_is_named_with_both_sizes(folder):
    path = folder / "train" / "00001.bin"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    expected = rf"00001.bin has {size - 10:,} bytes, {size:,} expected"
    with pytest.raises(DataError, match=expected) as caught:
        Shards.open(folder, "train")
    assert caught.value.hint.startswith("build the shards again: afm run ")


def test_a_missing_shard_is_named(folder):
    (folder / "train" / "00001.bin").unlink()
    with pytest.raises(DataError, match=r"00001.bin is missing, [\d,]+ bytes expected"):
        Shards.open(folder, "train")


def test_another_number_format_than_written_is_noticed(folder):
    index = json.loads((folder / "shards.json").read_text())
    (folder / "shards.json").write_text(json.dumps({**index, "dtype": "uint32"}))
    with pytest.raises(DataError, match=r"00000.bin has [\d,]+ bytes, [\d,]+ expected"):
        Shards.open(folder, "train")
    (folder / "shards.json").write_text(json.dumps({**index, "dtype": "float64"}))
    with pytest.raises(DataError, match=r"shards.json is damaged: KeyError\('float64'\)"):
        Shards.open(folder, "train")


def test_an_index_that_lacks_something_is_refused(folder):
    index = json.loads((folder / "shards.json").read_text())
    del index["splits"]["train"]["shards"][1]["tokens"]
    (folder / "shards.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"shards.json is damaged: KeyError\('tokens'\)"):
        Shards.open(folder, "train")


def test_a_shard_that_goes_away_after_opening_is_named(folder):
    shards = Shards.open(folder, "train")
    (folder / "train" / "00001.bin").unlink()
    assert shards.read(0, 10).size == 10
    with pytest.raises(DataError, match=r"00001.bin is missing"):
        shards.read(0, shards.num_tokens)


def test_a_folder_without_a_readable_index_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"shards.json is missing: no finished shards"):
        Shards.open(tmp_path, "train")
    (tmp_path / "shards.json").write_text('{"version": 1, "dty')
    with pytest.raises(DataError, match=r"cannot read .*shards.json"):
        Shards.open(tmp_path, "train")
    (tmp_path / "shards.json").write_text('{"version": 99}')
    with pytest.raises(DataError, match="is of version 99, this program reads version 1"):
        Shards.open(tmp_path, "train")


def test_shards_of_another_tokenizer_are_refused(folder):
    Shards.open(folder, "train", "a" * 64)
    with pytest.raises(DataError, match="with tokenizer aaaaaaaa, and this tokenizer is cccccccc"):
        Shards.open(folder, "train", "c" * 64)


def test_no_documents_are_an_error_and_leave_no_index(tmp_path, tokenizer):
    with pytest.raises(DataError, match="no documents to write"):
        write_shards([], tokenizer, tmp_path, held_out_fraction=0.1)
    assert not (tmp_path / "shards.json").exists()


class FullFile(io.FileIO):
    """A file on a disk with room for 3,000 more bytes."""

    def write(self, data):
        if self.tell() + len(data) > 3_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


class FullDisk(type(Path())):
    """Paths on such a disk."""

    def open(self, mode="r", **_):
        return io.BufferedWriter(FullFile(str(self), mode.replace("b", "")), 512)


def test_a_full_disk_is_said_and_leaves_nothing_that_opens(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"disk full while writing .*\.bin") as caught:
        write_shards(documents(), tokenizer, FullDisk(tmp_path), held_out_fraction=0.1)
    assert caught.value.hint == "free some space, then run this again"
    with pytest.raises(DataError, match="no finished shards"):
        Shards.open(tmp_path, "train")


def test_writing_over_an_old_folder_first_removes_its_index(folder, tokenizer):
    with pytest.raises(DataError, match="disk full"):
        write_shards(documents(), tokenizer, FullDisk(folder), held_out_fraction=0.1)
    with pytest.raises(DataError, match="no finished shards"):
        Shards.open(folder, "train")
