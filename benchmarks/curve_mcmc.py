"""Oracles for the released learning-curve prior: Markov chain Monte Carlo with emcee, and importance sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import emcee
import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.special import logsumexp, ndtr, ndtri

from priors import LearningCurvePrior

# f(t) = w1 (c1 - a1 t^-α) + w2 (a2 - (a2 - b2) exp(-κ t^δ)) + w3 (c3 - a3 / ln(t + 1)), y = f + σ ε.
UNIFORM = {"w1": (0, 1), "w2": (0, 1), "w3": (0, 1), "c1": (0, 1.25), "a1": (-0.6, 0.6), "a2": (0, 1), "b2": (0, 2),
           "c3": (0, 1), "a3": (-0.5, 0.5)}
NORMAL = {"ln α": (0, 2), "ln κ": (-2, 1), "ln δ": (0, 0.5), "ln σ": (-4, 1)}
PARAMETERS = (*UNIFORM, *NORMAL)
N_UNIFORM = len(UNIFORM)
_LOW, _HIGH = np.array(list(UNIFORM.values()), dtype=np.float64).T
_MEAN, _STD = np.array(list(NORMAL.values()), dtype=np.float64).T


def natural(z: np.ndarray) -> np.ndarray:
    """Parameters (n, 13), in the order of `PARAMETERS`, of standard normal variables (n, 13)."""
    uniform, normal = z[:, :N_UNIFORM], z[:, N_UNIFORM:]
    return np.concatenate([_LOW + (_HIGH - _LOW) * ndtr(uniform), _MEAN + _STD * normal], axis=1)


def standard(theta: np.ndarray) -> np.ndarray:
    """Inverse of `natural`."""
    uniform, normal = theta[:, :N_UNIFORM], theta[:, N_UNIFORM:]
    return np.concatenate([ndtri((uniform - _LOW) / (_HIGH - _LOW)), (normal - _MEAN) / _STD], axis=1)


def curves(theta: np.ndarray, log_t: np.ndarray, inverse_log: np.ndarray) -> np.ndarray:
    """Noiseless curves (n, m) of parameters (n, 13) at steps given as ln t and 1 / ln(t + 1), both (m,)."""
    w1, w2, w3, c1, a1, a2, b2, c3, a3 = (theta[:, i : i + 1] for i in range(N_UNIFORM))
    alpha, kappa, delta = (np.exp(theta[:, i : i + 1]) for i in range(N_UNIFORM, N_UNIFORM + 3))
    f = -w1 * a1 * np.exp(-alpha * log_t)
    f -= w2 * (a2 - b2) * np.exp(-kappa * np.exp(delta * log_t))
    f -= w3 * a3 * inverse_log
    f += w1 * c1 + w2 * a2 + w3 * c3
    return f


def is_admissible(f: np.ndarray) -> np.ndarray:
    """The prior's rejection: within [0, 1] at all steps, higher at the last than at the first; f (n, m) gives (n,)."""
    return ((f >= 0) & (f <= 1)).all(axis=1) & (f[:, -1] > f[:, 0])


@dataclass(frozen=True)
class NormalMixture:
    """Predictive distribution at each of m steps: Σ_s weight_s N(f_s(t), std_s²).

    Parameters
    ----------
    f : array of shape (n, m)
    std : array of shape (n, 1) or (n, m)
    log_weight : array of shape (n, 1)
        Normalised.
    """

    f: np.ndarray
    std: np.ndarray
    log_weight: np.ndarray

    def log_prob(self, y: np.ndarray) -> np.ndarray:  # (m,) -> (m,)
        terms = self.log_weight - np.log(self.std) - 0.5 * ((y - self.f) / self.std) ** 2
        return logsumexp(terms, axis=0) - 0.5 * math.log(2 * math.pi)

    def cdf(self, y: np.ndarray) -> np.ndarray:  # (m,) -> (m,)
        return (np.exp(self.log_weight) * ndtr((y - self.f) / self.std)).sum(axis=0)

    def quantile(self, q: np.ndarray | float) -> np.ndarray:  # (m,)
        """By bisection of the cdf, to 1e-13 of the range; `q` is one probability, or one for each step."""
        far = 6 * self.std
        low, high = (self.f - far).min(axis=0), (self.f + far).max(axis=0)
        for _ in range(44):
            middle = (low + high) / 2
            below = self.cdf(middle) < q
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (low + high) / 2


