import numpy as np

from estimators.context import Table
from estimators.ensemble import canonical_classes, make_views


def table(seed=0, n=40, f=5, k=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, f)).astype(np.float32), rng.integers(k, size=n)


def test_canonical_classes_forget_their_names():
    x, y = table()
    names = np.array([2, 0, 3, 1])
    here, there = (canonical_classes(Table.of(x, labels), 4) for labels in (y, names[y]))
    np.testing.assert_array_equal(here[y], there[names[y]])


def test_the_most_frequent_class_comes_first():
    x = np.arange(6, dtype=np.float32).reshape(6, 1)
    assert canonical_classes(Table.of(x, np.array([0, 1, 1, 2, 2, 2])), 3).tolist() == [2, 1, 0]
    heavy = Table.of(x, np.array([0, 1, 1, 2, 2, 2]), np.array([9, 1, 1, 1, 1, 1]))
    assert canonical_classes(heavy, 3).tolist() == [0, 2, 1]


def views(x, y, weight=None, **changes):
    made = Table.of(x, y, weight)
    settings = {"n_estimators": 4, "max_features": 10, "max_context": 100, "local": False, "plain": False} | changes
    slots = settings.pop("class_slots", lambda member, _: [(np.arange(4) + member) % 4])
    return made, make_views(made, made.y, class_slots=slots, random_state=np.random.RandomState(0), **settings)


def test_members_differ_in_features_classes_and_ranks():
    _, made = views(*table())
    assert len({tuple(view.columns) for view in made}) > 1
    assert len({tuple(view.cells[0].slots) for view in made}) == 4
    assert [view.ranks for view in made] == [False, True, False, True]
    assert [view.scores for view in made] == [False, False, True, True]


def test_constant_columns_are_left_out():
    x, y = table()
    x[:, 1], x[:, 3] = 5.0, np.nan
    assert all(set(view.columns) == {0, 2, 4} for view in views(x, y)[1])


def test_a_table_of_constants_still_has_a_column():
    x, y = table()
    assert all(len(view.columns) == 1 for view in views(np.zeros_like(x), y)[1])


def test_samples_of_long_contexts_are_stratified():
    x, y = table(n=1000)
    made, members = views(x, y, max_context=200)
    for view in members:
        share = np.bincount(made.y[view.cells[0].rows]) / 200
        np.testing.assert_allclose(share, np.bincount(y) / 1000, atol=0.01)


def test_choices_below_the_first_read_their_own_classes_only():
    x, y = table(n=500)
    slots = [np.array([0, 0, 1, 1]), np.array([1, 0, -1, -1]), np.array([-1, -1, 0, 1])]
    made, members = views(x, y, class_slots=lambda *_: slots, max_context=150)
    for view in members:
        assert [len(part.rows) for part in view.parts] == [150, 150, 150]
        assert [set(made.y[part.rows]) for part in view.parts] == [{0, 1, 2, 3}, {0, 1}, {2, 3}]
