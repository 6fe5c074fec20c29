"""What every prior must do; a new prior adds one line to `PRIORS`."""

import numpy as np
import pytest
import torch

from pfn.recipes import tabular_prior
from priors import (
    GPPrior,
    Mixture,
    Prior,
    RulePrior,
    SCMPrior,
    TaskShape,
    as_classification,
    with_categoricals,
    with_distractors,
    with_missing,
    with_warps,
)

PRIORS = {
    "gp": GPPrior(),
    "scm": SCMPrior(),
    "scm-classes": SCMPrior(max_classes=10),
    "rules": RulePrior(),
    "gp-classes": as_classification(GPPrior()),
    "mixture": Mixture([(0.5, SCMPrior(max_classes=3)), (0.5, RulePrior(max_classes=3))]),
    "missing": with_missing(SCMPrior(), probability=1.0),
    "categoricals": with_categoricals(SCMPrior(max_classes=4), probability=1.0),
    "warps": with_warps(SCMPrior(), probability=1.0),
    "distractors": with_distractors(SCMPrior(), probability=1.0),
    "recipe": tabular_prior(),
}
SHAPES = [TaskShape(6, 60, 7, 30), TaskShape(1, 2, 1, 1), TaskShape(3, 12, 40, 5), TaskShape(2, 50, 1, 49)]
SHAPE = SHAPES[0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=PRIORS, ids=list(PRIORS))
def prior(request):
    return PRIORS[request.param]


def test_is_a_prior(prior):
    assert isinstance(prior, Prior)


def test_same_seed_gives_the_same_batch(prior):
    first, second = prior.sample(SHAPE, generator=seeded()), prior.sample(SHAPE, generator=seeded())
    assert torch.equal(first.x.nan_to_num(1e9), second.x.nan_to_num(1e9))
    assert torch.equal(first.y, second.y)


def test_other_seed_gives_another_batch(prior):
    first, second = prior.sample(SHAPE, generator=seeded(1)), prior.sample(SHAPE, generator=seeded(2))
    assert not torch.equal(first.x.nan_to_num(1e9), second.x.nan_to_num(1e9))


def test_leaves_global_random_state_alone(prior):
    before_torch, before_numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    prior.sample(SHAPE, generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), before_torch)
    assert (np.random.get_state()[1] == before_numpy).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_has_the_shape_asked_for(prior, shape):
    batch = prior.sample(shape, generator=seeded())
    assert batch.x.shape == (shape.batch_size, shape.n_rows, shape.n_features)
    assert batch.y.shape == (shape.batch_size, shape.n_rows)
    assert batch.n_context == shape.n_context
    assert batch.x.dtype == torch.float32
    assert batch.y.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_finite_and_columns_vary(prior, shape):
    for seed in range(2):
        batch = prior.sample(shape, generator=seeded(seed))
        assert not batch.x.isinf().any()
        assert not batch.y.isnan().any()
        if shape.n_rows > 2:
            filled = batch.x.nan_to_num(0.5)                        # a gap counts as a value: all-missing is allowed
            all_missing = batch.x.isnan().all(1)
            assert ((filled != filled[:, :1]).any(1) | all_missing | batch.x.isnan().any(1)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_classes_are_compact_and_all_in_the_context(prior, shape):
    for seed in range(2):
        batch = prior.sample(shape, generator=seeded(seed))
        if batch.n_classes is None:
            continue
        for labels, n_classes in zip(batch.y, batch.n_classes.tolist(), strict=True):
            assert set(labels[: shape.n_context].tolist()) == set(range(n_classes)) == set(labels.tolist())


def test_rejects_what_is_no_generator(prior):
    with pytest.raises(TypeError, match=r"must be a torch.Generator, got int 7"):
        prior.sample(SHAPE, generator=7)