@dataclass(frozen=True)
class Setting:
    """How long chains are: `steps` of each walker of which the first `burn_in` are dropped; `keep` samples predict.

    Parameters
    ----------
    as_domhan : bool
        Start and coordinates of [2]_ in `MCMC`: walkers within 1e-6 of three fits, one of each family, that weigh a third
        each; natural parameters, whose bounds reject.
    """

    walkers: int = 50
    steps: int = 600
    burn_in: int = 200
    keep: int = 2000
    as_domhan: bool = False


DOMHAN = Setting(walkers=100, steps=2500, burn_in=500, as_domhan=True)                 # M1 in the LC-PFN publication


class Posterior:
    """Log density (up to a constant) of the 13 parameters given the start of a curve.

    In standard normal coordinates no bound but the rejection region is left. The region is checked at all observed and about
    twenty further steps; `MCMC` drops the few samples that leave it in between.

    Parameters
    ----------
    t, y : arrays of shape (k,)
        Steps, within 1 … horizon, and values.
    horizon : int
    is_natural : bool
        Whether the arguments are natural parameters.
    """

    def __init__(self, t: np.ndarray, y: np.ndarray, horizon: int, is_natural: bool = False) -> None:
        grid = np.unique(np.concatenate([[1, horizon], np.geomspace(1, horizon, 24).round(), t]))
        self._log_t, self._inverse_log = np.log(grid), 1 / np.log(grid + 1)
        self._observed = np.searchsorted(grid, t)
        self._y = y
        self._is_natural = is_natural

    def __call__(self, parameters: np.ndarray) -> np.ndarray:  # (n, 13) -> (n,)
        theta = parameters if self._is_natural else natural(parameters)
        log_prior = self._log_prior(theta) if self._is_natural else -0.5 * (parameters**2).sum(axis=1)
        f = curves(theta, self._log_t, self._inverse_log)
        log_std = theta[:, -1]
        misfit = ((f[:, self._observed] - self._y) ** 2).sum(axis=1) * np.exp(-2 * log_std)
        log_density = log_prior - len(self._y) * log_std - 0.5 * misfit
        return np.where(is_admissible(f) & np.isfinite(log_density), log_density, -np.inf)

    @staticmethod
    def _log_prior(theta: np.ndarray) -> np.ndarray:
        uniform, normal = theta[:, :N_UNIFORM], theta[:, N_UNIFORM:]
        inside = ((uniform >= _LOW) & (uniform <= _HIGH)).all(axis=1)
        return np.where(inside, -0.5 * (((normal - _MEAN) / _STD) ** 2).sum(axis=1), -np.inf)


