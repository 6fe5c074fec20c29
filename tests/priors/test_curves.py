"""The published prior against its definition and published quantiles; each addition against what it promises."""

import math
import warnings

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import priors.curves
from priors import LearningCurvePrior, Prior, TaskShape
from priors.curve_families import FAMILIES, RELEASED, CurveFamily
from priors.draw import Draw

SHAPE = TaskShape(64, 100, 1, 20)
T = np.arange(1, 101, dtype=float)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def curves(n, m=100, seed=0, **arguments):
    return LearningCurvePrior(**arguments).sample_curves(n, m, generator=seeded(seed))


@pytest.fixture(scope="module")
def released():
    """10^5 curves of the default prior and their noise."""
    torch.set_num_threads(1)
    return curves(100_000)


# (formula in NumPy with its own parameters, SciPy distribution of each parameter), straight from the definitions.
uniform = lambda low, high: scipy.stats.uniform(low, high - low)  # noqa: E731
lognormal = lambda mean, std: scipy.stats.lognorm(s=std, scale=np.exp(mean))  # noqa: E731
loguniform = lambda low, high: scipy.stats.loguniform(np.exp(low), np.exp(high))  # noqa: E731
normal = scipy.stats.norm
DEFINITIONS = {
    "pow3": (lambda c, a, al: c - a / T**al, [uniform(0, 1.25), uniform(-0.6, 0.6), lognormal(0, 2)]),
    "janoschek": (
        lambda a, be, ka, de: a - (a - be) / np.exp(ka * T**de),
        [uniform(0, 1), uniform(0, 2), lognormal(-2, 1), lognormal(0, 0.5)],
    ),
    "ilog2": (lambda c, a: c - a / np.log1p(T), [uniform(0, 1), uniform(-0.5, 0.5)]),
    "log_power": (lambda a, b, c: a / (1 + np.exp(c * (np.log(T) - b))), [normal(0.8, 0.1), normal(1, 1), uniform(-3, 0)]),
    "weibull": (
        lambda al, be, ka, de: be + (al - be) * -np.expm1(-(ka**de) * T**de),
        [uniform(0, 1.5), uniform(0, 1), lognormal(-2, 1), lognormal(0, 0.5)],
    ),
    "mmf": (
        lambda al, be, ka, de: (be + al * (ka * T) ** de) / (1 + (ka * T) ** de),
        [normal(0.8, 0.1), normal(0.2, 0.1), lognormal(0, 2), lognormal(0, 1)],
    ),
    "vapour_pressure": (
        lambda a, b, c: np.exp(a) * np.exp(b / T) * T**c, [uniform(-2, 0), uniform(-4, 0), loguniform(-8, 0)],
    ),
    "log_log_linear": (lambda a, b: np.log(b + a * np.log(T)), [lognormal(-2, 1), loguniform(0, 1)]),
    "exp4": (
        lambda c, a, al, b: c - np.exp(b) / np.exp(a * T**al),
        [normal(0.8, 0.1), lognormal(-2, 1), lognormal(0, 1), lognormal(0, 0.5)],
    ),
    "pow4": (
        lambda gap, a, al, b: 1 - gap - 1 / (b + a * T) ** al,
        [loguniform(-5, 0), lognormal(-3, 2), lognormal(0, 1), loguniform(0, 1)],
    ),
    "dr_hill": (
        lambda th, eta, ka: th * scipy.special.expit(eta * (np.log(T) - np.log(ka))),
        [normal(0.8, 0.1), lognormal(1, 1), lognormal(1, 2)],
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_family_has_the_formula_of_its_definition(name):
    formula, laws = DEFINITIONS[name]
    parameters = [law.rvs(50, random_state=i) for i, law in enumerate(laws)]
    ours = FAMILIES[name].formula(torch.from_numpy(T), *(torch.from_numpy(p).unsqueeze(1) for p in parameters))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)             # the oracle's own overflow
        theirs = np.stack([formula(*values) for values in zip(*parameters, strict=True)])
    fine = np.isfinite(theirs)
    assert fine.mean() > 0.8
    np.testing.assert_allclose(ours.numpy()[fine], theirs[fine], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_draws_parameters_from_the_laws_of_its_definition(name):
    laws, draw = DEFINITIONS[name][1], Draw(seeded(1))
    assert len(FAMILIES[name].parameters) == len(laws)
    for parameter, law in zip(FAMILIES[name].parameters, laws, strict=True):
        values = parameter(draw, 5000)
        assert values.shape == (5000, 1)
        assert scipy.stats.kstest(values.squeeze(1).numpy(), law.cdf).pvalue > 1e-4


def test_one_candidate_in_five_is_accepted():
    f = LearningCurvePrior()._candidates(100_000, torch.arange(1.0, 101.0), Draw(seeded()))
    fine = ((f >= 0) & (f <= 1)).all(1) & (f[:, -1] > f[:, 0])
    assert fine.float().mean() == pytest.approx(0.20, abs=0.01)


def test_noiseless_curves_stay_inside_and_rise(released):
    f, _ = released
    assert f.isfinite().all()
    assert f.min() >= 0
    assert f.max() <= 1
    assert (f[:, -1] > f[:, 0]).all()


def test_final_values_and_gains_have_the_published_quantiles(released):
    f, _ = released
    q = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    published = {"final": [0.22, 0.44, 0.63, 0.80, 0.95], "gain": [0.01, 0.07, 0.16, 0.28, 0.50]}
    for values, expected in ((f[:, -1], published["final"]), (f[:, -1] - f[:, 0], published["gain"])):
        # Published with two digits; the standard error at 10^5 curves is √(q (1 - q) / 10^5) over a density above 0.3.
        np.testing.assert_allclose(values.quantile(q).numpy(), expected, atol=0.005 + 4 * 0.5 / 1e5**0.5 / 0.3)


def test_rejection_by_rounds_agrees_with_a_slow_loop():
    """Final values against curves drawn one at a time with NumPy and SciPy."""
    rng = np.random.default_rng(0)
    accepted = []
    parameters = {name: [law.rvs(20_000, random_state=rng) for law in DEFINITIONS[name][1]] for name in RELEASED}
    weights = rng.random((20_000, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for i in range(20_000):
            f = sum(
                weights[i, k] * DEFINITIONS[name][0](*(p[i] for p in parameters[name])) for k, name in enumerate(RELEASED)
            )
            if np.all((f >= 0) & (f <= 1)) and f[-1] > f[0]:
                accepted.append(f)
    ours, _ = curves(10_000, seed=5)
    for step in (0, 9, 99):
        assert scipy.stats.ks_2samp(np.array(accepted)[:, step], ours[:, step].numpy()).pvalue > 1e-3


def test_noise_is_log_normal_independent_and_constant(released):
    f, std = released
    assert (std == std[:, :1]).all()
    log_std = std[:, 0].log()
    assert log_std.mean() == pytest.approx(-4, abs=4 / 1e5**0.5)
    assert log_std.std() == pytest.approx(1, abs=4 / 2e5**0.5)
    n = 20_000
    prior = LearningCurvePrior()
    f, std = prior.sample_curves(n, 100, generator=seeded(3))
    z = (prior.sample(TaskShape(n, 100, 1, 20), generator=seeded(3)).y - f) / std
    z = z[std[:, 0] > 1e-3]                                         # below it float32 rounds y - f
    assert z.mean() == pytest.approx(0, abs=4 / z.numel() ** 0.5)
    assert z.square().mean() == pytest.approx(1, abs=4 * (2 / z.numel()) ** 0.5)
    assert (z[:, 1:] * z[:, :-1]).mean() == pytest.approx(0, abs=4 / z.numel() ** 0.5)


def test_log_noise_shifts_and_stretches_the_logarithm():
    plain, changed = curves(100)[1], curves(100, log_noise=(-6.0, 0.5))[1]
    torch.testing.assert_close(changed.log(), -6 + 0.5 * (plain.log() + 4), atol=1e-4, rtol=0)


def test_rows_are_steps_and_horizons_may_differ():
    for m in (2, 3, 37, 1000):
        batch = LearningCurvePrior.extended().sample(TaskShape(9, m, 1, m // 2), generator=seeded())
        assert torch.equal(batch.x, torch.arange(1.0, m + 1).view(1, m, 1).expand(9, m, 1))
        assert batch.y.shape == (9, m)
        assert batch.y.dtype == batch.x.dtype == torch.float32
        assert batch.n_classes is None
        assert batch.n_context == m // 2


@pytest.mark.parametrize("prior", [LearningCurvePrior(), LearningCurvePrior.extended()], ids=["released", "extended"])
def test_same_seed_gives_the_same_batch(prior):
    assert isinstance(prior, Prior)
    first, second = (prior.sample(SHAPE, generator=seeded()) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    assert not torch.equal(first.y, prior.sample(SHAPE, generator=seeded(1)).y)


@pytest.mark.parametrize("probability", [0.1, 1.0])
def test_nothing_is_ever_infinite_or_nan(probability):
    prior = LearningCurvePrior.extended(probability)
    for seed in range(2):
        f, std = prior.sample_curves(12_500, 100, generator=seeded(seed))
        assert f.isfinite().all()
        assert f.min() >= 0
        assert f.max() <= 1
        assert (std >= 0).all()
        assert std.isfinite().all()
        assert prior._observe(f, std, Draw(seeded(seed))).isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_works_alone(name):
    f, _ = curves(300, families=(name,))
    assert ((f >= 0) & (f <= 1)).all()
    assert (f[:, -1] > f[:, 0]).all()


def test_a_curve_adds_up_as_many_families_as_asked_with_uniform_weights(monkeypatch):
    """Family k is 1 at step k and 0 elsewhere, so a curve shows its weights."""
    for k, name in enumerate(FAMILIES):
        family = CurveFamily(lambda t, one, k=k: one * (t == k + 1), (lambda draw, n: torch.ones(n, 1),))
        monkeypatch.setitem(priors.curves.FAMILIES, name, family)
    prior = LearningCurvePrior(families=tuple(FAMILIES), n_combined=2)
    weight = prior._candidates(6000, torch.arange(1.0, 12.0), Draw(seeded()))                # (6000, 11)
    assert ((weight > 0).sum(1) == 2).all()
    p = 2 / 11
    assert ((weight > 0).float().mean(0) - p).abs().max() < 4 * (p * (1 - p) / 6000) ** 0.5
    assert scipy.stats.kstest(weight[weight > 0].numpy(), "uniform").pvalue > 1e-4


@pytest.fixture
def candidates(monkeypatch):
    """Every tensor of candidates that is drawn during a test."""
    drawn, draw_candidates = [], LearningCurvePrior._candidates
    monkeypatch.setattr(
        LearningCurvePrior, "_candidates",
        lambda self, *arguments: drawn.append(draw_candidates(self, *arguments)) or drawn[-1],
    )
    return drawn


def test_a_batch_takes_one_round_of_a_few_times_its_size(candidates):
    curves(256)
    assert len(candidates) == 1
    assert len(candidates[0]) < 8 * 256


def test_memory_is_bounded_in_rounds(candidates):
    curves(3000, 1000)
    assert len(candidates) > 1
    assert max(f.numel() for f in candidates) <= 2**22


def test_batch_is_filled_in_the_order_of_the_draws(candidates):
    f, _ = curves(200, families=("exp4",))                          # one in fifty is accepted: several rounds
    assert 1 < len(candidates) < 40
    assert max(len(f) for f in candidates) <= 8 * 200 + 64
    drawn = torch.cat(candidates)
    fine = ((drawn >= 0) & (drawn <= 1)).all(1) & (drawn[:, -1] > drawn[:, 0])
    assert torch.equal(f, drawn[fine][:200])


def test_hopeless_families_end_in_an_error(monkeypatch):
    nan = CurveFamily(lambda t, c: c * t * math.nan, (lambda draw, n: torch.ones(n, 1),))
    monkeypatch.setitem(priors.curves.FAMILIES, "ilog2", nan)
    with pytest.raises(RuntimeError, match=r"only 0 of \d+ curves of \('ilog2',\)"):
        curves(20_000, 2, families=("ilog2",))


def test_leaves_global_random_state_alone():
    before = torch.random.get_rng_state()
    LearningCurvePrior.extended().sample(SHAPE, generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (TaskShape(2, 100, 3, 10), r"n_features=3, but a curve has one feature, its step; use n_features=1"),
        (TaskShape(2, 1, 1, 0), r"n_steps=1 .*use at least 2"),
    ],
)
def test_rejects_shapes_that_are_no_curves(shape, message):
    with pytest.raises(ValueError, match=message):
        LearningCurvePrior().sample(shape, generator=seeded())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": ("pow3", "pow5")}, r"families has 'pow5'; choose from pow3, "),
        ({"families": ()}, r"families=\(\): pass a tuple"),
        ({"families": "pow3"}, r"families='pow3': pass a tuple"),
        ({"families": ("pow3", "pow3")}, "names a family twice"),
        ({"n_combined": 0}, "n_combined=0"),
        ({"log_noise": (-4.0, -1.0)}, r"log_noise=\(-4.0, -1.0\): pass the mean and the standard deviation"),
        ({"shapes": {"divergance": 0.1}}, r"shapes has 'divergance'; choose from slow_start"),
        ({"noise": {"spikes": 1.5}}, r"noise\['spikes'\]=1.5 is no probability"),
    ],
)
def test_rejects_what_it_does_not_know(arguments, message):
    with pytest.raises(ValueError, match=message):
        LearningCurvePrior(**arguments)


def test_rejects_what_is_no_generator():
    with pytest.raises(TypeError, match=r"must be a torch.Generator, got int 7"):
        LearningCurvePrior().sample(SHAPE, generator=7)
