"""Label files: what they cost, what they belong to, and that an interrupted run goes on."""

import json
import shutil

import numpy as np
import pytest

from afm_mlx.compression import labels as labels_room
from afm_mlx.compression.labels import LabelledTeacher, Labels, write_labels
from afm_mlx.compression.teacher import Said
from afm_mlx.corpus.documents import Document
from afm_mlx.corpus.shards import Shards, write_shards
from afm_mlx.errors import DataError

ROW = 16


class Parrot:
    """A teacher who finds the token itself likeliest, then the K - 1 after it; notes its rows."""

    def __init__(self, candidates=1):
        self.candidates, self.read = candidates, []

    def says(self, rows, places):
        self.read += places
        ids = rows[..., None] + np.arange(self.candidates, dtype=np.int32)
        logps = np.where(np.arange(self.candidates) == 0, -0.5, -3.0) + 0 * ids
        if self.candidates == 1:
            logps = np.zeros_like(logps)
        return Said(ids, logps.astype(np.float16))


def write(shards, out, candidates=1, teacher=None, facts=None, **changes):
    how = {"row_tokens": ROW, "candidates": candidates} | changes
    teacher = teacher or Parrot(candidates)
    return write_labels(teacher, shards, out, facts=facts or {"teacher": "parrot"}, **how)


def reopen(folder, shards, candidates=1, row_tokens=ROW):
    return Labels.open(folder, shards, row_tokens=row_tokens, candidates=candidates)


@pytest.fixture
def small_files(monkeypatch):
    """Files of four rows, so that a few hundred tokens fill several."""
    monkeypatch.setattr(labels_room, "FILE_TOKENS", 4 * ROW)


def test_labels_cost_2_bytes_a_token(shards, tmp_path, small_files):
    written = write(shards, tmp_path)
    tokens = shards.num_tokens // ROW * ROW
    assert written == {"tokens": tokens, "bytes": 2 * tokens}
    assert sum(path.stat().st_size for path in tmp_path.glob("*.ids")) == 2 * tokens
    assert not list(tmp_path.glob("*.logps"))
    assert len(list(tmp_path.glob("*.ids"))) > 3


def test_labels_of_a_large_vocabulary_cost_4_bytes_a_token(tmp_path):
    class Wide:
        vocab_size, fingerprint, eos_id = 70_000, "b" * 64, 69_999

        def encode_batch(self, texts):
            return [[69_000 + i % 900 for i in range(len(text))] for text in texts]

    write_shards(
        [Document("x" * 40, "wide", "0")], Wide(), tmp_path / "wide", held_out_fraction=0.0
    )
    shards = Shards.open(tmp_path / "wide", "train", "b" * 64)
    assert write(shards, tmp_path / "labels") == {"tokens": 32, "bytes": 4 * 32}
    ids, _ = reopen(tmp_path / "labels", shards).row(1)
    assert np.array_equal(ids[:, 0], shards.read(16, 32))


