"""Tables of matrices, against exact k-means and against what they must keep."""

import itertools

import numpy as np
import pytest

from afm_mlx.compression.tables import dense, fit_tables, nearest
from afm_mlx.errors import ModelError


def matrix(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def weighted_error(weight, found, importance, group_rows):
    left = weight - dense(found.ids, found.tables, group_rows=group_rows)
    importance = np.broadcast_to(importance, weight.shape)
    return (importance * left**2).sum() / (importance * weight**2).sum()


def exact_error(values, weights, size):
    """Least weighted squared error of `size` entries, by trying all cuts of the sorted values."""
    order = np.argsort(values)
    values, weights = values[order].astype(float), weights[order].astype(float)

    def cell(first, end):
        w, v = weights[first:end], values[first:end]
        return (w * (v - (w * v).sum() / w.sum()) ** 2).sum()

    cuts = itertools.combinations(range(1, len(values)), size - 1)
    return min(
        sum(cell(a, b) for a, b in itertools.pairwise((0, *cut, len(values)))) for cut in cuts
    )


@pytest.mark.parametrize("bits", [2, 4])
def test_values_that_are_on_a_table_come_back_exactly(bits):
    draws = np.random.default_rng(bits)
    tables = np.sort(draws.normal(size=(3, 2**bits)).astype(np.float16), 1)
    ids = draws.integers(0, 2**bits, (12, 50)).astype(np.uint8)
    weight = dense(ids, tables, group_rows=4)
    found = fit_tables(weight, bits=bits, group_rows=4)
    assert found.error == 0
    np.testing.assert_array_equal(dense(found.ids, found.tables, group_rows=4), weight)


def test_a_gaussian_is_fitted_as_well_as_four_bits_can():
    # 0.009497 and 0.1175: the least errors of 16 and 4 levels, J. Max, IRE Trans. IT-6 (1960).
    weight = matrix(32, 8_000)
    assert fit_tables(weight, bits=4, group_rows=16).error == pytest.approx(0.009497, rel=0.01)
    assert fit_tables(weight, bits=2, group_rows=16).error == pytest.approx(0.1175, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_small_groups_come_near_the_exact_optimum(seed):
    draws = np.random.default_rng(seed)
    weight = draws.normal(size=(1, 18)).astype(np.float32)
    importance = draws.uniform(0.1, 3, weight.shape).astype(np.float32)
    found = fit_tables(weight, bits=2, group_rows=1, importance=importance)
    best = exact_error(weight[0], importance[0], 4) / (importance * weight**2).sum()
    assert best * 0.999 <= found.error <= best * 1.5


def test_errors_move_to_where_they_weigh_little():
    weight, importance = matrix(16, 400), np.ones(400, np.float32)
    importance[:40] = 100
    plain = fit_tables(weight, bits=2, group_rows=16)
    weighted = fit_tables(weight, bits=2, group_rows=16, importance=importance)
    by_columns = weighted_error(weight, weighted, importance, 16)
    assert weighted.error == pytest.approx(by_columns, rel=1e-4)
    assert by_columns < weighted_error(weight, plain, importance, 16)


def test_importance_by_columns_is_importance_of_every_row():
    weight = matrix(32, 60)
    columns = np.random.default_rng(1).uniform(0.1, 2, 60).astype(np.float32)
    one = fit_tables(weight, bits=4, group_rows=16, importance=columns)
    all_rows = fit_tables(weight, bits=4, group_rows=16, importance=np.tile(columns, (32, 1)))
    np.testing.assert_array_equal(one.ids, all_rows.ids)
    np.testing.assert_array_equal(one.tables, all_rows.tables)


def test_a_last_group_with_fewer_rows_is_fitted_by_its_own_rows():
    weight = matrix(20, 50)
    found = fit_tables(weight, bits=4, group_rows=16)
    alone = fit_tables(weight[16:], bits=4, group_rows=16)
    assert found.tables.shape == (2, 16)
    assert found.ids.shape == weight.shape
    np.testing.assert_array_equal(found.tables[1], alone.tables[0])


def test_every_value_gets_its_nearest_entry():
    weight = matrix(16, 50)
    found = fit_tables(weight, bits=4, group_rows=16)
    left = np.abs(weight[..., None] - found.tables[0].astype(np.float32))
    assert np.abs(weight - dense(found.ids, found.tables, group_rows=16)).max() == pytest.approx(
        left.min(-1).max()
    )
    assert nearest(np.float32([[-9, 9]]), np.float32([[-1, 0, 1]])).tolist() == [[0, 2]]


def test_zeros_and_columns_that_do_not_matter_are_no_trouble():
    assert fit_tables(np.zeros((4, 8), np.float32), bits=4, group_rows=4).error == 0
    silent = fit_tables(matrix(4, 8), bits=2, group_rows=4, importance=np.zeros(8, np.float32))
    assert np.isfinite(silent.tables).all()


def test_values_that_are_not_finite_are_refused_by_name_and_number():
    weight = matrix(4, 8)
    weight[0, 0], weight[1, 2] = np.nan, np.inf
    with pytest.raises(ModelError, match="down_proj holds 2 values that are not finite, of 32"):
        fit_tables(weight, bits=4, group_rows=4, name="down_proj")


def test_values_beyond_float16_are_refused():
    with pytest.raises(ModelError, match="up_proj holds 1e"):
        fit_tables(np.full((4, 8), 1e6, np.float32), bits=4, group_rows=4, name="up_proj")
