"""What a teacher has said, and what of tables is trained."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from afm_mlx.compression.recover import (
    KeptLabels,
    store_tables,
    unfreeze_tables,
    won_back,
)
from afm_mlx.compression.teacher import LiveTeacher
from tests.compression.conftest import build


@dataclass
class Lesson:
    inputs: np.ndarray
    documents: np.ndarray | None = None


def live(model, eos_id=0, **changes):
    settings = {"vocab_size": 320, "candidates": 5, "temperature": 1.0, "micro_rows": 2}
    settings |= {"document_mask": False, "chunk_bytes": 2**20, "eos_id": eos_id}
    return LiveTeacher(model, **settings | changes)


def test_a_teacher_is_asked_once_and_its_words_are_kept(tmp_path, rows):
    asked = []

    class Counting(LiveTeacher):
        def continues(self, inputs, documents):
            asked.append(len(inputs))
            return super().continues(inputs, documents)

    teacher = live(build())
    teacher.__class__ = Counting
    labels = KeptLabels(tmp_path / "labels", teacher, lambda step: Lesson(rows[step : step + 2]))
    first, again = labels.step(1), labels.step(1)
    other = KeptLabels(tmp_path / "labels", live(build(seed=9)), lambda step: Lesson(rows)).step(1)
    assert asked == [2]
    for ids, shares in (again, other):
        assert np.array_equal(ids, first[0])
        assert np.array_equal(shares, first[1])
    labels.forget_teacher()
    assert np.array_equal(labels.step(1)[0], first[0])


def test_what_a_teacher_says_of_inputs_is_what_it_says_of_their_targets(tokenizer, rows):
    eos = tokenizer.eos_id
    teacher = live(build(), eos)
    inputs = np.concatenate([np.full((len(rows), 1), eos, np.int32), rows[:, :-1]], axis=1)
    said, of_inputs = teacher.says(rows), teacher.continues(inputs, None)
    assert np.array_equal(said.ids, of_inputs.ids)
    assert np.array_equal(said.logps, of_inputs.logps)


def test_documents_of_a_row_do_not_see_each_other(rows):
    teacher = live(build())
    inputs, documents = rows[:1].copy(), np.array([[1] * 8 + [2] * 8], np.int32)
    before = teacher.continues(inputs, documents)
    inputs[0, :8] += 1
    after = teacher.continues(inputs, documents)
    assert np.array_equal(before.ids[0, 8:], after.ids[0, 8:])
    assert not np.array_equal(before.logps[0, :8], after.logps[0, :8])


def test_share_won_back():
    assert won_back(0.4, 0.1) == pytest.approx(0.75)
    assert won_back(0.4, 0.5) == pytest.approx(-0.25)
    assert won_back(0.0, 0.0) == 0


def test_tables_and_gains_are_trained_and_nothing_else(palettized):
    unfreeze_tables(palettized)
    trained = dict(tree_flatten(palettized.trainable_parameters()))
    kinds = {name.rpartition(".")[2] for name in trained}
    assert kinds == {"tables", "weight"}
    assert all("norm" in name for name in trained if name.endswith("weight"))
    assert {array.dtype for array in trained.values()} == {mx.float32}
    store_tables(palettized, mx.bfloat16)
    assert not tree_flatten(palettized.trainable_parameters())
    for name, array in tree_flatten(palettized.parameters()):
        if name.endswith("tables"):
            assert array.dtype == mx.float16
        if "norm" in name:
            assert array.dtype == mx.bfloat16
