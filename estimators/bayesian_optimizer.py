"""Bayesian optimisation with a pretrained network as the surrogate: ask for parameters, tell how they did."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

from estimators.goal import SearchSettings, part
from estimators.hypervolume import is_pareto_optimal
from estimators.proposals import has_noise, propose
from estimators.space import SearchSpace
from estimators.surrogate import History, Surrogate, load_network
from estimators.trials import SIGNS, Trial, checked_constraints, checked_params, checked_value, history_of
from estimators.user_prior import UserPrior
from pfn import PFN, BarPosterior
from pfn.files import CONTENT_ERRORS, checked_counts, read_json, write_json

_FORMAT = 1
_SPARE = 64                                                         # initial points, in place of those that are taken
_AT_ONCE = 1000                                                     # points of a prediction


class BayesianOptimizer:
    """Minimise, or maximise, an expensive function of parameters; constraints, failures and batches included.

    A prior-data fitted network reads the trials and predicts objectives and constraints anywhere in one forward pass; there
    is no network to train. The next trial has the largest expected improvement times the probability that constraints hold.

    Parameters
    ----------
    space : mapping from str to optuna.distributions.BaseDistribution
        Float, integer and categorical distributions, with `log` and `step`. For conditional parameters use `PFNSampler`.
    direction : {"minimize", "maximize"}, or a sequence of them
        A sequence for two or three objectives, whose hypervolume is maximised.
    n_constraints : int
        Outcomes, besides the objective, that must not exceed 0.
    random_state : int, RandomState or None
    n_initial : int, optional
        Quasi-random trials before the network is asked, told ones included. None: 4 and one for each encoded column, at
        most 10.
    model : str, path or PFN
        Bundled name or checkpoint of a regression network for the unit cube. It is loaded by the first `ask` that needs it.
    settings : SearchSettings, optional
        Acquisition function, handling of constraints, transformation of outcomes, noise.
    prior : mapping, optional
        A belief about where the optimum is, see `estimators.user_prior.UserPrior`. It fades as trials come in.

    Attributes
    ----------
    trials_ : list of Trial
        In the order in which they were told.
    pending_ : list of dict
        Parameters asked for and not yet told. Remove those of an evaluation that was given up.
    best_params_, best_value_ : dict, float
        Of the best feasible trial; NotFittedError while there is none. With several objectives use `pareto_trials_`.

    Notes
    -----
    Points of a batch, and those that are pending, count as evaluated with the outcomes that are expected there, as if those
    were certain. The network was trained on up to 230 trials and 18 columns (a choice of three or more has a column for
    each). Of more than ``settings.max_context`` trials it sees the best, the surroundings of the best one, and a spread over
    the others; of more columns a random choice at each step, which a warning says.

    Not all is the network's: outcomes that a polynomial of degree three or less follows almost exactly are predicted by it,
    and by the network what it leaves. Outcomes count as free of noise, and predictions agree with them, unless
    ``settings.noisy`` is True or equal parameters were told with different values.

    References
    ----------
    .. [1] S. Müller et al., "PFNs4BO: In-Context Learning for Bayesian Optimization", ICML 2023.
    .. [2] R. Yu et al., "Fast and Accurate Bayesian Optimization with Pre-trained Transformers for Constrained Engineering
       Problems", arXiv 2404.04495.
    .. [3] S. Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian Optimization", NeurIPS 2023.

    Examples
    --------
    >>> from optuna.distributions import FloatDistribution
    >>> space = {"x": FloatDistribution(-2, 2), "y": FloatDistribution(-2, 2)}
    >>> optimizer = BayesianOptimizer(space, n_constraints=1, random_state=0)
    >>> for _ in range(15):
    ...     (params,) = optimizer.ask()
    ...     x, y = params["x"], params["y"]
    ...     optimizer.tell(params, (x - 1) ** 2 + y**2, constraints=[x + y - 1.5])
    >>> optimizer.best_value_ < 0.05
    True
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        direction: str | Sequence[str] = "minimize",
        n_constraints: int = 0,
        random_state: int | np.random.RandomState | None = None,
        *,
        n_initial: int | None = None,
        model: str | os.PathLike[str] | PFN = "bayesopt",
        settings: SearchSettings | None = None,
        prior: Mapping[str, Any] | None = None,
    ) -> None:
        self.space = SearchSpace(space)
        single = isinstance(direction, str) or not isinstance(direction, Sequence)
        self.directions: tuple[str, ...] = (direction,) if single else tuple(direction)  # type: ignore[assignment]
        for one in self.directions:
            if one not in tuple(SIGNS):
                raise ValueError(f"direction={one!r} is unknown; use 'minimize' or 'maximize'.")
        if not 1 <= len(self.directions) <= 3:
            raise ValueError(f"direction={direction!r} names {len(self.directions)} objectives; use one to three.")
        for name, value in (("n_constraints", n_constraints), ("n_initial", 1 if n_initial is None else n_initial)):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}={value!r} is no count; use an integer >= 0.")
        if settings is not None and not isinstance(settings, SearchSettings):
            raise TypeError(f"settings={settings!r} is no SearchSettings; use SearchSettings(acquisition=...).")
        self.n_constraints = int(n_constraints)
        self.n_initial = min(4 + self.space.n_columns, 10) if n_initial is None else int(n_initial)
        self.model = model
        self.settings = SearchSettings() if settings is None else settings
        self.prior = None if prior is None else UserPrior(self.space, prior)
        self.trials_: list[Trial] = []
        self.pending_: list[dict[str, Any]] = []
        self._seed = int(check_random_state(random_state).randint(2**31))
        self._n_asked = 0
        self._network: PFN | None = None

    # Ask and tell

    def ask(self, n: int = 1) -> list[dict[str, Any]]:
        """Parameters of the next `n` trials, to be evaluated at the same time; they are pending until they are told.

        Deterministic given `random_state` and everything asked and told before.
        """
        if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n={n!r} is no number of trials; use n >= 1.")
        n_random = min(max(self.n_initial - len(self.trials_) - len(self.pending_), 0), int(n))
        rows = [self._initial_rows(n_random)]
        if n_random < n:
            history = self._history(np.concatenate([self.space.encode(self.pending_), rows[0]]))
            generator = torch.Generator().manual_seed(self._seed + 2**31 * self._n_asked)
            self._warn_of_many_columns()
            rows.append(propose(
                self.space, history, int(n) - n_random, model=self._loaded(), settings=self.settings, generator=generator,
                prior=self.prior,
            ))
        points = self.space.decode(np.concatenate(rows))
        self.pending_ += points
        self._n_asked += len(points)
        return [dict(point) for point in points]

    def tell(
        self,
        params: Mapping[str, Any],
        value: float | Sequence[float] | None,
        constraints: Sequence[float] | None = None,
        *,
        is_bound: bool = False,
    ) -> None:
        """Record a trial, whether it was asked for or not, in any order.

        Parameters
        ----------
        params : mapping
            A value for each parameter of the space.
        value : float, sequence of float, or None
            One value, or one for each objective. None, NaN and infinite values record a failure, which is learnt from.
        constraints : sequence of float
            `n_constraints` numbers, satisfied at <= 0. NaN where unknown: such a trial does not count as feasible. May be
            left out of a failed trial.
        is_bound : bool
            The evaluation was stopped early, and the true value is at best `value`.

        Raises
        ------
        ValueError, TypeError
            If a parameter is missing, unknown or out of range, or if a number does not fit; then nothing is recorded.
        """
        known = checked_params(self.space, params)
        outcome = checked_value(value, len(self.directions))
        g = checked_constraints(constraints, self.n_constraints, failed=outcome is None)
        key, *keys = self.space.keys(self.space.encode([known, *self.pending_]))
        self.trials_.append(Trial(known, outcome, g, bool(is_bound) and outcome is not None))
        if key in keys:
            del self.pending_[keys.index(key)]

    # What is known

    @property
    def best_trial_(self) -> Trial:
        """The best feasible trial."""
        if len(self.directions) > 1:
            raise NotFittedError("there are several objectives and no single best trial; see pareto_trials_.")
        feasible = [trial for trial in self.trials_ if trial.is_feasible]
        if not feasible:
            raise NotFittedError(f"none of the {len(self.trials_)} trials is feasible; ask for more, or see trials_.")
        return min(feasible, key=lambda trial: SIGNS[self.directions[0]] * trial.value)  # type: ignore[operator]

    @property
    def best_params_(self) -> dict[str, Any]:
        """Parameters of the best feasible trial."""
        return dict(self.best_trial_.params)

    @property
    def best_value_(self) -> float:
        """Value of the best feasible trial."""
        return float(self.best_trial_.value)  # type: ignore[arg-type]

    @property
    def pareto_trials_(self) -> list[Trial]:
        """Feasible trials that no other feasible trial dominates."""
        feasible = [trial for trial in self.trials_ if trial.is_feasible]
        if not feasible:
            return []
        signs = np.array([SIGNS[one] for one in self.directions])
        values = np.array([trial.value for trial in feasible], dtype=np.float64).reshape(len(feasible), -1)
        return [trial for trial, kept in zip(feasible, is_pareto_optimal(signs * values), strict=True) if kept]

    def predict(
        self, points: Sequence[Mapping[str, Any]], quantiles: Sequence[float] | None = None, *, objective: int = 0
    ) -> np.ndarray:
        """What an objective would be at other parameters; in a space of too many columns, judged by the first 18.

        Parameters
        ----------
        points : sequence of mappings
            A value for each parameter of the space.
        quantiles : sequence of float, optional
            Probabilities; without them the median.
        objective : int
            Which, if there are several.

        Returns
        -------
        ndarray of shape (n_points,), or (n_points, n_quantiles)
            In the units of the objective.

        Raises
        ------
        NotFittedError
            With fewer than two values told, or fewer than two of a constraint.
        """
        if objective not in range(len(self.directions)):
            raise ValueError(f"objective={objective!r} does not exist; the number of objectives is {len(self.directions)}.")
        q = np.array([0.5]) if quantiles is None else np.asarray(quantiles, dtype=np.float64)
        sign = SIGNS[self.directions[objective]]
        levels = torch.from_numpy(q if sign > 0 else 1 - q)
        surrogate, posteriors = self._posteriors(points)
        transform = surrogate.transforms[objective]
        found = [sign * transform.posterior(part(one, objective)).quantile(levels).double().numpy() for one in posteriors]
        return np.concatenate(found)[:, 0] if quantiles is None else np.concatenate(found)

    def predict_feasible(self, points: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Probability (n_points,) that a trial does not fail and satisfies all constraints."""
        surrogate, posteriors = self._posteriors(points)
        others = slice(surrogate.n_objectives, None)
        return np.concatenate([part(one, others).cdf(0.0).double().prod(0).numpy() for one in posteriors])

    def _posteriors(self, points: Sequence[Mapping[str, Any]]) -> tuple[Surrogate, list[BarPosterior]]:
        """Of all outputs, for some points after the other."""
        if isinstance(points, Mapping) or not isinstance(points, Sequence):
            raise TypeError(f"points={points!r} is a {type(points).__name__}; pass a list of mappings from names to values.")
        rows = self.space.encode([checked_params(self.space, point) for point in points])
        if not self.space.n_columns:
            raise ValueError("every parameter of the space has a single value: there is nothing to predict from.")
        network = self._loaded()
        history, most = self._history(rows[:0]), network.config.row_features
        surrogate = Surrogate(
            network, history, outcome_transform=self.settings.outcome_transform, max_context=self.settings.max_context,
            columns=np.arange(self.space.n_columns)[:most],
            is_noisy=self.space.n_columns > most or has_noise(self.space, history, self.settings),
        )
        if not surrogate.has_values:
            raise NotFittedError("predictions need two values of each objective and constraint; ask and tell first.")
        with torch.no_grad():
            blocks = torch.from_numpy(rows).split(_AT_ONCE)
            return surrogate, [surrogate.predict(surrogate.whole, block) for block in blocks]

    # State

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write space, settings, trials and pending points as JSON, in one step; network and prior are not part of it."""
        state = {
            "format": _FORMAT,
            "space": {name: distribution_to_json(one) for name, one in self.space.distributions.items()},
            "directions": self.directions, "n_constraints": self.n_constraints, "n_initial": self.n_initial,
            "seed": self._seed, "n_asked": self._n_asked, "settings": asdict(self.settings), "pending": self.pending_,
            "trials": [asdict(trial) for trial in self.trials_],
        }
        write_json(path, state)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, model: str | os.PathLike[str] | PFN = "bayesopt",
        prior: Mapping[str, Any] | None = None,
    ) -> BayesianOptimizer:
        """An optimiser that goes on as the saved one would have.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file was not written by `save`.
        """
        try:
            state = read_json(path)
            if state["format"] != _FORMAT:
                raise ValueError(f"format {state['format']}")
            settings = SearchSettings(**state["settings"])
            checked_counts({name: state[name] for name in ("n_constraints", "n_initial", "n_asked")}
                           | {name: getattr(settings, name) for name in ("n_candidates", "max_context")})
            checked_counts({"seed": state["seed"]}, 2**31 - 1)
            space = {name: json_to_distribution(one) for name, one in state["space"].items()}
            optimizer = cls(
                space, state["directions"], state["n_constraints"], 0, n_initial=state["n_initial"], model=model,
                settings=settings,
            )
            for trial in state["trials"]:
                optimizer.tell(trial["params"], trial["value"], trial["constraints"] or None, is_bound=trial["is_bound"])
            optimizer.pending_ = [checked_params(optimizer.space, point) for point in state["pending"]]
            optimizer._seed, optimizer._n_asked = int(state["seed"]), int(state["n_asked"])
        except CONTENT_ERRORS as error:
            raise ValueError(f"{os.fspath(path)!r} was not written by this version's save ({error!r:.500}).") from error
        optimizer.prior = None if prior is None else UserPrior(optimizer.space, prior)
        return optimizer

    def _loaded(self) -> PFN:
        if self._network is None:
            self._network = load_network(self.model)
        return self._network

    def _warn_of_many_columns(self) -> None:
        most = self._loaded().config.row_features
        if self.space.n_columns > most:
            warnings.warn(
                f"the space has {self.space.n_columns} columns and the network reads {most}: each step looks at a random "
                "choice of them. Fix or merge parameters for better suggestions.", UserWarning, stacklevel=3,
            )

    def _initial_rows(self, n: int) -> np.ndarray:
        """The next of a fixed sequence of quasi-random points, or of draws from the user's prior, that are not taken."""
        if n == 0:
            return np.empty((0, self.space.n_columns))
        rng, start = np.random.default_rng(self._seed), self._n_asked
        n_all = max(self.n_initial, start + n)
        rows = self.space.sample(n_all + _SPARE, rng)
        if self.prior is not None:                                  # which may know a few points only
            rows = np.concatenate([self.prior.sample(n_all, rng), rows])
        rows = rows[start:]
        taken = set(self.space.keys(self.space.encode([*self.pending_, *(trial.params for trial in self.trials_)])))
        fresh = []
        for position, key in enumerate(self.space.keys(rows)):
            if key not in taken:
                taken.add(key)
                fresh.append(position)
        return rows[[*fresh, *range(n)][:n]]

    def _history(self, pending: np.ndarray) -> History:
        return history_of(self.trials_, self.space, self.directions, self.n_constraints, pending)
