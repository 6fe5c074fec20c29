import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from estimators import PFNClassifier, PFNRegressor
from estimators.conditional import Columns, Conditional
from pfn import PFN, PFNConfig


@pytest.fixture
def mixed():
    """Twelve rows of every column type; each column has one gap, except those that cannot."""
    rng, n = np.random.default_rng(0), 12
    frame = pd.DataFrame(
        {
            "number": rng.normal(size=n),
            "count": pd.array(rng.integers(0, 9, n), dtype="Int64"),
            "int": rng.integers(0, 9, n),
            "flag": pd.array(rng.random(n) < 0.5, dtype="boolean"),
            "yes": pd.Series([True, False] * 6, dtype=object),
            "text": pd.Series(["r", "g"] * 6),
            "grade": pd.Categorical(["b", "a"] * 6, categories=["b", "a", "never"], ordered=True),
            "prices": pd.Series([1, 2.5] * 6, dtype=object),
            "when": pd.date_range("2024-01-01", periods=n).tz_localize("Europe/Paris"),
            "seconds": pd.date_range("2024-01-01", periods=n).astype("datetime64[s]"),
            "took": pd.to_timedelta(np.arange(n), unit="h"),
            "single": np.arange(n, dtype=np.float32),
        }
    )
    for j, name in enumerate(frame.columns.drop("int")):
        frame.loc[j, name] = None
    return frame


def last_value(x):
    """Fill gaps by what stands in the last row, or before it."""
    return pd.DataFrame(x).ffill().bfill().to_numpy()


class TestColumns:
    def test_kinds(self, mixed):
        labels = Columns().fit(mixed).labels
        named = {mixed.columns[j]: values for j, values in labels.items()}
        assert named == {"flag": [False, True], "yes": [False, True], "text": ["g", "r"], "grade": ["a", "b"]}

    @pytest.mark.parametrize("declared", [["int"], [2], np.arange(12) == 2], ids=["name", "position", "mask"])
    def test_numbers_can_be_declared_categories(self, mixed, declared):
        columns = Columns().fit(mixed, declared)
        assert columns.labels[2] == sorted(mixed["int"].unique())
        codes = columns.encode(mixed.astype({"int": float}))[0][:, 2]        # 1 and 1.0 are the same category
        assert [columns.labels[2][int(code)] for code in codes] == mixed["int"].tolist()

    def test_fill_keeps_types_and_observed_cells(self, mixed):
        before = mixed.copy(deep=True)
        columns = Columns().fit(mixed)
        x, missing = columns.encode(mixed)
        filled = columns.fill(mixed, last_value(x))
        pd.testing.assert_frame_equal(mixed, before)
        assert filled.dtypes.equals(mixed.dtypes)
        assert not filled.isna().any(axis=None)
        assert missing.sum() == 11
        pd.testing.assert_frame_equal(filled.mask(missing), mixed.mask(missing))
        assert filled["when"][7] == mixed["when"][6]
        assert filled["grade"][5] == mixed["grade"][4]

    def test_decode_inverts_encode(self, mixed):
        columns = Columns().fit(mixed)
        x = last_value(columns.encode(mixed)[0])
        decoded = columns.decode(x)
        assert decoded.dtypes.equals(mixed.dtypes)
        np.testing.assert_array_equal(columns.encode(decoded)[0], x)

    def test_integers_are_rounded_into_their_range(self):
        frame = pd.DataFrame({"a": pd.array([1, 2], dtype="UInt8"), "b": ["x", "y"]})
        decoded = Columns().fit(frame).decode(np.array([[1.6, 0], [-3.0, 1], [300.0, 1]]))
        assert decoded["a"].tolist() == [2, 0, 255]

    def test_new_categories_are_neither_known_nor_missing(self):
        columns = Columns().fit(pd.DataFrame({"a": ["x", "y"]}))
        x, missing = columns.encode(pd.DataFrame({"a": ["y", "new", None]}))
        np.testing.assert_array_equal(x, [[1], [np.nan], [np.nan]])
        assert missing.tolist() == [[False], [False], [True]]

    def test_categories_that_only_fit_saw_extend_a_categorical(self):
        columns = Columns().fit(pd.DataFrame({"a": pd.Categorical(["x", "y"])}))
        filled = columns.fill(pd.DataFrame({"a": pd.Categorical(["x", None])}), np.array([[0.0], [1.0]]))
        assert filled["a"].tolist() == ["x", "y"]

    def test_text_where_numbers_were_is_an_error(self):
        columns = Columns().fit(pd.DataFrame({"a": [1.0], "b": ["x"]}))
        with pytest.raises(ValueError, match="column 'a' held numbers in fit but now holds 'text'"):
            columns.encode(pd.DataFrame({"a": ["text"], "b": ["x"]}))

    @pytest.mark.parametrize(
        ("declared", "error", "message"),
        [
            ("int", TypeError, "categorical_features='int' is not a list"),
            (3, TypeError, "categorical_features=3 is not a list"),
            (["no such"], ValueError, "categorical_features has 'no such', but X has the 12 columns"),
            ([12], ValueError, "categorical_features has 12"),
            ([-1], ValueError, "categorical_features has -1"),
            ([True, False], ValueError, "categorical_features has True"),
        ],
    )
    def test_wrong_declarations_are_named(self, mixed, declared, error, message):
        with pytest.raises(error, match=message):
            Columns().fit(mixed, declared)


