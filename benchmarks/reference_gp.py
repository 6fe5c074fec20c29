"""Gaussian processes with unknown hyper-parameters: what a network is compared with on tasks of that prior.

    pip install numpyro
    OMP_NUM_THREADS=1 python benchmarks/reference_gp.py --cache FILE                    # fills the file, prints a table

- `reference`: adaptive importance sampling (`priors.gp_reference`). Tasks with an effective sample size below 50 are counted
  and left out of every comparison.
- `MAP`: the most probable hyper-parameters under the same priors, by L-BFGS from several starts; the densities are those
  of the hyper-parameters themselves, as in GPyTorch. `MLE-II`: without the priors.
- `NUTS k`: k samples after k steps of warm-up; `NUTS long`: four chains of 500 after 500. The predictive density is the mean
  of the exact ones given each draw.

In MAP, MLE-II and NUTS the noise is at its floor, which is where 99.9 % of the prior's tasks have it; its density, infinite
at 0, has no mode and no chain could explore it.

References
----------
.. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
import torch
from paired import TaskScores, mean_and_interval, show, use_one_thread
from torch import Tensor

from priors import GPPrior, TaskBatch, TaskShape
from priors.distributions import Gamma
from priors.draw import Draw
from priors.functions import GaussianMixture
from priors.gp import RELATIVE_JITTER, Hyperparameters, gp_posterior
from priors.gp_reference import WeightedHyperparameters, sample_hyperparameters
from priors.task import join

PRIOR = GPPrior.with_hyperpriors()
CONTEXTS = (10, 20, 30)
N_QUERIES = 20
LEAST_EFFECTIVE_SIZE = 50
GRID = (8, 16, 32, 64, 128, 256)                                    # samples of NUTS; [1] used 32 and 256
_TASKS_AT_ONCE = 100                                                # drawn together, so that more tasks begin with the same


def draw_tasks(prior: GPPrior, n: int, n_features: int, n_tasks: int, seed: int) -> TaskBatch:
    """Tasks of `n` context and 20 query rows; those of a smaller number are the first of a larger."""
    generator = torch.Generator().manual_seed(1000 * seed + n)
    shape = TaskShape(_TASKS_AT_ONCE, n + N_QUERIES, n_features, n)
    batch = join([prior.sample(shape, generator=generator) for _ in range(math.ceil(n_tasks / _TASKS_AT_ONCE))])
    return batch.select(torch.arange(n_tasks))


def predict(prior: GPPrior, hyper: Hyperparameters, x: Tensor, y: Tensor, x_query: Tensor) -> GaussianMixture:
    """Predictive under equally weighted hyper-parameters (S, …)."""
    count = len(hyper.noise)
    even = torch.full((count,), -math.log(count), dtype=torch.float64)
    return WeightedHyperparameters(hyper, even, math.nan).predict(prior.kernel, x, y, x_query)


def at_floor(lengthscale: Tensor, outputscale: Tensor) -> Hyperparameters:
    """With the least noise."""
    return Hyperparameters(lengthscale, outputscale, RELATIVE_JITTER * outputscale, torch.zeros_like(outputscale))


def most_probable(
    prior: GPPrior, x: Tensor, y: Tensor, *, has_priors: bool, generator: torch.Generator, n_starts: int = 4
) -> Hyperparameters:
    """Hyper-parameters that maximise the marginal likelihood, with `has_priors` times their prior densities.

    Starts are draws of the prior; the logarithms are bounded to those of 1e-3 … 1e3.
    """
    laws = [prior.lengthscale] * (x.shape[1] if prior.ard else 1) + [prior.outputscale]
    assert all(isinstance(law, Gamma) for law in laws)
    shape, rate = (torch.tensor([getattr(law, name) for law in laws], dtype=torch.float64) for name in ("shape", "rate"))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value = torch.from_numpy(theta).requires_grad_()
        positive = value.exp()
        hyper = at_floor(positive[:-1], positive[-1])
        total = -gp_posterior(x, y, x[:0], kernel=prior.kernel, lengthscale=hyper.lengthscale,
                              outputscale=hyper.outputscale, noise=hyper.noise).log_marginal_likelihood
        if has_priors:
            total = total - ((shape - 1) * value - rate * positive).sum()
        total.backward()
        return total.item(), value.grad.numpy()

    draw = Draw(generator)
    starts = torch.stack([law.log_sample(n_starts, draw=draw) for law in laws], 1).double().numpy()
    bounds = [(math.log(1e-3), math.log(1e3))] * len(laws)
    runs = [
        scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
        for start in np.clip(starts, *bounds[0])
    ]
    best = torch.from_numpy(min(runs, key=lambda run: run.fun).x).exp()
    return at_floor(best[None, :-1], best[None, -1])


def numpyro_model(prior: GPPrior) -> Callable[..., None]:
    """The prior as a NumPyro model of (x, y), with noise at its floor."""
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as dist

    scale, variance = prior.lengthscale, prior.outputscale
    assert prior.kernel == "matern52"
    assert prior.ard
    assert isinstance(scale, Gamma)
    assert isinstance(variance, Gamma)

    def model(x: Any, y: Any) -> None:
        law = dist.Gamma(scale.shape, scale.rate).expand([x.shape[1]]).to_event(1)
        lengthscale = numpyro.sample("lengthscale", law)
        outputscale = numpyro.sample("outputscale", dist.Gamma(variance.shape, variance.rate))
        scaled = x / lengthscale * 5**0.5
        squared = jnp.maximum(jnp.square(scaled[:, None] - scaled[None]).sum(-1), 1e-30)
        r = jnp.sqrt(squared)
        correlation = (1 + r + squared / 3) * jnp.exp(-r) + RELATIVE_JITTER * jnp.eye(len(x))
        law = dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=outputscale * correlation)
        numpyro.sample("y", law, obs=y)

    return model


class GPChains:
    """NUTS over the hyper-parameters."""

    def __init__(self, prior: GPPrior, n_features: int, n_samples: int, n_chains: int = 1) -> None:
        from nuts import NUTS  # here, as it needs NumPyro

        sites = {"lengthscale": (n_features,), "outputscale": ()}
        self.nuts = NUTS(numpyro_model(prior), sites, n_samples, n_chains=n_chains, is_double=True)

    def sample(self, x: Tensor, y: Tensor, seed: int) -> tuple[Hyperparameters, float]:
        """Draws of all chains, and the largest R-hat of a coordinate (NaN for one chain)."""
        draws = self.nuts.sample(x.numpy(), y.numpy(), seed)
        scales, variances = (torch.tensor(draws[name]) for name in ("lengthscale", "outputscale"))
        r_hat = math.nan
        if self.nuts.n_chains > 1:
            from numpyro.diagnostics import split_gelman_rubin

            r_hat = float(max(split_gelman_rubin(draws[name]).max() for name in ("lengthscale", "outputscale")))
        return at_floor(scales.flatten(0, 1).exp(), variances.flatten().exp()), r_hat


class Methods:
    """Scores of every method on the tasks of one context size: `score(method, task)`."""

    def __init__(self, n: int, n_features: int, n_tasks: int, seed: int) -> None:
        self.n, self.n_features, self.seed = n, n_features, seed
        self.batch = draw_tasks(PRIOR, n, n_features, n_tasks, seed)
        self.chains: dict[str, GPChains] = {}

    def task(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, y, x_query, y_query, in float64."""
        x, y = self.batch.x[index].double(), self.batch.y[index].double()
        return x[:self.n], y[:self.n], x[self.n:], y[self.n:]

    def key(self, method: str) -> str:
        return f"d={self.n_features}/n={self.n}/seed={self.seed}/{method}"

    def score(self, method: str, index: int) -> dict[str, float]:
        x, y, x_query, y_query = self.task(index)
        generator = torch.Generator().manual_seed(index)
        extra = {}
        if method in ("reference", "reference again"):
            generator.manual_seed(index + 10**6 * (method == "reference again"))
            draws = sample_hyperparameters(PRIOR, x, y, generator=generator)
            mixture = draws.predict(PRIOR.kernel, x, y, x_query)
            extra["effective_size"] = draws.effective_size
        elif method in ("MAP", "MLE-II"):
            hyper = most_probable(PRIOR, x, y, has_priors=method == "MAP", generator=generator)
            mixture = predict(PRIOR, hyper, x, y, x_query)
        else:
            chains = self.compiled(method)
            hyper, r_hat = chains.sample(x, y, index)
            if not math.isnan(r_hat):
                extra["r_hat"] = r_hat
            mixture = predict(PRIOR, hyper, x, y, x_query)
        return {"nll": -mixture.log_prob(y_query).mean().item()} | extra

    def compiled(self, method: str) -> GPChains:
        """NUTS, ready to run: compiled on the first task."""
        if method not in self.chains:
            count = method.removeprefix("NUTS ")
            chains = GPChains(PRIOR, self.n_features, *((500, 4) if count == "long" else (int(count), 1)))
            chains.nuts.compile(*(value.numpy() for value in self.task(0)[:2]))
            self.chains[method] = chains
        return self.chains[method]

    def fill(self, scores: TaskScores, method: str, n_tasks: int) -> dict[str, list[float]]:
        """Scores of the first tasks, those of the file included; compilation does not count."""
        if method.startswith("NUTS") and len(scores.rows.get(self.key(method), {}).get("nll", [])) < n_tasks:
            self.compiled(method)
        return scores.fill(self.key(method), n_tasks, lambda index: self.score(method, index))