@pytest.mark.parametrize("candidates", [1, 3])
def test_what_was_said_of_every_row_comes_back(shards, tmp_path, small_files, candidates):
    write(shards, tmp_path, candidates)
    labels = reopen(tmp_path, shards, candidates)
    numbers = list(range(shards.num_tokens // ROW))
    rows = np.stack([shards.read(i * ROW, (i + 1) * ROW) for i in numbers]).astype(np.int32)
    places = [("poems", number) for number in numbers]
    wanted = Parrot(candidates).says(rows, places)
    said = LabelledTeacher({"poems": labels}).says(rows, places)
    assert np.array_equal(said.ids, wanted.ids)
    assert np.array_equal(said.logps, wanted.logps)
    assert np.array_equal(said.probabilities, wanted.probabilities)


@pytest.mark.parametrize("candidates", [1, 3])
def test_interrupted_labels_go_on_with_the_file_that_was_not_finished(
    shards, tmp_path, small_files, candidates
):
    class Interrupted(Parrot):
        def says(self, rows, places):
            if len(self.read) >= 12:
                raise KeyboardInterrupt
            return super().says(rows, places)

    write(shards, tmp_path / "whole", candidates)
    with pytest.raises(KeyboardInterrupt):
        write(shards, tmp_path / "cut", candidates, teacher=Interrupted(candidates))
    (tmp_path / "cut" / "00003.ids").write_bytes(b"half")  # as a kill may leave it
    with pytest.raises(DataError, match=r"labels.json is missing: no finished labels"):
        reopen(tmp_path / "cut", shards, candidates)
    rest = Parrot(candidates)
    write(shards, tmp_path / "cut", candidates, teacher=rest)
    assert rest.read[0] == ("poems", 12)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes(), path.name


def test_progress_is_told_in_tokens(shards, tmp_path, small_files):
    told = []
    write(shards, tmp_path, done=lambda tokens, total: told.append((tokens, total)))
    total = shards.num_tokens // ROW * ROW
    assert told[0] == (4 * ROW, total)
    assert told[-1] == (total, total)


def test_labels_of_other_shards_are_refused_with_both_checksums(shards, tokenizer, tmp_path):
    write(shards, tmp_path / "labels")
    documents = [Document(f"The cat sat on mat {i}.\n", "poems", str(i)) for i in range(40)]
    write_shards(documents, tokenizer, tmp_path / "poems", held_out_fraction=0.0)
    other = Shards.open(tmp_path / "poems", "train", tokenizer.fingerprint)
    wanted = f"are of shards {shards.checksum[:8]}, and this is {other.checksum[:8]}"
    with pytest.raises(DataError, match=wanted):
        reopen(tmp_path / "labels", other)


def test_labels_of_other_settings_are_refused_with_both_values(shards, tmp_path):
    write(shards, tmp_path)
    with pytest.raises(DataError, match="are of rows of 16, and this is 8"):
        reopen(tmp_path, shards, row_tokens=8)
    with pytest.raises(DataError, match="are of a number of candidates of 1, and this is 3"):
        reopen(tmp_path, shards, candidates=3)


def test_labels_of_another_tokenizer_are_refused_with_both_hashes(shards, tmp_path):
    write(shards, tmp_path)
    index = json.loads((tmp_path / "labels.json").read_text())
    (tmp_path / "labels.json").write_text(json.dumps(index | {"tokenizer": "0" * 64}))
    wanted = f"are of tokenizer 00000000, and this is {shards.tokenizer_fingerprint[:8]}"
    with pytest.raises(DataError, match=wanted):
        reopen(tmp_path, shards)


def test_folder_begun_by_another_teacher_is_refused_with_both(shards, tmp_path):
    write(shards, tmp_path, facts={"teacher": "parrot"})
    with pytest.raises(DataError, match=r"are of a teacher .*'parrot'.*, and this is .*'owl'"):
        write(shards, tmp_path, facts={"teacher": "owl"})


def test_changed_file_is_refused_with_both_checksums(shards, tmp_path):
    write(shards, tmp_path)
    data = bytearray((tmp_path / "00000.ids").read_bytes())
    data[10] ^= 1
    (tmp_path / "00000.ids").write_bytes(data)
    with pytest.raises(
        DataError, match=r"00000.ids changed since it was written: SHA-256 \w{8}, e"
    ):
        reopen(tmp_path, shards)
    (tmp_path / "00000.ids").unlink()
    with pytest.raises(DataError, match=r"label file .*00000.ids is missing"):
        reopen(tmp_path, shards)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}'])
def test_damaged_index_is_named(shards, tmp_path, text):
    write(shards, tmp_path)
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match=r"labels.json is damaged") as caught:
        reopen(tmp_path, shards)
    assert caught.value.hint == "write the labels again: afm run RECIPE --from labels"


def test_labels_may_be_moved(shards, tmp_path):
    write(shards, tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert reopen(tmp_path / "there", shards).row(0)[0].shape == (ROW, 1)
