import mlx.core as mx
import pytest

from afm_mlx.ranks import ALONE, Ranks
from afm_mlx.training.micro_batches import Idle, micro_batches, rows_read

ROWS = mx.arange(10)


def of(rank, size, *, num_rows=10, most_rows=10):
    ranks = Ranks(rank, size)
    return micro_batches(lambda part: (ROWS[:num_rows][part],), num_rows, most_rows, ranks)


def counted(batches):
    return [row for batch in batches if not isinstance(batch, Idle) for row in batch[0].tolist()]


def test_one_process_reads_all_rows_in_even_parts():
    found = micro_batches(lambda part: (ROWS[part],), 10, 4, ALONE)
    assert [batch[0].tolist() for batch in found] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


@pytest.mark.parametrize("num_rows", range(1, 11))
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("most_rows", [1, 2, 10])
def test_every_row_is_counted_once_in_equally_many_micro_batches_everywhere(
    num_rows, size, most_rows
):
    ranks = [of(rank, size, num_rows=num_rows, most_rows=most_rows) for rank in range(size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(row for each in ranks for row in counted(each)) == list(range(num_rows))
    for batch in (batch for batches in ranks for batch in batches):
        assert 1 <= batch[0].size <= most_rows


@pytest.mark.parametrize("num_rows", range(1, 11))
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_rank_builds_only_from_the_rows_it_reads(num_rows, size):
    for rank in range(size):
        read = ROWS[:num_rows][rows_read(num_rows, Ranks(rank, size))].tolist()
        for batch in of(rank, size, num_rows=num_rows, most_rows=2):
            assert set(batch[0].tolist()) <= set(read)


def test_rank_without_a_row_is_idle():
    assert [isinstance(batch, Idle) for batch in of(0, 4, num_rows=3)] == [True]
    assert [isinstance(batch, Idle) for batch in of(3, 4, num_rows=3)] == [False]
