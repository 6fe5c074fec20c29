import pytest
import torch

from priors import FunctionPrior, TaskShape
from priors.testing import check_prior

SHAPE = TaskShape(4, 30, 3, 20)


def linear(x, draw):
    weights = draw.normal(len(x), 3)
    return torch.einsum("brf,bf->br", x, weights) + 0.1 * draw.normal(*x.shape[:2])


def test_targets_are_what_the_function_returns(generator):
    batch = FunctionPrior(lambda x, draw: 2 * x[:, :, 0]).sample(SHAPE, generator=generator)
    assert torch.equal(batch.y, 2 * batch.x[:, :, 0])
    assert ((batch.x >= 0) & (batch.x < 1)).all()
    assert batch.n_classes is None


def test_features_may_be_normal_or_ones_own(generator):
    normal = FunctionPrior(linear, features="normal").sample(TaskShape(50, 100, 3, 20), generator=generator).x
    assert abs(normal.mean()) < 4 / normal.numel() ** 0.5
    own = FunctionPrior(linear, features=lambda shape, draw: draw.integers(4, 30, 3, low=0, high=5))
    assert set(own.sample(SHAPE, generator=generator).x.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool])
def test_integers_and_booleans_are_classes(dtype):
    prior = FunctionPrior(lambda x, draw: (3 * x[:, :, 0] + draw.uniform(len(x), 1)).floor().sub(1).to(dtype))
    check_prior(prior)
    assert prior.sample(SHAPE, generator=torch.Generator().manual_seed(0)).n_classes is not None


def test_double_precision_becomes_single(generator):
    batch = FunctionPrior(lambda x, draw: x[:, :, 0].double()).sample(SHAPE, generator=generator)
    assert batch.y.dtype == torch.float32


def test_a_function_that_works_in_place_does_not_damage_its_features(generator):
    def careless(x, draw):
        return x.mul_(0.0).sum(2)

    assert FunctionPrior(careless).sample(SHAPE, generator=generator).x.std() > 0


def test_repr_holds_names_and_no_address():
    assert repr(FunctionPrior(linear)) == "FunctionPrior(linear)"
    assert repr(FunctionPrior(linear, features="normal")) == "FunctionPrior(linear, features='normal')"
    assert repr(FunctionPrior(lambda x, draw: x)) == "FunctionPrior(<lambda>)"


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x, draw: x[:, :, :1], ValueError, r"shape \(4, 30, 1\), expected .* = \(4, 30\); drop the last"),
        (lambda x, draw: x.sum((1, 2)), ValueError, r"shape \(4,\), expected .* draw one parameter a task"),
        (lambda x, draw: x.sum(2).numpy(), TypeError, "<lambda> returned ndarray, not a torch.Tensor of shape"),
        (lambda x, draw: x.sum(2).to("meta"), ValueError, "on meta, not cpu; create tensors on x.device"),
    ],
)
def test_wrong_output_is_named(function, error, message, generator):
    with pytest.raises(error, match=message):
        FunctionPrior(function).sample(SHAPE, generator=generator)


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="function is 3, which cannot be called"):
        FunctionPrior(3)
    with pytest.raises(ValueError, match="features='gauss' is unknown; use 'uniform', 'normal' or a function"):
        FunctionPrior(linear, features="gauss")
    with pytest.raises(ValueError, match=r"features returned shape \(2,\), expected \(batch, rows, features\)"):
        FunctionPrior(linear, features=lambda shape, draw: draw.uniform(2)).sample(SHAPE, generator=torch.Generator())