def numeric(features, target, n_estimators=1):
    return Conditional(features, target, PFNRegressor(n_estimators, random_state=0))


def categorical(features, target):
    return Conditional(features, target, PFNClassifier(1, random_state=0))


class TestConditional:
    def test_numbers_follow_a_normal_distribution(self):
        """y | x ~ N(3 + 2 x, 1), and y ~ N(3, 5) where nothing else is known."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(600, 1))
        y = 3 + 2 * x[:, 0] + rng.normal(size=600)
        target = np.where(np.arange(600) % 10 == 0, np.nan, y)[:300]
        model, mean = numeric(x[:300], target), 3 + 2 * x[300:, 0]
        assert np.sqrt(np.mean((model.predict(x[300:]) - mean) ** 2)) < 0.25              # of a noise of 1
        closed_form = norm(mean, 1).logpdf(y[300:]).mean()
        assert model.log_prob(x[300:], y[300:]).mean() == pytest.approx(closed_form, abs=0.1)
        draws = model.sample(x[300:], np.random.RandomState(0))
        assert np.std(draws - mean) == pytest.approx(1, abs=0.2)
        marginal = numeric(x[:300, :0], target)
        closed_form = norm(3, 5**0.5).logpdf(y[300:]).mean()
        assert marginal.log_prob(x[300:, :0], y[300:]).mean() == pytest.approx(closed_form, abs=0.1)

    def test_probabilities_of_all_categories_and_new_ones_sum_to_one(self):
        rng = np.random.default_rng(0)
        features = rng.normal(size=(40, 2))
        target = np.digitize(features[:, 0], [-0.5, 0.5]).astype(float)
        target[::5] = np.nan
        model = categorical(features, target)
        log_prob = [model.log_prob(features, np.full(40, value)) for value in (0.0, 1.0, 2.0, np.nan)]
        np.testing.assert_allclose(np.exp(log_prob).sum(0), 1.0)
        np.testing.assert_allclose(np.exp(log_prob[3]), 1 / 34)
        assert (model.predict(features[1:5]) == target[1:5]).mean() >= 0.75

    def test_draws_of_categories_have_their_frequencies(self):
        target = np.repeat([0.0, 1.0, 4.0], [60, 30, 10])                     # not every code need occur
        model, none = categorical(np.empty((100, 0)), target), np.empty((4000, 0))
        draws = model.sample(none, np.random.RandomState(0))
        assert set(draws) == {0.0, 1.0, 4.0}
        for value, frequency in ((0.0, 0.6), (1.0, 0.3), (4.0, 0.1)):
            assert np.mean(draws == value) == pytest.approx(frequency, abs=0.05)
            assert np.exp(model.log_prob(none[:1], np.array([value])))[0] == pytest.approx(frequency, abs=0.05)

    @pytest.mark.parametrize("make", [numeric, categorical])
    def test_a_column_of_one_value(self, make):
        model, features = make(np.zeros((3, 1)), np.array([2.0, np.nan, 2.0])), np.zeros((2, 1))
        np.testing.assert_array_equal(model.predict(features), [2.0, 2.0])
        np.testing.assert_array_equal(model.sample(features, np.random.RandomState(0)), [2.0, 2.0])
        np.testing.assert_allclose(model.log_prob(features, np.array([2.0, 3.0])), np.log([3 / 4, 1 / 4]))

    @pytest.mark.parametrize("make", [numeric, categorical])
    def test_a_column_without_values(self, make):
        model, features = make(np.zeros((3, 1)), np.full(3, np.nan)), np.zeros((2, 1))
        assert np.isnan(model.predict(features)).all()
        assert np.isnan(model.sample(features, np.random.RandomState(0))).all()
        np.testing.assert_array_equal(model.log_prob(features, np.array([2.0, 3.0])), 0.0)

    @pytest.mark.parametrize("make", [numeric, categorical])
    def test_features_that_were_never_observed_do_not_matter(self, make):
        rng = np.random.default_rng(0)
        features, target = rng.normal(size=(30, 1)), rng.integers(0, 2, 30).astype(float)
        wide = np.column_stack([np.full(30, np.nan), features])
        np.testing.assert_array_equal(make(wide, target).predict(wide), make(features, target).predict(features))
        nothing = make(wide[:, :1], target)
        np.testing.assert_array_equal(nothing.predict(wide[:, :1]), make(wide[:, :0], target).predict(wide[:, :0]))

    def test_two_rows_are_enough(self):
        assert np.isfinite(numeric(np.zeros((2, 1)), np.array([0.0, 1.0]), 2).log_prob(np.ones((1, 1)), np.ones(1))).all()

    def test_a_category_of_its_own_in_most_rows(self):
        """scikit-learn warns that this looks like regression; warnings are errors here."""
        network = PFN(PFNConfig(task="classification", n_outputs=40, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=16))
        names = np.arange(40.0)
        model = Conditional(np.zeros((40, 1)), names, PFNClassifier(1, network, random_state=0))
        assert set(model.sample(np.zeros((90, 1)), np.random.RandomState(0))) <= set(names)
