"""Where adapters begin, and what a teacher has said."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from afm_mlx.compression.recover import (
    KeptLabels,
    leading_directions,
    leading_inputs,
    set_first_factors,
    store_tables,
    unfreeze_tables,
    won_back,
)
from afm_mlx.compression.teacher import LiveTeacher
from afm_mlx.decoder.lora import LoraLinear, add_lora
from afm_mlx.decoder.palette import linears
from tests.compression.conftest import build


@pytest.fixture
def moment():
    """E[x x^T] of inputs with three large directions of very different size."""
    basis, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(20, 20)))
    sizes = np.array([900.0, 30.0, 5.0] + [0.01] * 17)
    return basis, sizes, mx.array(((basis * sizes) @ basis.T).astype(np.float32))


def test_leading_directions_are_those_of_the_moment(moment):
    basis, _, matrix = moment
    found = np.array(leading_directions(matrix, 3, key=mx.random.key(0)))
    found /= np.linalg.norm(found, axis=0)
    assert np.abs((found * basis[:, :3]).sum(0)) == pytest.approx(np.ones(3), abs=1e-4)


def test_inputs_are_as_large_along_each_of_them(moment):
    _, sizes, matrix = moment
    a = leading_directions(matrix, 3, key=mx.random.key(0))
    squares = mx.diag(a.T @ matrix @ a)  # E[(x a)^2]
    assert squares.tolist() == pytest.approx([sizes.mean()] * 3, rel=1e-3)


def test_directions_that_do_not_exist_are_zeros(moment):
    found = leading_directions(moment[2], 24, key=mx.random.key(0))
    assert found.shape == (20, 24)
    assert not mx.any(found[:, 20:])
    assert mx.isfinite(found).all()


def test_an_adapter_that_begins_with_the_inputs_changes_nothing():
    model, tokens = build(), mx.array([[3, 1, 4, 1, 5, 9, 2, 6]] * 3)
    before = model(tokens)
    factors = leading_inputs(model, [tokens], rank=6, seed=0)
    assert set(factors) == set(linears(model))
    add_lora(model, rank=4, scale=1.0, seed=0)
    set_first_factors(model, factors)
    for name, layer in linears(model).items():
        assert isinstance(layer, LoraLinear)
        assert mx.array_equal(layer.lora_a, factors[name][:, :4])
    assert mx.array_equal(model(tokens), before)


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
