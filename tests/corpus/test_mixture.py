from collections import Counter

import numpy as np
import pytest

from afm_mlx.corpus.documents import Document
from afm_mlx.corpus.mixture import BLOCK_ROWS, Rows, held_out_rows, permute
from afm_mlx.corpus.shards import Shards, write_shards
from afm_mlx.errors import DataError

ROW = 16


@pytest.fixture
def shards(tmp_path, tokenizer):
    """Three sources of 700, 90 and 10 rows; every row of tokens is different."""
    opened = {}
    for name, rows in (("web", 700), ("code", 90), ("math", 10)):
        text = "".join(f"{name[:4]:4} {number:010d}\n" for number in range(rows))
        document = Document(text, name, name)
        write_shards([document], tokenizer, tmp_path / name, held_out_fraction=0)
        opened[name] = Shards.open(tmp_path / name, "train")
    return opened


WEIGHTS = {"web": 0.7, "code": 0.2, "math": 0.1}


@pytest.mark.parametrize("size", [*range(1, 70), 1_000, 1_024, 1_025, 2_048, 2_049, 65_537])
def test_permute_reaches_every_index_once(size):
    for key in (0, 1, 2**64 - 1):
        moved = permute(np.arange(size), size, key)
        assert np.array_equal(np.sort(moved), np.arange(size))


@pytest.mark.parametrize("size", [10**9, 2**39 + 1, 2**40])
def test_permute_stays_inside_and_apart_in_huge_ranges(size):
    some = np.linspace(0, size - 1, 50_000, dtype=np.int64)
    moved = permute(some, size, key=5)
    assert moved.min() >= 0
    assert moved.max() < size
    assert len(np.unique(moved)) == len(np.unique(some))
    # The mean of n uniform numbers below `size` has deviation size / sqrt(12 n): 5 of them.
    assert abs(moved.mean() / size - 0.5) < 5 / np.sqrt(12 * 50_000)


def test_permute_gives_one_index_what_it_gives_in_an_array():
    together = permute(np.arange(100).reshape(10, 10), 100, key=3)
    assert together.shape == (10, 10)
    assert [int(permute(i, 100, key=3)) for i in range(100)] == together.ravel().tolist()


def test_permute_never_changes():
    # Runs that were begun with an older version resume with the same rows.
    assert permute(np.arange(10), 10, key=1).tolist() == [8, 4, 3, 7, 0, 1, 5, 9, 6, 2]
    assert permute(np.arange(3), 10**9, key=2).tolist() == [928215880, 550311703, 237716901]


def test_permutations_of_four_are_about_equally_frequent():
    counts = Counter(tuple(permute(np.arange(4), 4, key).tolist()) for key in range(7_200))
    assert len(counts) == 24
    # 300 each, deviation 17.
    assert all(abs(count - 300) < 85 for count in counts.values())


