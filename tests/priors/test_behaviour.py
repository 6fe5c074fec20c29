"""Every prior passes the behaviour suite; a new prior adds one line to `PRIORS`."""

import pytest
import torch

import priors
from pfn.recipes import tabular_prior
from priors import (
    FunctionPrior,
    GPPrior,
    Mixture,
    Prior,
    RulePrior,
    SCMPrior,
    TaskShape,
    as_classification,
    catalogue,
    with_additive_target,
    with_categoricals,
    with_distractors,
    with_learnable,
    with_missing,
    with_normal_scores,
    with_smooth_target,
    with_softmax_classes,
    with_target_noise,
    with_warps,
)
from priors.testing import DEFAULT_SHAPES, check_prior

PRIORS = {name: entry.make() for name, entry in catalogue.PRIORS.items()} | {
    "recipe": tabular_prior(),
    "recipe-regression": tabular_prior(max_classes=0),
    "mixture": Mixture([(0.5, SCMPrior(max_classes=3)), (0.5, RulePrior(max_classes=3))]),
    "missing": with_missing(SCMPrior(), probability=1.0),
    "categoricals": with_categoricals(SCMPrior(max_classes=4), probability=1.0),
    "warps": with_warps(SCMPrior(), probability=1.0),
    "distractors": with_distractors(SCMPrior(), probability=1.0),
    "target-noise": with_target_noise(SCMPrior()),
    "additive": with_additive_target(SCMPrior(), probability=1.0),
    "smooth": with_smooth_target(SCMPrior(), probability=1.0),
    "softmax-classes": with_softmax_classes(SCMPrior()),
    "normal-scores": with_normal_scores(with_target_noise(SCMPrior()), probability=0.5),
    "learnable": with_learnable(SCMPrior(max_classes=3)),
    "gp-matern-3/2": GPPrior(kernel="matern32"),
    "function": FunctionPrior(lambda x, draw: x.sum(2) + draw.normal(*x.shape[:2])),
    "function-classes": as_classification(FunctionPrior(lambda x, draw: x.sum(2) + draw.normal(*x.shape[:2]))),
}
# Priors that do not serve every shape.
SHAPES = {
    "learning-curve": [TaskShape(6, 60, 1, 30), TaskShape(1, 12, 1, 1)],
    "learning-curve-extended": [TaskShape(6, 60, 1, 30), TaskShape(1, 12, 1, 1)],
    "freeze-thaw": [TaskShape(6, 60, 3, 30), TaskShape(2, 200, 11, 100)],
    "strokes": [TaskShape(3, 30, 784, 20), TaskShape(1, 7, 784, 6)],
}
# Most of the pixels of an image are empty; in few rows a column of two levels, or one of several choices, may show one only.
CONSTANT_COLUMNS = {"strokes", "optimization"}


@pytest.mark.parametrize("name", PRIORS)
def test_keeps_the_contract(name):
    check_prior(PRIORS[name], shapes=SHAPES.get(name), constant_columns=name in CONSTANT_COLUMNS)


@pytest.mark.parametrize("name", PRIORS)
def test_says_what_it_wants_for_a_generator(name):
    shape = SHAPES.get(name, DEFAULT_SHAPES)[0]
    with pytest.raises(TypeError, match=r"must be a torch.Generator, got int 7; pass torch.Generator"):
        PRIORS[name].sample(shape, generator=7)


@pytest.mark.parametrize("name", PRIORS)
def test_is_a_prior(name):
    assert isinstance(PRIORS[name], Prior)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PRIORS)
def test_keeps_the_contract_on_a_gpu(name):
    check_prior(PRIORS[name], shapes=SHAPES.get(name), constant_columns=name in CONSTANT_COLUMNS, device="cuda")


def test_every_public_prior_is_in_the_catalogue():
    public = {value for name, value in vars(priors).items() if name.endswith("Prior") and name != "Prior"}
    assert public - {type(entry.make()) for entry in catalogue.PRIORS.values()} == {FunctionPrior}       # needs a function
