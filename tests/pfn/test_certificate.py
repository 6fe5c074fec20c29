import json
import math
from dataclasses import replace

import pytest
import torch

from pfn import PFN, PFNConfig, load_pretrained, save_checkpoint
from pfn.certificate import CASES, Case, Certificate, cases_of, certify, differences, exact_log_prob, record, table
from pfn.checkpoint import Envelope, ModelCard, bundled_weights, read_tensors
from pfn.cli import main
from pfn.recipes import RECIPES
from priors import DirichletPrior, GPPrior, LinearPrior, SCMPrior, TaskShape
from priors.distributions import Gamma
from priors.functions import MixtureOfRegressionsPrior, SparseLinearPrior
from priors.linear import ConjugateLinearPrior

SIZE = {"embed_dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "n_thinking_rows": 2}


class Normal(torch.distributions.Normal):
    pass


class ExactGP:
    """Stands in for a network that has learned the posterior, or one `factor` times as wide."""

    config = PFNConfig(task="regression")

    def __init__(self, factor=1.0):
        self.factor = factor

    def posterior(self, x, y, x_query):
        mean, variance = GPPrior().posterior(x, y, x_query)
        return Normal(mean, self.factor * variance.sqrt())


class ExactDirichlet:
    config = PFNConfig(task="classification")

    def __init__(self, prior):
        self.prior = prior

    def __call__(self, x, y):
        return self.prior.posterior(x[:, : y.shape[1]], y, x[:, y.shape[1] :]).log()


def test_the_exact_posterior_has_no_gap_and_is_calibrated():
    for one in certify(ExactGP(), [Case(GPPrior(), 2, (1, 10, 40))], n_tasks=400):
        assert one.gap == pytest.approx(0.0, abs=1e-5)
        assert one.nll == pytest.approx(one.exact_nll, abs=1e-5)
        assert [one.coverage[level] for level in ("50", "80", "95")] == pytest.approx([0.5, 0.8, 0.95], abs=0.03)
        assert one.ks < 0.05


def test_the_gap_is_the_divergence():
    """From N(m, v) to a normal k times as wide: ln k + 1 / 2k² - 1/2 nats."""
    k = 2.0
    expected = math.log(k) + 0.5 / k**2 - 0.5
    (one,) = certify(ExactGP(k), [Case(GPPrior(), 1, (10,))], n_tasks=1000)
    assert one.gap == pytest.approx(expected, abs=2 * one.gap_error)
    assert one.gap_error < 0.05
    assert one.coverage["50"] == pytest.approx(math.erf(k * 0.6745 / 2**0.5), abs=0.03)
    assert one.ks > 0.1


def test_classification_gap_and_coverage():
    prior = DirichletPrior(n_classes=3)
    (one,) = certify(ExactDirichlet(prior), [Case(prior, 2, (60,))], n_tasks=500)
    assert one.gap == pytest.approx(0.0, abs=1e-5)
    assert [one.coverage[level] for level in ("50", "80", "95")] == pytest.approx([0.5, 0.8, 0.95], abs=0.03)
    assert one.ks < 0.03


@pytest.mark.parametrize(
    "prior",
    [GPPrior(), LinearPrior(noise=0.1), ConjugateLinearPrior(), SparseLinearPrior(sparsity=2, noise=0.1),
     MixtureOfRegressionsPrior()],
    ids=lambda prior: type(prior).__name__,
)
def test_exact_densities_beat_those_of_another_task(prior):
    """On average, the exact posterior is better than the same one shown the targets of another task."""
    generator = torch.Generator().manual_seed(0)
    batch = prior.sample(TaskShape(200, 20, 3, 12), generator=generator)
    exact = exact_log_prob(prior, batch, generator)
    assert exact.shape == (200, 8)
    other = replace(batch, y=torch.cat([batch.y[:, :12].roll(1, 0), batch.y[:, 12:]], dim=1))
    assert (exact - exact_log_prob(prior, other, generator)).mean() > 0.1


def test_unknown_hyperparameters_are_integrated_out():
    prior, generator = GPPrior.with_hyperpriors(), torch.Generator().manual_seed(0)
    batch = prior.sample(TaskShape(3, 14, 1, 10), generator=generator)
    exact = exact_log_prob(prior, batch, generator)
    again = exact_log_prob(prior, batch, torch.Generator().manual_seed(5))
    torch.testing.assert_close(exact, again, atol=0.1, rtol=0.05)


def test_priors_of_unknown_posterior_give_calibration_only():
    model = PFN(PFNConfig(n_outputs=10, **SIZE)).eval()
    (one,) = certify(model, [Case(SCMPrior(10), 4, (20,))], n_tasks=20)
    assert one.exact_nll is one.gap is one.gap_error is None
    assert 0 < one.nll < 5
    assert "gap" in table([one])


def test_padding_is_missing():
    """What a prior leaves in columns that are none does not matter."""
    class Padded:
        def __init__(self, filling):
            self.filling = filling

        def __repr__(self):
            return "Padded"

        def sample(self, shape, *, generator):
            batch = GPPrior().sample(shape, generator=generator)
            mask = torch.tensor([[True, True, False]]).expand(shape.batch_size, -1)
            return replace(batch, x=batch.x.masked_fill(~mask.unsqueeze(1), self.filling), feature_mask=mask)

    model = PFN(PFNConfig(task="regression", n_outputs=20, **SIZE)).eval()
    zeros, fives = (certify(model, [Case(Padded(value), 3, (8,))], n_tasks=10) for value in (0.0, 5.0))
    assert zeros == fives


def test_any_unknown_hyperparameter_is_integrated_out():
    """Not only the lengthscale; and whole numbers are known ones."""
    assert not GPPrior(lengthscale=1, noise=1e-2).has_hyperpriors
    prior, generator = GPPrior(noise=Gamma(2.0, 20.0)), torch.Generator().manual_seed(0)
    batch = prior.sample(TaskShape(2, 14, 1, 10), generator=generator)
    assert exact_log_prob(prior, batch, generator).isfinite().all()


def test_same_seed_same_certificate():
    cases = [Case(GPPrior(), 1, (5,))]
    model = PFN(PFNConfig(task="regression", n_outputs=20, **SIZE)).eval()
    first, second, other = (certify(model, cases, n_tasks=10, seed=seed)[0] for seed in (3, 3, 4))
    assert first == second != other


def test_differences_name_what_changed():
    found = certify(ExactGP(), [Case(GPPrior(), 1, (5, 10))], n_tasks=20)
    kept = json.loads(json.dumps(record(found, seed=0)))
    assert kept["seed"] == 0
    assert differences(found, kept) == []
    changed = [replace(found[0], nll=found[0].nll + 0.1), replace(found[1], nll=math.nan)]
    lines = differences(changed, kept)
    assert len(lines) == 2
    assert "5 context rows: negative log-likelihood" in lines[0]
    assert "nothing is recorded" in differences([replace(found[0], n_tasks=7)], kept)[0]
    assert Certificate.from_dict(kept["found"][0]).n_context == 5


def test_kinds_must_agree():
    with pytest.raises(ValueError, match="draws classes but the network regresses"):
        certify(PFN(PFNConfig(task="regression", n_outputs=9, **SIZE)), [Case(DirichletPrior(), 2, (30,))], n_tasks=5)
    with pytest.raises(ValueError, match="cases is empty"):
        certify(ExactGP(), [])


def test_every_case_belongs_to_a_recipe():
    assert CASES.keys() <= RECIPES.keys()
    config = RECIPES["gp-5d"]()
    card = ModelCard(config.model, repr(config.prior), Envelope(160, 5))
    assert cases_of(card) == CASES["gp-5d"]
    assert cases_of(replace(card, prior="another")) == []


def test_command_records_and_reproduces(tmp_path, monkeypatch, capsys):
    config = replace(RECIPES["gp-1d"](), model=PFNConfig(task="regression", n_outputs=20, **SIZE))
    monkeypatch.setitem(RECIPES, "tiny", lambda: config)
    monkeypatch.setitem(CASES, "tiny", [Case(GPPrior(), 1, (2, 5))])
    path = str(tmp_path / "tiny.safetensors")
    save_checkpoint(PFN(config.model), path, ModelCard(config.model, repr(config.prior), Envelope(160, 1)))
    assert main(["certify", path, "--tasks", "30"]) == 0
    assert "no certificate of these tasks" in capsys.readouterr().out
    assert main(["certify", path, "--tasks", "30", "--queries", "5", "--record"]) == 0
    assert len(load_pretrained(path).card.certificate["found"]) == 2
    capsys.readouterr()
    assert main(["certify", path]) == 0                             # with what was recorded
    out = capsys.readouterr().out
    assert "reproduces the certificate of 20" in out
    assert "± " in out
    assert main(["info", path]) == 0
    assert "2 cases, gap to the exact posterior" in capsys.readouterr().out
    tensors, card = read_tensors(path)
    tensors["decoder.2.bias"] = torch.linspace(0, 3, 20)
    other = PFN(config.model)
    other.load_state_dict(tensors)
    save_checkpoint(other, path, card)
    assert main(["certify", path]) == 1
    assert "does not reproduce its certificate" in capsys.readouterr().err
    assert main(["certify", path, "--prior", "linear", "--features", "2", "--context", "4", "--tasks", "9"]) == 0
    assert "LinearPrior" in capsys.readouterr().out
    assert main(["certify", path, "--prior", "linear", "--tasks", "9", "--record"]) == 1


def test_command_needs_a_prior_for_networks_of_no_recipe(tmp_path, capsys):
    config = PFNConfig(task="regression", n_outputs=20, **SIZE)
    path = str(tmp_path / "own.safetensors")
    save_checkpoint(PFN(config), path, ModelCard(config, "MyPrior()", Envelope(50, 2)))
    assert main(["certify", path]) == 1
    assert "--prior" in capsys.readouterr().err


@pytest.mark.parametrize("name", bundled_weights())
def test_bundled_weights_reproduce_their_certificate(name, monkeypatch):
    """The likelihood of the first case; the exact posterior was computed when the certificate was recorded."""
    model = load_pretrained(name)
    if not model.card.certificate:
        pytest.skip(f"no certificate has been recorded for {name}")
    recorded, case = model.card.certificate, cases_of(model.card)[0]
    monkeypatch.setattr("pfn.certificate.exact_log_prob", lambda *_: None)
    how = {key: recorded[key] for key in ("n_tasks", "n_queries", "seed")}
    found = certify(model, [replace(case, contexts=case.contexts[:1])], **how)
    assert differences(found, recorded) == []
    assert found[0].coverage["95"] == pytest.approx(0.95, abs=0.03)
