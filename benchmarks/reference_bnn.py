"""Bayesian neural networks: variational inference and the no-U-turn sampler on tasks of `BNNPrior.big()`.

    pip install numpyro
    OMP_NUM_THREADS=1 python benchmarks/reference_bnn.py --cache FILE                   # fills the file, prints a table

Tasks have 8 features, 100 context and 200 query rows, two classes; the network has 64 hidden units (tanh), and all weights
and biases are N(0, 1): 706 parameters. Both methods know this model exactly.

- `SVI k`: k Adam steps on the evidence lower bound of a Gaussian with diagonal covariance ("Bayes by backprop"), then the
  mean of the predicted probabilities of 128 of its draws. The learning rate is, for each k, the best of six on ten other
  tasks (`--tune` prints them).
- `NUTS k`: k samples after k steps of warm-up, and the mean of their predicted probabilities.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import torch
from numpyro import distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from nuts import NUTS, Sites
from paired import TaskScores, clock, mean_and_interval, show, use_one_thread

from priors import BNNPrior, TaskBatch, TaskShape
from priors.task import join

PRIOR = BNNPrior.big()
N_CONTEXT, N_QUERIES, N_FEATURES = 100, 200, 8
SVI_STEPS = tuple(2**k for k in range(1, 13))
NUTS_SAMPLES = tuple(2**k for k in range(1, 11))
N_GUIDE_DRAWS = 128
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
BEST_RATES = {
    2: 0.1, 4: 0.3, 8: 0.3, 16: 0.3, 32: 0.1, 64: 0.1,
    128: 0.03, 256: 0.03, 512: 0.01, 1024: 0.003, 2048: 0.003, 4096: 0.001,
}
_TASKS_AT_ONCE = 20                                                 # drawn together, so that more tasks begin with the same


def draw_tasks(n_tasks: int, seed: int) -> TaskBatch:
    """Those of a smaller number are the first of a larger."""
    generator = torch.Generator().manual_seed(seed)
    shape = TaskShape(_TASKS_AT_ONCE, N_CONTEXT + N_QUERIES, N_FEATURES, N_CONTEXT)
    batch = join([PRIOR.sample(shape, generator=generator) for _ in range(-(-n_tasks // _TASKS_AT_ONCE))])
    return batch.select(torch.arange(n_tasks))


def sites(prior: BNNPrior, n_features: int) -> Sites:
    """Shapes of the parameters of a network with one hidden layer."""
    width = prior.width
    assert isinstance(width, int)
    assert prior.n_hidden_layers == 1
    return {"w1": (n_features, width), "b1": (width,), "w2": (width, prior.n_classes), "b2": (prior.n_classes,)}


def log_probabilities(weights: dict[str, Any], x: Any, activation: str = "tanh") -> Any:
    """Of the classes; x (R, F) gives (R, n_classes)."""
    function = {"tanh": jnp.tanh, "identity": lambda h: h, "relu": jax.nn.relu}[activation]
    hidden = function(x @ weights["w1"] + weights["b1"])
    return jax.nn.log_softmax(hidden @ weights["w2"] + weights["b2"])


def numpyro_model(prior: BNNPrior, n_features: int) -> Callable[..., None]:
    """The prior as a NumPyro model of (x, y)."""
    std = prior.weight_std
    assert isinstance(std, int | float)
    assert prior.noise_std == prior.output_noise_std == prior.sparsity == 0
    assert prior.target == "softmax"

    def model(x: Any, y: Any = None) -> None:
        weights = {
            name: numpyro.sample(name, dist.Normal(0.0, std).expand(size).to_event(len(size)))
            for name, size in sites(prior, n_features).items()
        }
        logits = log_probabilities(weights, x, prior.activation)
        numpyro.sample("y", dist.Categorical(logits=logits).to_event(1), obs=y)

    return model


@jax.jit
def averaged(weights: dict[str, Any], x: Any) -> Any:
    """Log of the mean over draws (S, …) of the predicted probabilities, (R, n_classes)."""
    each = jax.vmap(lambda one: log_probabilities(one, x, PRIOR.activation))(weights)
    return jax.nn.logsumexp(each, axis=0) - jnp.log(len(each))


class Variational:
    """A Gaussian with diagonal covariance, fitted by Adam; compiled once for any number of steps."""

    def __init__(self, prior: BNNPrior, n_features: int) -> None:
        self.model = numpyro_model(prior, n_features)
        self.run = jax.jit(self._run)

    def _run(self, seed: Any, x: Any, y: Any, n_steps: Any, rate: Any) -> dict[str, Any]:
        start_key, draw_key = jax.random.split(jax.random.PRNGKey(seed))
        guide = AutoNormal(self.model)
        svi = SVI(self.model, guide, numpyro.optim.Adam(lambda _: rate), Trace_ELBO())
        state = svi.init(start_key, x, y)
        state = jax.lax.fori_loop(0, n_steps, lambda _, state: svi.update(state, x, y)[0], state)
        return guide.sample_posterior(draw_key, svi.get_params(state), sample_shape=(N_GUIDE_DRAWS,))


class Methods:
    """Scores of every method: `score(method, task)`."""

    def __init__(self, n_tasks: int, seed: int, rates: dict[int, float] | None = None) -> None:
        self.seed, self.rates = seed, BEST_RATES if rates is None else rates
        self.batch = draw_tasks(n_tasks, seed)
        self.variational = Variational(PRIOR, N_FEATURES)
        self.chains: dict[int, NUTS] = {}
        self.compile_seconds: dict[str, float] = {}

    def task(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, y, x_query, y_query."""
        x, y = self.batch.x[index].numpy(), self.batch.y[index].numpy()
        return x[:N_CONTEXT], y[:N_CONTEXT], x[N_CONTEXT:], y[N_CONTEXT:]

    def weights(self, method: str, index: int) -> dict[str, Any]:
        """Draws of the posterior, (S, …) each."""
        x, y, _, _ = self.task(index)
        kind, count = method.split()
        if kind == "SVI":
            return self.variational.run(index, x, y, int(count), self.rates[int(count)])
        draws = self._nuts(int(count)).sample(x, y, index)
        return {name: draws[name].reshape(-1, *size) for name, size in sites(PRIOR, N_FEATURES).items()}

    def _nuts(self, count: int) -> NUTS:
        if count not in self.chains:
            self.chains[count] = NUTS(numpyro_model(PRIOR, N_FEATURES), sites(PRIOR, N_FEATURES), count)
        return self.chains[count]

    def score(self, method: str, index: int) -> dict[str, float]:
        _, _, x_query, y_query = self.task(index)
        log_p = np.asarray(averaged(self.weights(method, index), x_query))
        nll = -np.take_along_axis(log_p, y_query[:, None], 1).mean()
        return {"nll": nll, "accuracy": (log_p.argmax(1) == y_query).mean()}

    def compile(self, method: str) -> None:
        """On the first task; a method is compiled once for its number of samples."""
        if method not in self.compile_seconds:
            start = clock()
            kind, count = method.split()
            if kind == "SVI":
                self.variational.run(0, *self.task(0)[:2], 1, 0.01)
            else:
                self._nuts(int(count)).compile(*self.task(0)[:2])
            weights = {name: jnp.zeros((N_GUIDE_DRAWS if kind == "SVI" else int(count), *size))
                       for name, size in sites(PRIOR, N_FEATURES).items()}
            averaged(weights, self.task(0)[2])
            self.compile_seconds[method] = clock() - start

    def key(self, method: str) -> str:
        return f"seed={self.seed}/{method}"

    def fill(self, scores: TaskScores, method: str, n_tasks: int) -> dict[str, list[float]]:
        """Scores of the first tasks, those of the file included; compilation does not count."""
        if len(scores.rows.get(self.key(method), {}).get("nll", [])) < n_tasks:
            self.compile(method)
        return scores.fill(self.key(method), n_tasks, lambda index: self.score(method, index))


