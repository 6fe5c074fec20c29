import pickle

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from estimators.context import Table, location_and_scale, stratified_sample


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = rng.integers(3, size=(60, 2)).astype(np.float32)
    x[::7, 0] = np.nan
    return x, rng.integers(2, size=60)


def test_equal_rows_are_one_row_with_their_number_as_weight(rows):
    x, y = rows
    table = Table.of(x, y)
    keys = [tuple(np.append(row, label)) for row, label in zip(np.nan_to_num(x, nan=9.0), y, strict=True)]
    assert len(table) == len(set(keys))
    assert table.weight.sum() == 60
    np.testing.assert_array_equal(np.nan_to_num(table.x[table.source], nan=9.0), np.nan_to_num(x, nan=9.0))
    np.testing.assert_array_equal(table.y[table.source], y)


def test_weights_are_copies_and_the_order_of_rows_is_forgotten(rows):
    x, y = rows
    weight = np.random.default_rng(1).integers(1, 4, size=60)
    order = np.random.default_rng(2).permutation(60)
    tables = [Table.of(x, y, weight), Table.of(np.repeat(x, weight, 0), np.repeat(y, weight)),
              Table.of(x[order], y[order], weight[order])]
    for other in tables[1:]:
        np.testing.assert_array_equal(other.x, tables[0].x)
        np.testing.assert_array_equal(other.y, tables[0].y)
        np.testing.assert_array_equal(other.weight, tables[0].weight)


def test_minus_zero_is_zero():
    assert len(Table.of(np.array([[0.0], [-0.0]], dtype=np.float32), np.zeros(2))) == 1


def test_ranks_are_shares_of_the_table_below():
    x = np.array([[3.0], [1.0], [2.0], [2.0], [np.nan]], dtype=np.float32)
    ranks = Table.of(x, np.arange(5)).ranks(torch.from_numpy(x)).numpy()[:, 0]
    expected = np.sqrt(3) * (2 * (rankdata(x[:4, 0]) - 0.5) / 4 - 1)
    np.testing.assert_allclose(ranks[:4], expected, atol=1e-6)
    assert np.isnan(ranks[4])
    between = Table.of(x, np.arange(5)).ranks(torch.tensor([[2.5], [-9.0], [9.0]])).numpy()[:, 0]
    np.testing.assert_allclose(between, [(expected[0] + expected[2]) / 2, expected[1], expected[0]], atol=1e-6)


def test_pickles_leave_out_what_can_be_computed_again():
    table = Table.of(np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32), np.zeros(1000, dtype=int))
    before = len(pickle.dumps(table))
    table.ranks(torch.from_numpy(table.x))
    assert len(pickle.dumps(table)) == before


def test_location_and_scale_are_weighted():
    y, weight = np.array([1.0, 2.0, 4.0]), np.array([1, 3, 2])
    copies = np.repeat(y, weight)
    assert location_and_scale(y, weight) == pytest.approx((copies.mean(), copies.std()))
    assert location_and_scale(np.full(3, 5.0), weight) == (5.0, 1.0)


def test_a_stratified_sample_keeps_shares_and_rare_strata():
    strata = np.repeat([0, 1, 2], [700, 295, 5])
    sample = stratified_sample(strata, 100, np.random.RandomState(0))
    np.testing.assert_allclose(np.bincount(strata[sample]), [70, 29, 1], atol=1)
    assert (np.diff(sample) > 0).all()
