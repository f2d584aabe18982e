"""Packing: every example once, none cut, and all of it a function of the seed and the step."""

from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.corpus.packing import document_mask
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.settings.sections import Shape
from afm_mlx.text.conversations import Rendered
from afm_mlx.training.examples import Examples, PackedExamples, fill, pack
from afm_mlx.training.objectives import next_token_loss


def examples(lengths, first=1):
    """One example of each length; its ids are its number, and all but its first third is said."""
    return Examples.of(
        Rendered([number] * length, [int(at >= length / 3) for at in range(length)])
        for number, length in enumerate(lengths, start=first)
    )


def packed(sources, weights=None, **changed):
    settings = {"row_tokens": 16, "rows_per_step": 2, "epochs": 1, "seed": 3} | changed
    return PackedExamples(sources, weights or dict.fromkeys(sources, 1.0), **settings)


def seen(rows):
    """How often each example appears, by the id that it consists of."""
    counts = Counter()
    for step in range(1, rows.steps + 1):
        found = rows.rows(step)
        for ids, documents in zip(found.inputs, found.documents, strict=True):
            for number in range(1, documents.max() + 1):
                counts[int(ids[documents == number][0])] += 1
    return counts


def test_each_goes_into_the_fullest_row_that_has_room():
    assert pack([7, 5, 4, 3, 6, 1], 10) == [[0, 3], [1, 2, 5], [4]]
    assert pack([], 10) == []
    assert pack([10, 10], 10) == [[0], [1]]


def test_rows_hold_examples_one_after_the_other():
    rows = fill({"a": examples([3, 4])}, [[("a", 0), ("a", 1)]], num_rows=2, row_tokens=8)
    assert rows.inputs.tolist() == [[1, 1, 1, 2, 2, 2, 2, 0], [0] * 8]
    assert rows.targets.tolist() == [[1, 1, 2, 2, 2, 2, 0, 0], [0] * 8]
    assert rows.weights.tolist() == [[1, 1, 0, 0, 1, 1, 0, 0], [0] * 8]
    assert rows.documents.tolist() == [[1, 1, 1, 2, 2, 2, 2, 0], [0] * 8]


def test_a_full_row_loses_no_target():
    rows = fill({"a": examples([8])}, [[("a", 0)]], num_rows=1, row_tokens=8)
    assert rows.targets.tolist() == [[1] * 7 + [0]]
    assert rows.weights.tolist() == [[0, 0, 1, 1, 1, 1, 1, 0]]


def test_the_first_token_of_an_example_is_never_learned_from_the_one_before():
    said = Examples.of([Rendered([1, 2], [1, 1]), Rendered([3, 4], [1, 1])])
    rows = fill({"a": said}, [[("a", 0), ("a", 1)]], num_rows=1, row_tokens=4)
    assert rows.weights.tolist() == [[1, 0, 1, 0]]


def test_an_epoch_sees_every_example_once_and_rows_are_full():
    lengths = np.random.default_rng(0).integers(2, 12, 300).tolist()
    rows = packed({"a": examples(lengths[:200]), "b": examples(lengths[200:], first=201)})
    assert seen(rows) == dict.fromkeys(range(1, 301), 1)
    assert rows.tokens == sum(lengths)
    assert rows.filled > 0.95


def test_an_epoch_has_an_order_of_its_own_that_the_seed_decides():
    source = {"a": examples([5] * 40)}
    two, again, other = (packed(source, epochs=2, seed=seed) for seed in (1, 1, 2))
    half = two.steps // 2
    assert two.rows(1).inputs.tolist() != two.rows(half + 1).inputs.tolist()
    assert two.rows(half).inputs.tolist() == again.rows(half).inputs.tolist()
    assert two.rows(1).inputs.tolist() != other.rows(1).inputs.tolist()


def test_weights_are_passes_in_an_epoch_and_halves_take_turns():
    sources = {"a": examples([4] * 10), "b": examples([4] * 10, first=11)}
    once = seen(packed(sources, {"a": 2.0, "b": 0.5}))
    assert {once[number] for number in range(1, 11)} == {2}
    assert sorted(once[number] for number in range(11, 21)) == [0] * 5 + [1] * 5
    twice = seen(packed(sources, {"a": 2.0, "b": 0.5}, epochs=2))
    assert {twice[number] for number in range(11, 21)} == {1}


def test_the_last_step_may_have_empty_rows():
    rows = packed({"a": examples([16] * 3)})
    assert rows.steps == 2
    assert rows.rows(2).documents[1].tolist() == [0] * 16


def test_packed_examples_have_the_losses_and_gradients_of_single_ones():
    shape = Shape(
        num_layers=2,
        hidden_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=32,
        vocab_size=32,
        rope_base=10_000,
        norm_eps=1e-5,
        max_tokens=32,
    )
    model = Decoder(shape)
    initialize(model, 0)
    generator = np.random.default_rng(1)
    said = Examples.of(
        Rendered(generator.integers(0, 32, length).tolist(), [0, 0] + [1] * (length - 2))
        for length in (5, 9, 4, 12)
    )

    def loss(plan, row_tokens):
        rows = fill({"a": said}, plan, num_rows=len(plan), row_tokens=row_tokens)
        return next_token_loss(
            model,
            mx.array(rows.inputs),
            mx.array(rows.targets),
            mx.array(rows.weights),
            mask=document_mask(mx.array(rows.documents)),
            z_loss=0.0,
            chunk_bytes=2**20,
        )

    together, sums = loss([[("a", 0), ("a", 1)], [("a", 2), ("a", 3)]], 16)
    alone = [loss([[("a", number)]], 16) for number in range(4)]
    assert together.item() == pytest.approx(sum(one.item() for one, _ in alone), rel=1e-5)
    assert sums["tokens"].item() == said.learned == 22
