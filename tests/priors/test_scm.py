import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

import priors.scm
from priors import SCMPrior, TaskShape

STYLES = pytest.mark.parametrize("style", ["graph", "layered"])


@STYLES
def test_target_is_never_among_the_features(style):
    for seed in range(4):
        batch = SCMPrior(style=style).sample(TaskShape(16, 50, 20, 25), generator=torch.Generator().manual_seed(seed))
        x = (batch.x - batch.x.mean(1, keepdim=True)) / batch.x.std(1, keepdim=True)
        y = (batch.y - batch.y.mean(1, keepdim=True)) / batch.y.std(1, keepdim=True)
        assert ((x - y.unsqueeze(-1)).abs().amax(1) > 1e-4).all()


@STYLES
def test_many_tasks_can_be_learned_but_not_all(style):
    """A forest beats chance clearly on most binary tasks, and some tasks are mostly noise."""
    batch = SCMPrior(2, style).sample(TaskShape(40, 300, 8, 200), generator=torch.Generator().manual_seed(0))
    aucs = []
    for x, y in zip(batch.x.numpy(), batch.y.numpy(), strict=True):
        if len(np.unique(y[200:])) == 2:
            forest = RandomForestClassifier(50, random_state=0).fit(x[:200], y[:200])
            aucs.append(roc_auc_score(y[200:], forest.predict_proba(x[200:])[:, 1]))
    assert len(aucs) > 25
    assert np.median(aucs) > 0.75
    assert min(aucs) < 0.65


@STYLES
def test_features_of_a_task_depend_on_each_other(style):
    batch = SCMPrior(style=style).sample(TaskShape(24, 400, 6, 200), generator=torch.Generator().manual_seed(0))
    correlation = np.array([np.abs(np.corrcoef(x.T)) for x in batch.x.numpy()])
    off_diagonal = correlation[:, ~np.eye(6, dtype=bool)]
    # Independent columns of 400 rows exceed 0.2 with probability 6e-5.
    assert (off_diagonal > 0.2).mean() > 0.2


@STYLES
def test_every_number_of_classes_occurs(style):
    batch = SCMPrior(10, style).sample(TaskShape(150, 80, 4, 60), generator=torch.Generator().manual_seed(0))
    assert set(batch.n_classes.tolist()) == set(range(2, 11))


@pytest.mark.parametrize(
    "arguments", [{"max_classes": 1}, {"max_depth": 0}, {"max_width": 2}, {"max_nodes": 0}, {"style": "ring"}]
)
def test_rejects_impossible_sizes(arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        SCMPrior(**arguments)


@STYLES
def test_no_row_is_special(style):
    """Rows are exchangeable: the first and the last row have the same law."""
    batch = SCMPrior(style=style).sample(TaskShape(600, 40, 4, 20), generator=torch.Generator().manual_seed(5))
    z = torch.cat([batch.x, batch.y.unsqueeze(2)], dim=2)
    z = ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True).clamp_min(1e-6)).clamp(-3, 3)
    for moment in (z, z.square(), z * z.roll(1, 2)):
        difference = (moment[:, 0] - moment[:, -1]).mean((0, 1))
        error = (moment[:, 0] - moment[:, -1]).mean(1).std() / 600**0.5
        assert abs(difference) < 4 * error


def test_categorical_features_occur_with_few_and_many_levels():
    batch = SCMPrior().sample(TaskShape(100, 500, 10, 250), generator=torch.Generator().manual_seed(0))
    columns = batch.x.transpose(1, 2).flatten(0, 1)
    coded = (columns == columns.round()).all(1) & (columns.amin(1) == 0)
    levels = torch.tensor([len(c.unique()) for c in columns[coded]])
    assert 0.15 < coded.float().mean() < 0.6
    assert (levels == 2).any()
    assert levels.max() > 60


def test_large_batches_are_drawn_in_chunks(monkeypatch):
    """A chunk holds a bounded number of rows whatever is asked for; all tasks arrive."""
    sizes = []
    inner = priors.scm.draw_graph
    monkeypatch.setattr(priors.scm, "_ROWS_AT_ONCE", 1000)

    def spy(shape, max_nodes, draw):
        sizes.append(shape.batch_size)
        return inner(shape, max_nodes, draw)

    monkeypatch.setattr(priors.scm, "draw_graph", spy)
    batch = SCMPrior(max_classes=4).sample(TaskShape(25, 100, 3, 50), generator=torch.Generator().manual_seed(0))
    assert len(batch) == 25
    assert sizes == [10, 10, 5]
