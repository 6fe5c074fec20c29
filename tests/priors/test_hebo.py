import pytest
import scipy.stats
import torch

from priors import TaskShape
from priors.draw import Draw
from priors.gp import draw_gp, gp_posterior
from priors.hebo import ConstrainedHEBOPrior, HEBOPrior, kumaraswamy


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_share(hits, probability):
    """The share of true values is `probability` up to four standard errors."""
    hits = hits.float()
    assert abs(hits.mean() - probability) <= 4 * (probability * (1 - probability) / hits.numel()) ** 0.5


def test_hyper_parameters_have_the_moments_of_their_laws():
    prior = HEBOPrior(unused_probability=0.0)
    hyper = prior.draw_hyperparameters(20_000, 2, Draw(seeded()))
    for sample, law in zip(hyper, (prior.lengthscale, prior.outputscale, prior.noise), strict=False):
        assert abs(sample.mean() - law.mean) < 4 * (law.variance / sample.numel()) ** 0.5


@pytest.mark.parametrize("n_features", [1, 2, 6])
def test_a_feature_is_unused_with_the_given_probability_but_never_all(n_features):
    hyper = HEBOPrior().draw_hyperparameters(5000, n_features, Draw(seeded()))
    unused = hyper.lengthscale.isinf()
    assert not unused.all(1).any()
    assert_share(unused, 0.3 - 0.3**n_features / n_features)        # one feature is brought back where all were unused
    assert_share(unused.any(1), 1 - 0.7**n_features if n_features > 1 else 0.0)


def test_an_unused_feature_does_not_change_the_target():
    x = torch.rand(1, 200, 2, generator=seeded())
    hyper = HEBOPrior().draw_hyperparameters(1, 2, Draw(seeded()))
    hyper = hyper._replace(lengthscale=torch.tensor([[0.4, torch.inf]]))
    other = torch.cat([x[:, :, :1], 1 - x[:, :, 1:]], dim=2)
    assert torch.equal(draw_gp(x, "matern32", hyper, Draw(seeded())), draw_gp(other, "matern32", hyper, Draw(seeded())))


@pytest.mark.parametrize("warp_std", [0.0, 0.75])
def test_targets_are_those_of_the_process_on_warped_features(warp_std):
    """Redo the draws of `sample`, and ask the exact posterior for the probability of each last target."""
    prior, shape = HEBOPrior(warp_std=warp_std), TaskShape(2000, 10, 2, 9)
    batch = prior.sample(shape, generator=seeded())
    draw = Draw(seeded())
    assert torch.equal(batch.x, draw.uniform(2000, 10, 2))
    hyper = prior.draw_hyperparameters(2000, 2, draw)
    x = prior._draw_warped(batch.x, draw)
    assert torch.equal(x, batch.x) == (warp_std == 0)
    result = gp_posterior(x[:, :9], batch.y[:, :9], x[:, 9:], kernel="matern32", **hyper._asdict())
    z = (batch.y[:, 9:] - result.mean) / result.variance.sqrt()
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


def test_sample_is_the_values_at_uniform_points():
    prior = HEBOPrior(warp_std=0.5, kernel="rbf")
    batch = prior.sample(TaskShape(5, 20, 3, 10), generator=seeded())
    draw = Draw(seeded())
    assert torch.equal(batch.x, draw.uniform(5, 20, 3))
    assert torch.equal(batch.y, prior.values(batch.x, draw))


@pytest.mark.parametrize("kernel", ["matern52", "rbf"])
def test_values_are_those_of_the_kernel_wherever_the_points_lie(kernel):
    prior, x = HEBOPrior(kernel=kernel, grows_with_dimension=True), 0.5 + 0.1 * torch.rand(2000, 10, 2, generator=seeded(1))
    y = prior.values(x, Draw(seeded()))
    hyper = prior.draw_hyperparameters(2000, 2, Draw(seeded()))
    result = gp_posterior(x[:, :9], y[:, :9], x[:, 9:], kernel=kernel, **hyper._asdict())
    z = (y[:, 9:] - result.mean) / result.variance.sqrt()
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("n_features", [1, 4, 9])
def test_lengthscales_grow_with_the_root_of_the_dimension_if_asked_to(n_features):
    plain, grown = (HEBOPrior(grows_with_dimension=grows).draw_hyperparameters(50, n_features, Draw(seeded()))
                    for grows in (False, True))
    torch.testing.assert_close(grown.lengthscale, plain.lengthscale * n_features**0.5)
    for name in ("outputscale", "noise", "mean"):
        assert torch.equal(getattr(grown, name), getattr(plain, name))


