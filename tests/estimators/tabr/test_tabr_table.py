"""How TabR reads tables: normal scores, zeros and ones; rows in canonical order; their division."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, spearmanr
from sklearn.preprocessing import QuantileTransformer

from estimators.tabr_rows import distinct_rows, split_rows, weight_of_copies
from estimators.tabr_table import TabRTable


def state(seed=0):
    return np.random.RandomState(seed)


class TestDistinctRows:
    def test_sets_are_those_of_equal_rows(self):
        x = np.random.default_rng(0).integers(0, 3, (200, 3)).astype(np.float32)
        first, of_row = distinct_rows(x)
        np.testing.assert_array_equal(x[first][of_row], x)
        assert len(first) == len(np.unique(x, axis=0)) == len(np.unique(x[first], axis=0))
        for member, row in enumerate(first):
            assert row == np.flatnonzero(of_row == member)[0]       # the first of its set

    def test_order_of_the_rows_does_not_matter(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(100, 2)).round(1)
        order = rng.permutation(100)
        np.testing.assert_array_equal(x[order][distinct_rows(x[order])[0]], x[distinct_rows(x)[0]])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_zeros_and_gaps_of_any_sign_are_equal(self, dtype):
        x = np.array([[0.0, 1.0], [-0.0, 1.0], [np.nan, 1.0], [-np.nan, 1.0], [1.0, 0.0]], dtype=dtype)
        of_row = distinct_rows(x)[1]
        assert of_row[0] == of_row[1]
        assert of_row[2] == of_row[3]
        assert len(set(of_row)) == 3

    def test_one_column_one_row_and_strides(self):
        assert [part.tolist() for part in distinct_rows(np.zeros((1, 1)))] == [[0], [0]]
        x = np.asfortranarray(np.repeat(np.arange(6.0).reshape(3, 2), 2, axis=0))
        np.testing.assert_array_equal(distinct_rows(x)[1], distinct_rows(np.ascontiguousarray(x))[1])
        assert len(distinct_rows(x[::2, ::-1])[0]) == 3


class TestSplitRows:
    def test_every_row_is_on_one_side_and_groups_stay_together(self):
        rng = np.random.default_rng(0)
        label, group = rng.normal(size=300), rng.integers(0, 90, 300)
        fit, validation = split_rows(label, group, 0.2, False, state())
        assert sorted([*fit, *validation]) == list(range(300))
        assert not set(group[fit]) & set(group[validation])
        assert len(set(group[validation])) == round(0.2 * len(set(group)))

    @pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 0.9, 0.9999])
    @pytest.mark.parametrize("n", [1, 2, 10, 103])
    def test_share(self, share, n):
        fit, validation = split_rows(np.arange(n) * 1.0, np.arange(n), share, False, state())
        assert len(validation) == np.floor(share * n)
        assert len(fit) >= 1

    def test_every_range_of_targets_has_its_share(self):
        target = np.random.default_rng(0).normal(size=1000) ** 3
        _, validation = split_rows(target, np.arange(1000), 0.2, False, state())
        rank = target.argsort().argsort()[validation]
        assert np.bincount(rank // 100).tolist() == [20] * 10

    def test_classes_have_their_share_and_small_ones_stay(self):
        label = np.repeat([0, 1, 2, 3], [500, 95, 4, 1])[np.random.default_rng(0).permutation(600)]
        for seed in range(20):
            fit, validation = split_rows(label, np.arange(600), 0.2, True, state(seed))
            counts = np.bincount(label[validation], minlength=4)
            assert (np.abs(counts - 0.2 * np.bincount(label)) <= 1).all()
            assert set(label[fit]) == {0, 1, 2, 3}

    def test_a_class_of_one_row_is_never_for_validation(self):
        for seed in range(20):
            label = np.arange(30) // 15
            label[7] = 2
            _, validation = split_rows(label, np.arange(30), 0.9, True, state(seed))
            assert 7 not in validation

    def test_random_state_decides(self):
        label = np.arange(100) % 2
        same, also, other = (split_rows(label, np.arange(100), 0.2, True, state(seed))[1].tolist() for seed in (0, 0, 1))
        assert same == also != other


class TestNumbers:
    @pytest.fixture
    def column(self):
        return np.random.default_rng(0).gamma(2.0, size=(3000, 1))

    def test_scores_are_normal(self, column):
        scores = TabRTable().fit(column, [], state()).transform(column)[:, 0]
        expected = norm.ppf((column[:, 0].argsort().argsort() + 0.5) / len(column))
        assert np.abs(scores - expected)[np.abs(expected) < 2].max() < 0.03
        assert scores.dtype == np.float32

    def test_they_are_those_of_scikit_learn_with_a_little_noise(self):
        X = np.random.default_rng(0).exponential(size=(900, 2))
        z = (X - X.mean(0)) / X.std(0)
        order = distinct_rows(X)[0]
        noisy = z[order] + 1e-3 * state(7).standard_normal(z.shape)
        expected = QuantileTransformer(n_quantiles=100, output_distribution="normal", subsample=None).fit(noisy).transform(z)
        np.testing.assert_allclose(TabRTable().fit(X, [], state(7)).transform(X), expected, atol=1e-5)

    def test_order_is_kept(self, column):
        table = TabRTable().fit(column, [], state())
        scores = table.transform(np.linspace(-1, 50, 5000)[:, None])[:, 0]
        assert (np.diff(scores) >= 0).all()
        assert scores[0] < -5
        assert scores[-1] > 5
        assert np.isfinite(scores).all()

    @pytest.mark.parametrize("function", [lambda x: 1e9 + 1e-3 * x, np.log, np.cbrt], ids=["units", "log", "cube root"])
    def test_increasing_functions_hardly_matter(self, column, function):
        scores, others = (TabRTable().fit(X, [], state()).transform(X)[:, 0] for X in (column, function(column)))
        assert np.abs(scores - others)[np.abs(scores) < 2].max() < 0.1
        assert np.corrcoef(scores, others)[0, 1] > 0.999

    def test_few_rows_have_quantiles_of_their_own(self):
        for n in (3, 10, 50):
            X = np.arange(1.0 * n)[:, None]
            scores = TabRTable().fit(X, [], state()).transform(X)[:, 0]
            assert (np.diff(scores) > 0).all()

    def test_gaps_are_zero_and_marked(self, column):
        column[::3] = np.nan
        table = TabRTable().fit(column, [], state())
        x = table.transform(column)
        assert table.n_columns == x.shape[1] == 2
        assert table.n_numeric == 1
        assert (x[::3, 0] == 0).all()
        np.testing.assert_array_equal(x[:, 1], np.isnan(column[:, 0]))

    def test_gaps_that_fit_did_not_see_are_zero(self, column):
        x = TabRTable().fit(column, [], state()).transform(np.array([[np.nan]]))
        np.testing.assert_array_equal(x, [[0.0]])

    def test_numbers_come_first(self):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"text": rng.choice(["a", "b", "c"], 50), "low": rng.normal(size=50),
                              "flag": rng.random(50) < 0.5, "high": rng.normal(size=50) + 9})
        table = TabRTable().fit(frame, [], state())
        x = table.transform(frame)
        assert table.n_numeric == 2
        assert x.shape == (50, 2 + 1 + 3)
        for column, name in enumerate(("low", "high")):
            assert spearmanr(x[:, column], frame[name]).statistic > 0.99
        np.testing.assert_array_equal(x[:, 2], frame["flag"])
        np.testing.assert_array_equal(x[:, 3:], np.stack([frame["text"] == level for level in "abc"], 1))

    def test_far_away_is_as_good_as_the_end(self):
        X = 1e-300 * np.arange(20.0)[:, None]
        table = TabRTable().fit(X, [], state())
        far, near = (table.transform(np.array([[-end], [end]])) for end in (1e308, 1.0))
        np.testing.assert_array_equal(far, near)


class TestZerosAndOnes:
    @pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-7.0, 1e9), (-1.7e308, 1.7e308), (0.0, 5e-324),
                                               (1.0, 1.0 + 2**-52)])
    def test_two_numbers(self, low, high):
        X = np.array([[low], [high], [high], [low]])
        table = TabRTable().fit(X, [], state())
        assert table.n_numeric == 0
        np.testing.assert_array_equal(table.transform(X), [[0], [1], [1], [0]])

    def test_numbers_between_and_beyond_two_and_gaps(self):
        X = np.array([[2.0], [6.0], [np.nan]])
        x = TabRTable().fit(X, [], state()).transform(np.array([[2.0], [6.0], [3.0], [-1e308], [1e308], [np.nan]]))
        np.testing.assert_allclose(x[:, 0], [0, 1, 0.25, 0, 1, 0.5])
        np.testing.assert_array_equal(x[:, 1], [0, 0, 0, 0, 0, 1])

    def test_categories(self):
        frame = pd.DataFrame({"colour": ["red", "blue", None, "green", "blue"]})
        table = TabRTable().fit(frame, [], state())
        assert table.n_columns == 4
        np.testing.assert_array_equal(
            table.transform(pd.DataFrame({"colour": ["blue", "green", "red", None, "mauve"]})),
            [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]],
        )

    def test_unseen_categories_without_gaps_in_fit_are_none_of_those(self):
        table = TabRTable().fit(pd.DataFrame({"colour": ["red", "blue", "blue"]}), [], state())
        np.testing.assert_array_equal(table.transform(pd.DataFrame({"colour": ["mauve", None]})), np.zeros((2, 2)))

    @pytest.mark.parametrize("text", [False, True])
    def test_the_rare_of_many_levels_share_a_column(self, text):
        level = np.concatenate([np.repeat(np.arange(63), 2), np.arange(63, 90)])
        named = [f"{number:02}-" for number in level] if text else level
        frame = pd.DataFrame({"level": named, "row": np.arange(len(level))})
        table = TabRTable().fit(frame, [0], state())
        x = table.transform(frame)[:, 1:]
        assert x.shape[1] == 64
        np.testing.assert_array_equal(x.sum(1), 1)
        np.testing.assert_array_equal(x[:, :63].argmax(1)[: 2 * 63], level[: 2 * 63])
        np.testing.assert_array_equal(x[:, 63], level >= 63)

    def test_64_levels_have_a_column_each(self):
        X = np.arange(64.0)[:, None]
        np.testing.assert_array_equal(TabRTable().fit(X, [0], state()).transform(X), np.eye(64))

    def test_declared_numbers(self):
        X = np.array([[3.0], [-1.0], [10.0], [np.nan], [3.0]])
        x = TabRTable().fit(X, [0], state()).transform(np.array([[-1.0], [3.0], [10.0], [4.0], [np.nan]]))
        np.testing.assert_array_equal(x, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]])

    @pytest.mark.parametrize("column", [[5.0, 5.0, 5.0], [np.nan] * 3, pd.Categorical([None] * 3, categories=["a"])],
                             ids=["constant", "missing", "missing category"])
    def test_columns_that_say_nothing(self, column):
        frame = pd.DataFrame({"idle": column})
        table = TabRTable().fit(frame, [], state())
        x = table.transform(frame)
        assert x.shape == (3, table.n_columns) == (3, 1)
        assert not x.any()

    def test_constant_with_gaps_is_a_mark(self):
        X = np.array([[5.0], [np.nan], [5.0]])
        np.testing.assert_array_equal(TabRTable().fit(X, [], state()).transform(X), [[0], [1], [0]])


class TestInvariance:
    @pytest.fixture
    def frame(self):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"a": rng.normal(size=80), "b": rng.exponential(size=80), "c": rng.choice(list("xyz"), 80)})
        frame.loc[::5, "b"] = np.nan
        return frame

    def test_order_and_copies_of_rows_change_nothing(self, frame):
        expected = TabRTable().fit(frame, [], state()).transform(frame)
        order = np.random.default_rng(1).integers(0, 80, 300)
        for other in (frame.iloc[::-1], pd.concat([frame.iloc[order], frame])):
            np.testing.assert_array_equal(TabRTable().fit(other, [], state()).transform(frame), expected)

    def test_a_row_is_read_alone_as_with_others(self, frame):
        table = TabRTable().fit(frame, [], state())
        alone = np.concatenate([table.transform(frame.iloc[row : row + 1]) for row in range(80)])
        np.testing.assert_array_equal(alone, table.transform(frame))

    def test_random_state_is_all_that_is_random(self, frame):
        before = np.random.get_state()[1].copy()
        same, also, other = (TabRTable().fit(frame, [], state(seed)).transform(frame) for seed in (0, 0, 1))
        np.testing.assert_array_equal(np.random.get_state()[1], before)
        np.testing.assert_array_equal(same, also)
        assert (same != other).any()
        assert np.abs(same - other)[np.abs(same) < 1.5].max() < 0.05


class TestWeightOfCopies:
    label = np.array([0, 0, 0, 1, 1])

    @pytest.mark.parametrize(("weight", "expected"), [
        (None, [1, 0, 0, 1]),                                       # the first row twice, the last row twice
        ([1, 2, 1, 3, 1], [2, 0, 0, 3]),                            # whole: copies
        ([1, 1, 1, 5, 5], [1, 0, 0, 5]),                            # of classes: half of 10 is the other copy's
        ([0.5, 1.5, 2.5, 1.0, 3.0], [1, 0, 0, 2]),                  # fractions: the mean of the other copies
    ])
    def test_what_remains_without_one_copy(self, weight, expected):
        of_row = np.array([0, 0, 1, 3, 3])
        weight = None if weight is None else np.array(weight, dtype=np.float64)
        total, count = np.bincount(of_row, weights=weight, minlength=4), np.bincount(of_row, minlength=4)
        total[2], count[2] = 1, 1                                   # a row of its own
        np.testing.assert_allclose(weight_of_copies(weight, total, count, self.label), expected)

    def test_targets_are_one_class(self):
        weight, label = np.array([1.0, 4.0]), np.array([0.5, 1.5], dtype=np.float32)
        np.testing.assert_array_equal(weight_of_copies(weight, weight, np.ones(2), label), [0, 3])
        np.testing.assert_array_equal(weight_of_copies(weight, weight, np.ones(2), np.array([0, 1])), [0, 0])