class MCMC:
    """Predictions of emcee's ensemble sampler (stretch moves [1]_) for curves of the released prior with this horizon.

    Walkers start around one point, as in [2]_: the draw of a bank that fits best, moved to the nearest maximum of the
    posterior density at its σ by least squares. Measured on 40 curves at equal time, 10 and 40 % observed: 1.89 and 2.49
    nats a value; around the five best draws 1.82 and 2.39; from draws in proportion to their likelihoods 1.75 and 2.30.

    Parameters
    ----------
    horizon : int
    n_bank : int
        Draws of the prior among which the start is chosen.

    References
    ----------
    .. [1] D. Foreman-Mackey et al., "emcee: The MCMC Hammer", PASP 2013.
    .. [2] T. Domhan et al., "Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by Extrapolation
       of Learning Curves", IJCAI 2015.
    """

    SPREAD = 0.03                                                                      # of walkers, where there is room

    def __init__(self, horizon: int = 100, n_bank: int = 20_000, seed: int = 0) -> None:
        self.horizon = horizon
        steps = np.arange(1.0, horizon + 1)
        self._log_t, self._inverse_log = np.log(steps), 1 / np.log(steps + 1)
        rng, parts, n = np.random.default_rng(seed), [], 0
        with np.errstate(over="ignore"):
            while n < n_bank:
                theta = natural(rng.standard_normal((4000, len(PARAMETERS))))
                parts.append(theta[is_admissible(self._curves(theta))])
                n += len(parts[-1])
            self._bank = np.concatenate(parts)[:n_bank]
            self._bank_curves = self._curves(self._bank)

    def _curves(self, theta: np.ndarray) -> np.ndarray:
        return curves(theta, self._log_t, self._inverse_log)

    def start(
        self, t: np.ndarray, y: np.ndarray, n_walkers: int, rng: np.random.Generator, as_domhan: bool = False
    ) -> np.ndarray:
        """Walkers (n_walkers, 13) in standard normal coordinates, all admissible; for `as_domhan` see `Setting`."""
        log_density = Posterior(t, y, self.horizon)
        best, spread = self._least_squares(t, y, self._best_draw(t, y)), self.SPREAD
        if as_domhan:
            fitted = self._one_of_each_family(t, y)
            best, spread = fitted if np.isfinite(log_density(fitted[None])[0]) else best, 1e-6
        walkers = best[None]
        while len(walkers) < n_walkers:
            near = best + spread * rng.standard_normal((4 * n_walkers, len(PARAMETERS)))
            walkers = np.concatenate([walkers, near[np.isfinite(log_density(near))]])
            spread *= 0.7                                                # where the region leaves little room
        return walkers[:n_walkers]

    def _one_of_each_family(self, t: np.ndarray, y: np.ndarray) -> np.ndarray:  # (13,)
        """Each family fitted on its own from the centre of the prior, then weighed with a third; σ of what remains."""
        z = np.zeros(len(PARAMETERS))
        log_t, inverse_log = self._log_t[t - 1], self._inverse_log[t - 1]
        for own, names in enumerate((("c1", "a1", "ln α"), ("a2", "b2", "ln κ", "ln δ"), ("c3", "a3"))):
            places = [PARAMETERS.index(name) for name in names]

            def residuals(free: np.ndarray, own: int = own, places: list[int] = places) -> np.ndarray:
                theta = z.copy()
                theta[places] = free
                theta = natural(theta[None])
                theta[0, :3] = np.arange(3) == own
                return np.nan_to_num(curves(theta, log_t, inverse_log)[0] - y, nan=1e3, posinf=1e3, neginf=-1e3)

            z[places] = least_squares(residuals, z[places], bounds=(-3, 3), max_nfev=50).x
        z[:3] = ndtri(1 / 3)
        theta = natural(z[None])
        theta[0, -1] = np.log((y - curves(theta, log_t, inverse_log)[0]).std() + 1e-4)
        return standard(theta)[0]

    def _best_draw(self, t: np.ndarray, y: np.ndarray) -> np.ndarray:  # (13,)
        """The draw, with the σ that suits it, of greatest likelihood times p(σ)."""
        squares = ((self._bank_curves[:, t - 1] - y) ** 2).sum(axis=1) + 1e-12
        mean, spread = NORMAL["ln σ"]
        log_std = np.clip(0.5 * np.log(squares / len(y)), mean - 2.5 * spread, mean + 2.5 * spread)
        fit = -len(y) * log_std - 0.5 * squares * np.exp(-2 * log_std) - 0.5 * ((log_std - mean) / spread) ** 2
        best = int(fit.argmax())
        return standard(np.append(self._bank[best, :-1], log_std[best])[None])[0]

    def _least_squares(self, t: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:  # (13,)
        """A point nearby of greater posterior density; `z` itself if that is not found."""
        std = math.exp(natural(z[None])[0, -1])

        def residuals(free: np.ndarray) -> np.ndarray:
            f = self._curves(natural(np.append(free, z[-1])[None]))[0]
            outside = 100 * (np.minimum(f, 0.0) + np.maximum(f - 1.0, 0.0))
            return np.nan_to_num(np.concatenate([(f[t - 1] - y) / std, free, outside]), nan=1e3, posinf=1e3, neginf=-1e3)

        moved = np.append(least_squares(residuals, z[:-1], max_nfev=8).x, z[-1])
        old, new = Posterior(t, y, self.horizon)(np.stack([z, moved]))
        return moved if new > old else z

    def predict(
        self, t: np.ndarray, y: np.ndarray, query: np.ndarray, *, setting: Setting = Setting(), seed: int = 0,
        vectorize: bool = True,
    ) -> NormalMixture:
        """Predictive distribution at the steps `query` given values y at steps t (k,), both integers within 1 … horizon."""
        vectorized = Posterior(t, y, self.horizon, is_natural=setting.as_domhan)

        def one(parameters: np.ndarray) -> float:
            return float(vectorized(parameters[None])[0])

        density = vectorized if vectorize else one
        sampler = emcee.EnsembleSampler(setting.walkers, len(PARAMETERS), density, vectorize=vectorize)
        sampler.random_state = np.random.RandomState(seed).get_state()
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            start = self.start(t, y, setting.walkers, np.random.default_rng(seed), setting.as_domhan)
            sampler.run_mcmc(natural(start) if setting.as_domhan else start, setting.steps, skip_initial_state_check=True)
            chain = sampler.get_chain(discard=setting.burn_in, flat=True)
            chain = chain[np.linspace(0, len(chain) - 1, min(setting.keep, len(chain))).round().astype(int)]
            theta = chain if setting.as_domhan else natural(chain)
            f = self._curves(theta)
            admissible = is_admissible(f)
        f, std = f[admissible][:, query - 1], np.exp(theta[admissible, -1:])
        return NormalMixture(f, std, np.full_like(std, -math.log(len(std))))


class ImportanceSampler:
    """The exact posterior predictive as far as `n_curves` draws from the prior reach, with σ integrated out.

    A draw f of the prior weighs ∫ p(y | f, σ) p(σ) dσ, by the trapezium rule over ln σ. Where the effective number of draws
    is small, the result is worse than the exact one: its log-likelihood is a lower estimate then.

    Parameters
    ----------
    n_curves : int
        400 bytes each.
    """

    LOG_STD = np.arange(-8.0, 0.01, 0.2)                                               # (s,)
    KEEP = 4000

    def __init__(self, n_curves: int = 400_000, horizon: int = 100, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._curves = np.empty((n_curves, horizon), dtype=np.float32)
        for begin in range(0, n_curves, 50_000):
            part = self._curves[begin : begin + 50_000]
            part[:] = LearningCurvePrior().sample_curves(len(part), horizon, generator=generator)[0].numpy()

    def predict(self, t: np.ndarray, y: np.ndarray, query: np.ndarray) -> tuple[NormalMixture, float]:
        """As `MCMC.predict`, and the effective number of draws, 1 / Σ w²."""
        y32 = y.astype(np.float32)
        squares = np.concatenate([
            ((self._curves[begin : begin + 50_000, t - 1] - y32) ** 2).sum(axis=1, dtype=np.float64)
            for begin in range(0, len(self._curves), 50_000)
        ])
        # ∫ p(y | f, σ) p(σ) dσ depends on f only through the sum of squares: one function of it, interpolated.
        grid = np.geomspace(squares.min(), squares.max(), 2000)
        log_weight = np.interp(np.log(squares), np.log(grid), logsumexp(self._joint(grid, len(y)), axis=1))
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        # Systematic resampling: neither step has more noise than one draw.
        places = (np.arange(self.KEEP) + 0.5) / self.KEEP
        index = np.minimum(np.searchsorted(weight.cumsum(), places), len(weight) - 1)
        share = self._joint(squares[index], len(y))
        share = np.exp(share - share.max(axis=1, keepdims=True))
        share = share.cumsum(axis=1) / share.sum(axis=1, keepdims=True)                # (KEEP, s)
        turn = (np.arange(self.KEEP) * ((math.sqrt(5) - 1) / 2)) % 1.0
        std = np.exp(self.LOG_STD[(share < turn[:, None]).sum(axis=1)])[:, None]
        f = self._curves[index][:, query - 1].astype(np.float64)
        return NormalMixture(f, std, np.full_like(std, -math.log(self.KEEP))), float(1 / (weight**2).sum())

    def _joint(self, squares: np.ndarray, n_observed: int) -> np.ndarray:  # (n, s)
        """ln p(y | f, σ) p(σ) up to a constant, from the sums of squares (n,)."""
        mean, spread = NORMAL["ln σ"]
        log_joint = -0.5 * ((self.LOG_STD - mean) / spread) ** 2 - n_observed * self.LOG_STD
        return log_joint - 0.5 * squares[:, None] * np.exp(-2 * self.LOG_STD)
