import numpy as np

from estimators.ensemble import canonical_classes, canonical_rows, make_views


def table(seed=0, n=40, f=5, k=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, f)).astype(np.float32), rng.integers(k, size=n)


def test_canonical_order_forgets_the_order_of_rows():
    x, y = table()
    x[3, 1] = np.nan
    order = np.random.default_rng(1).permutation(len(x))
    np.testing.assert_array_equal(x[canonical_rows(x, y)], x[order][canonical_rows(x[order], y[order])])


def test_canonical_classes_forget_their_names():
    x, y = table()
    names = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(canonical_classes(x, y, 4)[y], canonical_classes(x, names[y], 4)[names[y]])


def test_the_most_frequent_class_comes_first():
    x = np.zeros((6, 1), dtype=np.float32)
    assert canonical_classes(x, np.array([0, 1, 1, 2, 2, 2]), 3).tolist() == [2, 1, 0]


def views(x, y, **changes):
    settings = {"n_estimators": 4, "n_classes": 4, "max_features": 10, "max_context": 100} | changes
    return make_views(x, y, random_state=np.random.RandomState(0), **settings)


def test_members_differ_in_features_classes_and_ranks():
    made = views(*table())
    assert len({tuple(view.columns) for view in made}) > 1
    assert sorted(tuple(view.classes) for view in made) == sorted({tuple(view.classes) for view in made})
    assert [view.ranks is not None for view in made] == [False, True, False, True]


def test_each_class_visits_each_slot():
    slots = np.array([view.classes for view in views(*table())])
    assert (np.sort(slots, axis=0) == np.arange(4)[:, None]).all()


def test_constant_columns_are_left_out():
    x, y = table()
    x[:, 1], x[:, 3] = 5.0, np.nan
    assert all(set(view.columns) == {0, 2, 4} for view in views(x, y))


def test_a_table_of_constants_still_has_a_column():
    x, y = table()
    assert all(len(view.columns) == 1 for view in views(np.zeros_like(x), y))


def test_samples_of_long_contexts_are_stratified():
    x, y = table(n=1000)
    for view in views(x, y, max_context=200):
        share = np.bincount(y[view.rows]) / 200
        np.testing.assert_allclose(share, np.bincount(y) / 1000, atol=0.01)