def test_constrained_tasks_have_the_kernel_of_their_base():
    x = torch.rand(4, 30, 2, generator=seeded(1))
    base = HEBOPrior(kernel="rbf")
    found = ConstrainedHEBOPrior(base)._draw_noiseless(x, Draw(seeded()))
    draw = Draw(seeded())
    hyper = base.draw_hyperparameters(4, 2, draw)
    assert torch.equal(found, draw_gp(x, "rbf", hyper._replace(noise=torch.zeros(4)), draw))


def test_kumaraswamy_maps_the_unit_interval_onto_itself():
    x = torch.linspace(0, 1, 11)
    a, b = torch.tensor(2.0), torch.tensor(3.0)
    warped = kumaraswamy(x, a, b)
    assert warped[0] == 0
    assert warped[-1] == 1
    assert (warped.diff() > 0).all()
    torch.testing.assert_close(kumaraswamy(x, torch.tensor(1.0), torch.tensor(1.0)), x)
    torch.testing.assert_close(warped[5], torch.tensor(1 - (1 - 0.5**2) ** 3))


def test_hints_hold_the_best_row_as_often_as_they_say():
    shape = TaskShape(3000, 20, 3, 10)
    batch, hints = HEBOPrior().sample_with_hints(shape, generator=seeded())
    p, low, high = hints.unbind(-1)
    assert hints.shape == (3000, 3, 3)
    n_sections = (1 / (high - low)).round()
    assert set(n_sections.flatten().tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert_share(n_sections == 5, 0.2)
    section = low * n_sections
    torch.testing.assert_close(section, section.round(), atol=1e-5, rtol=0)
    assert scipy.stats.kstest(p.flatten().numpy(), "uniform").pvalue > 1e-3
    best = batch.x[torch.arange(3000), batch.y.argmax(1)]
    hit = ((best >= low) & (best <= high)).float()
    expected = p + (1 - p) / n_sections                             # a random section may be the right one
    error = hit - expected
    for confident in (p > 0.8, p < 0.2):
        assert abs(error[confident].mean()) < 4 * error[confident].std() / confident.sum() ** 0.5


JOINT = TaskShape(400, 100, 3, 50)


@pytest.fixture(scope="module")
def joint():
    return ConstrainedHEBOPrior(max_constraints=4).sample_joint(JOINT, generator=seeded())


def test_joint_draws_have_the_shapes_asked_for(joint):
    assert joint.x.shape == (400, 100, 3)
    assert joint.objective.shape == (400, 100)
    assert joint.constraints.shape == (400, 100, 4)
    assert joint.constraints.dtype == joint.objective.dtype == torch.float32
    assert all(values.isfinite().all() for values in (joint.x, joint.objective, joint.constraints))
    counts = torch.bincount(joint.n_constraints, minlength=5)[1:]
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3
    absent = torch.arange(4) >= joint.n_constraints.view(-1, 1, 1)
    assert ((joint.constraints == -1) | ~absent).all()
    assert (joint.constraints.std(1) > 0)[~absent.squeeze(1)].all()


def test_feasible_share_is_log_uniform(joint):
    """Up to one row of 100, as the share is rounded up or down to whole rows at random."""
    share, law = joint.feasible.float().mean(1), scipy.stats.loguniform(1e-3, 0.9)
    assert share.max() <= 0.9 + 1 / 100
    assert abs(share.mean() - law.mean()) < 4 * share.std() / 400**0.5
    for limit in (0.05, 0.2, 0.5):
        expected = law.cdf(limit)
        rounding = law.cdf(limit + 1 / 100) - law.cdf(limit - 1 / 100)
        assert abs((share < limit).float().mean() - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5 + rounding


def test_each_constraint_may_be_the_tight_one():
    tasks = ConstrainedHEBOPrior(max_constraints=2).sample_joint(JOINT, generator=seeded())
    alone = (tasks.constraints <= 0).float().mean(1)[tasks.n_constraints == 2]                  # share of each by itself
    tighter = (alone[:, 0] < alone[:, 1]).float()
    assert 0.35 < tighter.mean() < 0.65
    assert (alone.max(1).values - alone.min(1).values).mean() > 0.1


def test_shared_functions_make_outputs_dependent():
    """Combinations of few common draws correlate strongly with the objective, draws of their own do not."""
    def correlation(**probabilities):
        prior = ConstrainedHEBOPrior(max_constraints=1, **probabilities)
        tasks = prior.sample_joint(TaskShape(150, 100, 6, 50), generator=seeded())
        pair = torch.stack([tasks.objective, tasks.constraints[:, :, 0]], dim=1)
        pair = pair - pair.mean(2, keepdim=True)
        return ((pair[:, 0] * pair[:, 1]).mean(1) / pair.std(2, correction=0).prod(1)).abs()

    shared = correlation(independent_probability=0.0, geometric_probability=0.0)
    alone = correlation(independent_probability=1.0, geometric_probability=0.0)
    assert shared.median() > 0.5
    assert alone.median() < 0.4


def test_geometric_constraints_are_quadratic_functions_without_noise():
    prior = ConstrainedHEBOPrior(max_constraints=3, independent_probability=0.0, geometric_probability=1.0)
    tasks = prior.sample_joint(TaskShape(20, 100, 3, 50), generator=seeded())
    products = (tasks.x.unsqueeze(3) * tasks.x.unsqueeze(2)).flatten(2)
    design = torch.cat([torch.ones(20, 100, 1), tasks.x, products], dim=2).double()
    fitted = design @ (torch.linalg.pinv(design) @ tasks.constraints.double())
    torch.testing.assert_close(fitted, tasks.constraints.double(), atol=1e-4, rtol=0)


def test_sample_is_one_output_of_the_joint_draw():
    prior, shape = ConstrainedHEBOPrior(max_constraints=2), TaskShape(300, 20, 2, 10)
    batch = prior.sample(shape, generator=seeded())
    tasks = prior.sample_joint(shape, generator=seeded())
    outputs = torch.cat([tasks.objective.unsqueeze(2), tasks.constraints], dim=2)
    same = (outputs == batch.y.unsqueeze(2)).all(1)                                            # (B, 1 + M)
    assert same.any(1).all()
    one = tasks.n_constraints == 1
    assert_share(same[one, 0], 1 / 2)
    assert_share(same[~one, 0], 1 / 3)


def test_same_seed_gives_the_same_batch():
    for prior in (HEBOPrior(warp_std=0.75), ConstrainedHEBOPrior()):
        first, second = (prior.sample(TaskShape(3, 20, 2, 10), generator=seeded(3)) for _ in range(2))
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.y, second.y)


@pytest.mark.parametrize("shape", [TaskShape(2, 1, 1, 0), TaskShape(3, 2, 1, 1), TaskShape(2, 70, 30, 10)], ids=str)
def test_joint_draws_of_any_size_are_finite(shape):
    tasks = ConstrainedHEBOPrior().sample_joint(shape, generator=seeded())
    assert tasks.constraints.isfinite().all()
    assert tasks.objective.isfinite().all()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: HEBOPrior(unused_probability=1.0), r"unused_probability=1.0 is no probability below 1; try 0.3"),
    (lambda: HEBOPrior(kernel="cosine"), r"kernel='cosine' is unknown; use one of 'rbf', 'matern32', 'matern52'"),
    (lambda: HEBOPrior(warp_std=-1.0), r"warp_std=-1.0 is negative; use 0"),
    (lambda: HEBOPrior(noise=0.0), r"noise=0.0 is not positive and finite; use noise > 0"),
    (lambda: ConstrainedHEBOPrior(max_constraints=0), r"max_constraints=0 leaves no constraint; use max_constraints >= 1"),
    (lambda: ConstrainedHEBOPrior(independent_probability=1.5), r"independent_probability=1.5 is no probability"),
    (lambda: ConstrainedHEBOPrior(independent_probability=0.8), r"=0.8 and geometric_probability=0.3 add up to more"),
    (lambda: ConstrainedHEBOPrior(min_feasible=0.9), r"min_feasible=0.9 and max_feasible=0.9 must satisfy"),
])
def test_errors_name_argument_value_and_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()
