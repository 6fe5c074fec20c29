"""The no-U-turn sampler of NumPyro, compiled as one function of the data: nothing of a chain is left to Python.

`numpyro.infer.MCMC` traces the model anew in every call, which costs more than the chains of a small task. Everything else
is as there: starts uniform in [-2, 2] in unconstrained space, target acceptance 0.8, diagonal mass, depth of at most 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpyro.infer.hmc import hmc
from numpyro.infer.util import potential_energy
from paired import clock

Sites = dict[str, tuple[int, ...]]


class NUTS:
    """Chains for the posterior of a model's sites given its arguments.

    Parameters
    ----------
    model : callable
        A NumPyro model of arrays (x, y).
    sites : dict
        Shape of each unconstrained site.
    n_samples, n_warmup : int
        Of each chain; as many steps to warm up as samples if not given.
    n_chains : int
        One after the other.
    is_double : bool
        float64, which covariances with little noise need.
    """

    def __init__(
        self, model: Callable[..., None], sites: Sites, n_samples: int, n_warmup: int | None = None, *, n_chains: int = 1,
        is_double: bool = False,
    ) -> None:
        self.model, self.sites = model, sites
        self.n_samples, self.n_warmup = n_samples, n_samples if n_warmup is None else n_warmup
        self.n_chains, self.is_double = n_chains, is_double
        self.compile_seconds = 0.0
        self._compiled: dict[tuple[int, ...], Any] = {}

    def sample(self, x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Unconstrained draws (chains, samples, *site), and `n_steps` and `diverging` (chains, samples)."""
        self.compile(x, y)
        with jax.enable_x64(self.is_double):
            run = self._compiled[x.shape]
            draws = run(jax.random.PRNGKey(seed), jax.numpy.asarray(x), jax.numpy.asarray(y))
            return {name: np.asarray(value) for name, value in draws.items()}

    def compile(self, x: np.ndarray, y: np.ndarray) -> None:
        """For data of these shapes, unless that is done."""
        if x.shape in self._compiled:
            return
        start = clock()
        with jax.enable_x64(self.is_double):
            arguments = (jax.random.PRNGKey(0), jax.numpy.asarray(x), jax.numpy.asarray(y))
            self._compiled[x.shape] = jax.jit(self._run).lower(*arguments).compile()
        self.compile_seconds = clock() - start

    def _run(self, key: jax.Array, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
        return jax.lax.map(lambda one: self._chain(one, x, y), jax.random.split(key, self.n_chains))

    def _chain(self, key: jax.Array, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
        start_key, run_key = jax.random.split(key)
        keys = jax.random.split(start_key, len(self.sites))
        start = {
            name: jax.random.uniform(one, size, minval=-2.0, maxval=2.0)
            for one, (name, size) in zip(keys, self.sites.items(), strict=True)
        }
        kernel = hmc(potential_fn=lambda sites: potential_energy(self.model, (x, y), {}, sites), algo="NUTS")
        state = kernel[0](start, self.n_warmup, rng_key=run_key)
        state = jax.lax.fori_loop(0, self.n_warmup, lambda _, state: kernel[1](state), state)

        def step(state: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
            state = kernel[1](state)
            return state, state.z | {"n_steps": state.num_steps, "diverging": state.diverging}

        return jax.lax.scan(step, state, None, length=self.n_samples)[1]
