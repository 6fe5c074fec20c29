import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from priors import SCMPrior, TaskShape


def test_target_is_never_among_the_features():
    for seed in range(4):
        batch = SCMPrior().sample(TaskShape(16, 50, 20, 25), generator=torch.Generator().manual_seed(seed))
        x = (batch.x - batch.x.mean(1, keepdim=True)) / batch.x.std(1, keepdim=True)
        y = (batch.y - batch.y.mean(1, keepdim=True)) / batch.y.std(1, keepdim=True)
        assert ((x - y.unsqueeze(-1)).abs().amax(1) > 1e-4).all()


def test_many_tasks_can_be_learned_but_not_all():
    """A forest beats chance clearly on most binary tasks, and some tasks are mostly noise."""
    batch = SCMPrior(max_classes=2).sample(TaskShape(40, 300, 8, 200), generator=torch.Generator().manual_seed(0))
    aucs = []
    for x, y in zip(batch.x.numpy(), batch.y.numpy(), strict=True):
        if len(np.unique(y[200:])) == 2:
            forest = RandomForestClassifier(50, random_state=0).fit(x[:200], y[:200])
            aucs.append(roc_auc_score(y[200:], forest.predict_proba(x[200:])[:, 1]))
    assert len(aucs) > 25
    assert np.median(aucs) > 0.75
    assert min(aucs) < 0.65


def test_features_of_a_task_depend_on_each_other():
    batch = SCMPrior().sample(TaskShape(24, 400, 6, 200), generator=torch.Generator().manual_seed(0))
    correlation = np.array([np.abs(np.corrcoef(x.T)) for x in batch.x.numpy()])
    off_diagonal = correlation[:, ~np.eye(6, dtype=bool)]
    # Independent columns of 400 rows exceed 0.2 with probability 6e-5.
    assert (off_diagonal > 0.2).mean() > 0.2


def test_every_number_of_classes_occurs():
    batch = SCMPrior(max_classes=10).sample(TaskShape(150, 80, 4, 60), generator=torch.Generator().manual_seed(0))
    assert set(batch.n_classes.tolist()) == set(range(2, 11))


@pytest.mark.parametrize("arguments", [{"max_classes": 1}, {"max_depth": 0}, {"max_width": 2}])
def test_rejects_impossible_sizes(arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        SCMPrior(**arguments)