def plan(n_tasks: int, n_chained: int, n_long: int) -> dict[str, int]:
    """Tasks of each method."""
    chains = {f"NUTS {count}": min(n_chained, n_tasks) for count in GRID}
    few = {"reference again": min(50, n_tasks), "NUTS long": min(n_long, n_tasks)}
    return {"reference": n_tasks, "MAP": n_tasks, "MLE-II": n_tasks} | chains | few


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", type=int, default=200, help="of each context size, for the reference, MAP and MLE-II")
    parser.add_argument("--chained", type=int, default=100, help="tasks for NUTS")
    parser.add_argument("--long", type=int, default=20, help="tasks for the long chains")
    parser.add_argument("--features", type=int, default=3)
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="file of scores of single tasks, read and extended")
    parser.add_argument("--quick", action="store_true", help="a few tasks only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args()
    use_one_thread()
    if args.quick:
        args.tasks, args.chained, args.long = 8, 4, 2
    scores = TaskScores(args.cache)
    print("| n | method | tasks | NLL | gap to the reference | seconds a task |\n|---|---|---|---|---|---|")
    for n in args.contexts:
        methods = Methods(n, args.features, args.tasks, args.seed)
        reference: dict[str, list[float]] = {}
        for method, count in plan(args.tasks, args.chained, args.long).items():
            row = methods.fill(scores, method, count)
            reference = reference or row
            use = np.array(reference["effective_size"][:count]) >= LEAST_EFFECTIVE_SIZE
            gap = np.array(row["nll"]) - reference["nll"][:count]
            note = "".join(f", R-hat ≤ {max(row['r_hat']):.3f}" for _ in range("r_hat" in row))
            print(f"| {n} | {method} | {use.sum()} of {count}{note} | {np.mean(np.array(row['nll'])[use]):.3f} | "
                  f"{show(mean_and_interval(gap[use]))} | {np.mean(row['seconds']):.4f} |", flush=True)


if __name__ == "__main__":
    main()
