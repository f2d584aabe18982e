"""What a teacher says of rows, against NumPy; who may teach."""

import json

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compression.teacher import LiveTeacher, check_teacher, likeliest, open_teacher
from afm_mlx.corpus.packing import document_ids, document_mask, shift_right
from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.errors import ModelError

from .conftest import TINY, build


def log_softmax(x):
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def teacher(model, tokenizer, **changes):
    how = {"vocab_size": TINY.vocab_size, "eos_id": tokenizer.eos_id, "candidates": 5}
    how |= {"temperature": 1.0, "document_mask": False, "micro_rows": 4, "chunk_bytes": 2**20}
    return LiveTeacher(model, **(how | changes))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_candidates_are_the_highest_logits_with_their_probability_among_all(temperature):
    logits = np.random.default_rng(0).normal(size=(7, 50)).astype(np.float32) * 4
    ids, logps = (np.array(found) for found in likeliest(mx.array(logits), 6, temperature))
    order = np.argsort(-logits, axis=-1)[:, :6]
    wanted = np.take_along_axis(log_softmax(logits / temperature), order, axis=-1)
    assert np.array_equal(ids, order)
    assert logps == pytest.approx(wanted, abs=1e-5)
    assert (np.exp(logps).sum(-1) < 1).all()


def test_all_tokens_as_candidates_have_probability_1_together():
    logits = mx.random.normal((3, 20), key=mx.random.key(0))
    ids, logps = likeliest(logits, 20, 1.0)
    assert np.array_equal(np.sort(np.array(ids)), np.tile(np.arange(20), (3, 1)))
    assert np.exp(np.array(logps)).sum(-1) == pytest.approx(1, abs=1e-5)


def test_a_single_candidate_is_the_likeliest_and_has_probability_1():
    logits = np.random.default_rng(1).normal(size=(7, 50)).astype(np.float32)
    ids, logps = likeliest(mx.array(logits), 1, 3.0)
    assert np.array_equal(np.array(ids)[:, 0], logits.argmax(-1))
    assert np.array_equal(np.array(logps), np.zeros((7, 1)))


@pytest.mark.parametrize("by_document", [False, True])
def test_teacher_says_what_its_logits_are_for_the_same_inputs(tokenizer, rows, by_document):
    model = build()
    said = teacher(model, tokenizer, document_mask=by_document).says(rows)
    inputs = shift_right(mx.array(rows), tokenizer.eos_id)
    mask = document_mask(document_ids(inputs, tokenizer.eos_id)) if by_document else "causal"
    logits = np.array(model.hidden(inputs, mask=mask) @ model.output_weight.T)
    order = np.argsort(-logits, axis=-1)[..., :5]
    assert np.array_equal(said.ids, order)
    wanted = np.exp(np.take_along_axis(log_softmax(logits), order, axis=-1))
    assert said.probabilities == pytest.approx(wanted, rel=6e-3)  # 16 bits of a logarithm
    assert said.logps.dtype == np.float16


def test_teacher_says_the_same_whatever_it_reads_at_once(tokenizer, rows):
    model = build()
    whole = teacher(model, tokenizer).says(rows)
    pieces = teacher(model, tokenizer, micro_rows=1, chunk_bytes=1).says(rows)
    assert np.array_equal(whole.ids, pieces.ids)
    assert whole.logps == pytest.approx(pieces.logps, abs=0.01)


def test_spare_rows_of_the_teacher_are_never_said(tokenizer, rows):
    model = build(vocab_size=400, tied=False)
    model.lm_head.weight = mx.where(mx.arange(400)[:, None] >= 320, 100.0, 1.0) * (
        mx.abs(model.lm_head.weight)
    )
    said = teacher(model, tokenizer, candidates=320).says(rows)
    assert said.ids.max() < 320
    assert said.probabilities.sum(-1) == pytest.approx(1, abs=0.01)


def test_logits_are_float32_also_of_a_bfloat16_teacher(tokenizer, rows):
    model = build()
    model.set_dtype(mx.bfloat16)
    said = teacher(model, tokenizer).says(rows)
    inputs = shift_right(mx.array(rows), tokenizer.eos_id)
    states, table = (
        np.array(array.astype(mx.float32), np.float64)
        for array in (model.hidden(inputs), model.output_weight)
    )
    assert np.array_equal(said.ids[..., 0], (states @ table.T).argmax(-1))


def test_teacher_with_another_tokenizer_is_refused_with_both_hashes(
    tokenizer, tokenizer_folder, tmp_path
):
    save_checkpoint(tmp_path / "teacher", build(), tokenizer_folder)
    file = tmp_path / "teacher" / "tokenizer.json"
    table = json.loads(file.read_text())
    table["added_tokens"].append(dict(table["added_tokens"][-1], id=320, content="<more>"))
    file.write_text(json.dumps(table))
    with pytest.raises(ModelError) as caught:
        check_teacher(tmp_path / "teacher", TINY, tokenizer)
    said = str(caught.value)
    assert f"and the student's {tokenizer.fingerprint[:8]}: the same ids mean other texts" in said
    assert said.startswith("the teacher's tokenizer is ")


def test_shallower_teacher_is_refused_with_both_depths(tokenizer, tokenizer_folder, tmp_path):
    save_checkpoint(tmp_path, build(), tokenizer_folder)
    student = TINY.model_copy(update={"num_layers": 3})
    with pytest.raises(ModelError, match="the teacher has 2 layers, and the student 3"):
        check_teacher(tmp_path, student, tokenizer)


def test_opened_teacher_is_the_checkpoint_in_the_number_format_asked_for(
    tokenizer, tokenizer_folder, rows, tmp_path
):
    model = build()
    save_checkpoint(tmp_path, model, tokenizer_folder)
    how = {"candidates": 5, "temperature": 1.0, "document_mask": False}
    how |= {"micro_rows": 2, "chunk_bytes": 2**20}
    opened = open_teacher(tmp_path, TINY, tokenizer, dtype=mx.float32, **how)
    said, wanted = opened.says(rows), teacher(model, tokenizer, micro_rows=2).says(rows)
    assert np.array_equal(said.ids, wanted.ids)
    assert np.array_equal(said.logps, wanted.logps)
    half = open_teacher(tmp_path, TINY, tokenizer, dtype=mx.bfloat16, **how)
    assert half.model.output_weight.dtype == mx.bfloat16
