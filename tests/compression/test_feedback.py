"""Error feedback: outputs, not weights, are what stays."""

import numpy as np
import pytest

from afm_mlx.compression.feedback import Curvature, fit_with_feedback
from afm_mlx.compression.tables import dense, fit_tables
from afm_mlx.errors import ModelError

ROWS, COLUMNS = 48, 96


@pytest.fixture(scope="module")
def weight():
    return np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)


@pytest.fixture(scope="module")
def moments():
    """Of inputs that depend on each other and differ in scale, as those of a real layer do."""
    draws = np.random.default_rng(1)
    mixed = draws.normal(size=(2_000, COLUMNS)) @ draws.normal(size=(COLUMNS, COLUMNS))
    x = mixed * np.exp(0.7 * draws.normal(size=COLUMNS))
    return (x.T @ x / len(x)).astype(np.float32)


def output_error(weight, palette, moments):
    """Squared error of a layer's outputs, as a part of their squares."""
    left = weight - dense(palette.ids, palette.tables, group_rows=16)
    return ((left @ moments) * left).sum() / ((weight @ moments) * weight).sum()


def test_factors_give_the_moments_back_and_leave_no_cross_terms(moments):
    factors = Curvature.of(moments, damping=0.01)
    unit = factors.upper + np.eye(COLUMNS)
    product = unit * factors.costs @ unit.T
    np.testing.assert_allclose(product, factors.moments, rtol=1e-3, atol=1e-3 * product.max())
    assert not np.tril(factors.upper).any()
    undamped = moments[np.ix_(factors.order, factors.order)]
    extra = factors.moments - undamped
    np.testing.assert_allclose(extra, 0.01 * np.diag(moments).mean() * np.eye(COLUMNS), atol=0.1)


@pytest.mark.parametrize("bits", [2, 4])
def test_feedback_at_least_halves_the_error_of_outputs(weight, moments, bits):
    plain = fit_tables(weight, bits=bits, group_rows=16, importance=np.diag(moments))
    found = fit_with_feedback(weight, moments, bits=bits, group_rows=16)
    assert output_error(weight, found, moments) < output_error(weight, plain, moments) / 2


def test_inputs_that_do_not_depend_on_each_other_need_no_feedback(weight):
    alone = np.diag(np.linspace(2, 1, COLUMNS)).astype(np.float32)
    found = fit_with_feedback(weight, alone, bits=4, group_rows=16, damping=0.0)
    plain = fit_tables(weight, bits=4, group_rows=16, importance=np.diag(alone))
    assert found.error == pytest.approx(plain.error, rel=1e-3)
    np.testing.assert_array_equal(found.ids, plain.ids)


def test_a_refitted_table_is_where_no_entry_can_be_moved_to_gain(weight, moments):
    factors = Curvature.of(moments, damping=0.01)
    found = fit_with_feedback(weight, moments, bits=2, group_rows=16, damping=0.01)
    damped = np.empty_like(factors.moments)
    damped[np.ix_(factors.order, factors.order)] = factors.moments

    def error(tables):
        left = weight - dense(found.ids, tables, group_rows=16)
        return float((left.astype(float) @ damped * left).sum())

    least = error(found.tables)
    for group in range(ROWS // 16):
        for entry in range(4):
            for step in (-0.01, 0.01):
                tables = found.tables.copy()
                tables[group, entry] += step
                assert error(tables) > least


def test_descents_lower_the_error_and_never_raise_it(weight, moments):
    errors = [
        fit_with_feedback(weight, moments, bits=2, group_rows=16, descents=descents).error
        for descents in (0, 1, 2, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.97 * errors[0]


def test_no_single_id_is_better_after_many_descents(weight, moments):
    factors = Curvature.of(moments, damping=0.01)
    found = fit_with_feedback(weight, moments, bits=2, group_rows=16, damping=0.01, descents=40)
    damped = np.empty_like(factors.moments)
    damped[np.ix_(factors.order, factors.order)] = factors.moments
    left = weight - dense(found.ids, found.tables, group_rows=16)
    pulls = left @ damped
    tables = found.tables.astype(np.float32)[np.arange(ROWS) // 16]  # [O, T]
    moves = tables[:, None] - dense(found.ids, found.tables, group_rows=16)[..., None]
    gains = 2 * moves * pulls[..., None] - moves**2 * np.diag(damped)[:, None]
    assert gains.max() < 1e-3 * np.einsum("oi,oi->", pulls, left) / ROWS


def test_tables_are_in_ascending_order(weight, moments):
    found = fit_with_feedback(weight, moments, bits=4, group_rows=16)
    assert (np.diff(found.tables.astype(np.float32), axis=1) >= 0).all()


def test_the_error_that_is_told_is_that_of_the_damped_outputs(weight, moments):
    found = fit_with_feedback(weight, moments, bits=4, group_rows=16, damping=1e-6)
    assert found.error == pytest.approx(output_error(weight, found, moments), rel=1e-2)


def test_outputs_that_matter_more_get_the_smaller_errors(weight, moments):
    importance = np.ones(ROWS, np.float32)
    importance[:4] = 100

    def errors_of_first(palette):
        left = (weight - dense(palette.ids, palette.tables, group_rows=16))[:4]
        return float((left @ moments * left).sum())

    plain = fit_with_feedback(weight, moments, bits=2, group_rows=16)
    found = fit_with_feedback(weight, moments, bits=2, group_rows=16, importance=importance)
    assert errors_of_first(found) < errors_of_first(plain)


def test_rows_that_do_not_fill_a_group_and_inputs_never_seen_are_no_trouble(weight, moments):
    silent = moments.copy()
    silent[5], silent[:, 5] = 0, 0
    found = fit_with_feedback(weight[:20], silent, bits=4, group_rows=16)
    assert found.ids.shape == (20, COLUMNS)
    assert found.error < 0.01
    nothing = fit_with_feedback(weight, np.zeros_like(moments), bits=4, group_rows=16)
    assert np.isfinite(nothing.tables).all()


def test_moments_that_are_not_finite_are_refused_by_name(weight, moments):
    bad = moments.copy()
    bad[0, 0] = np.inf
    with pytest.raises(ModelError, match="the inputs of up_proj are not finite"):
        fit_with_feedback(weight, bad, bits=4, group_rows=16, name="up_proj")


def test_damping_that_does_not_make_up_for_few_texts_is_refused_by_its_value(weight):
    x = np.random.default_rng(2).normal(size=(10, COLUMNS)).astype(np.float32)
    few = x.T @ x / len(x)
    assert fit_with_feedback(weight, few, bits=4, group_rows=16).error < 0.01
    with pytest.raises(ModelError, match=r"inputs of up_proj .* damping of 1e-12") as caught:
        fit_with_feedback(weight, few, bits=4, group_rows=16, damping=1e-12, name="up_proj")
    assert "--set quantize.damping=" in caught.value.hint