@pytest.mark.parametrize("size", [1_000, 1_500])  # one that is sorted, one that is walked
def test_an_index_goes_everywhere_about_equally_often(size):
    counts = np.zeros((10, 10))
    for key in range(600):
        tenths = permute(np.arange(0, size, size // 10), size, key) * 10 // size
        counts[np.arange(10), tenths] += 1
    # 60 in each of 100 cells, deviation 7.3.
    assert abs(counts - 60).max() < 37


def test_rows_are_a_function_of_seed_and_place(shards):
    rows = Rows(shards, WEIGHTS, row_tokens=ROW, seed=1)
    whole = rows.rows(900, 300)  # over the border of a block
    assert whole.shape == (300, ROW)
    assert whole.dtype == np.int32
    for size in (1, 7, 128):
        starts = range(900, 1_200, size)
        pieces = [rows.rows(start, min(size, 1_200 - start)) for start in starts]
        assert np.array_equal(np.concatenate(pieces), whole)
    again = Rows(dict(reversed(shards.items())), WEIGHTS, row_tokens=ROW, seed=1)
    assert np.array_equal(again.rows(900, 300), whole)
    other = Rows(shards, WEIGHTS, row_tokens=ROW, seed=2)
    assert not np.array_equal(other.rows(900, 300), whole)
    assert rows.rows(5, 0).shape == (0, ROW)


def test_a_row_is_the_tokens_of_its_place(shards):
    rows = Rows(shards, WEIGHTS, row_tokens=ROW, seed=1)
    for tokens, (name, row) in zip(rows.rows(0, 50), rows.places(0, 50), strict=True):
        assert bytes(tokens.tolist()).decode() == f"{name:4} {row:010d}\n"


@pytest.mark.parametrize(
    "weights", [WEIGHTS, {"web": 1, "code": 1, "math": 1}, {"web": 5.0, "math": 0.02}]
)
def test_shares_are_exact_in_every_block(shards, weights):
    rows = Rows(shards, weights, row_tokens=ROW, seed=3)
    for block in (0, 5):
        names = Counter(name for name, _ in rows.places(block * BLOCK_ROWS, BLOCK_ROWS))
        for name, weight in weights.items():
            share = weight / sum(weights.values())
            assert abs(names[name] / BLOCK_ROWS - share) < 1 / BLOCK_ROWS


def test_the_smallest_weight_still_gets_a_row(shards):
    rows = Rows(shards, {"web": 1, "math": 1e-9}, row_tokens=ROW, seed=3)
    assert rows.slots == {"web": BLOCK_ROWS - 1, "math": 1}


def test_no_row_comes_again_before_all_rows_of_its_source_came(shards):
    rows = Rows(shards, WEIGHTS, row_tokens=ROW, seed=4)
    places = rows.places(0, 3 * BLOCK_ROWS)
    for name, size in rows.source_rows.items():
        visits = [row for source, row in places if source == name]
        epochs = [visits[at : at + size] for at in range(0, len(visits) - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(epochs) >= 3
        assert epochs[0] != epochs[1] != epochs[2]


def test_epochs_count_passes_over_each_source(shards):
    rows = Rows(shards, WEIGHTS, row_tokens=ROW, seed=4)
    for num_rows in (0, 10, BLOCK_ROWS, 2_500):
        names = Counter(name for name, _ in rows.places(0, num_rows))
        expected = {name: names[name] / size for name, size in rows.source_rows.items()}
        assert rows.epochs(num_rows) == pytest.approx(expected)


def test_a_place_far_away_is_reached_at_once(shards):
    rows = Rows(shards, WEIGHTS, row_tokens=ROW, seed=4)
    assert rows.rows(10**12, 3).shape == (3, ROW)


def test_a_source_below_one_row_is_an_error_with_both_numbers(shards):
    with pytest.raises(DataError, match="'math' has 161 tokens to train on, one row needs 512"):
        Rows(shards, WEIGHTS, row_tokens=512, seed=0)


def test_a_source_without_shards_is_an_error(shards):
    with pytest.raises(DataError, match="names 'books', and there are no shards of it") as caught:
        Rows(shards, {"books": 1.0}, row_tokens=ROW, seed=0)
    assert caught.value.hint == "there are shards of code, math, web"


def test_sources_of_two_tokenizers_are_an_error(shards, tmp_path, wide_tokenizer):
    document = Document("text " * 100, "other", "1")
    write_shards([document], wide_tokenizer, tmp_path / "other", held_out_fraction=0)
    mixed = {**shards, "other": Shards.open(tmp_path / "other", "train")}
    with pytest.raises(DataError, match="2 different tokenizers: aaaaaaaa, bbbbbbbb"):
        Rows(mixed, {"web": 1, "other": 1}, row_tokens=ROW, seed=0)


def test_held_out_rows_are_evenly_spaced_and_know_their_bytes(shards):
    found = held_out_rows(shards["web"], row_tokens=ROW, span_tokens=ROW, most_tokens=7 * ROW)
    numbers = [int(bytes(row.tolist())[5:]) for row in found.targets]
    assert numbers == [0, 100, 200, 300, 400, 500, 600]
    assert found.text_bytes == pytest.approx(7 * ROW)
    every = held_out_rows(shards["web"], row_tokens=ROW, span_tokens=ROW, most_tokens=10**6)
    assert every.targets.shape == (700, ROW)
    assert every.text_bytes == pytest.approx(shards["web"].text_bytes)


@pytest.mark.parametrize("row_tokens", [4, 16, 24, 64, 100])
def test_rows_of_any_length_are_cut_from_the_same_held_out_text(shards, row_tokens):
    reference = held_out_rows(shards["web"], row_tokens=64, span_tokens=64, most_tokens=640)
    found = held_out_rows(shards["web"], row_tokens=row_tokens, span_tokens=64, most_tokens=640)
    assert found.targets[found.counts == 1].tolist() == reference.targets.ravel().tolist()
    assert found.text_bytes == reference.text_bytes
    assert not found.targets[found.counts == 0].any()


def test_held_out_text_shorter_than_a_span_is_used_whole(shards):
    found = held_out_rows(shards["math"], row_tokens=100, span_tokens=10**6, most_tokens=1)
    assert found.counts.sum() == shards["math"].num_tokens
    assert found.text_bytes == pytest.approx(shards["math"].text_bytes)


def test_empty_held_out_split_is_an_error(shards):
    empty = Shards.open(shards["web"].folder, "held_out")
    with pytest.raises(DataError, match="the split 'held_out' is empty") as caught:
        held_out_rows(empty, row_tokens=ROW, span_tokens=ROW, most_tokens=4)
    assert "data.web.held_out_fraction" in caught.value.hint