def plan(n_tasks: int, n_long: int, most_samples: int) -> dict[str, int]:
    """Tasks of each method: NUTS of more than 64 samples on the first few only."""
    variational = {f"SVI {count}": n_tasks for count in SVI_STEPS}
    chains = {f"NUTS {k}": n_tasks if k <= 64 else min(n_long, n_tasks) for k in NUTS_SAMPLES if k <= most_samples}
    return variational | chains


def tune(n_tasks: int, seed: int) -> None:
    """Print the mean NLL of SVI by steps and learning rate."""
    methods = Methods(n_tasks, seed)
    for count in SVI_STEPS:
        nll = {}
        for rate in LEARNING_RATES:
            methods.rates = {count: rate}
            nll[rate] = np.mean([methods.score(f"SVI {count}", index)["nll"] for index in range(n_tasks)]).round(4)
        print(count, min(nll, key=nll.get), nll, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--long", type=int, default=20, help="tasks for NUTS of more than 64 samples")
    parser.add_argument("--most-samples", type=int, default=1024, help="of NUTS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="file of scores of single tasks, read and extended")
    parser.add_argument("--quick", action="store_true", help="a few tasks and short chains only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--tune", action="store_true", help="learning rates of SVI, on ten other tasks")
    args = parser.parse_args()
    if args.tune:
        tune(10, args.seed + 1000)
        return
    if args.quick:
        args.tasks, args.long, args.most_samples = 3, 2, 16
    scores, methods = TaskScores(args.cache), Methods(args.tasks, args.seed)
    print("| method | tasks | NLL | accuracy | seconds a task |\n|---|---|---|---|---|")
    for method, count in plan(args.tasks, args.long, args.most_samples).items():
        row = methods.fill(scores, method, count)
        print(f"| {method} | {count} | {show(mean_and_interval(row['nll']))} | {np.mean(row['accuracy']):.3f} | "
              f"{np.mean(row['seconds']):.4f} |", flush=True)


if __name__ == "__main__":
    use_one_thread()
    main()
