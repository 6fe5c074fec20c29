"""Where to evaluate next: candidates, scored by an acquisition function, the best of them refined by its gradient."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.optimize import minimize

from estimators.goal import Goal, SearchSettings
from estimators.space import SearchSpace
from estimators.surrogate import History, Surrogate, View, order_of_trials
from estimators.trend import Trends
from estimators.user_prior import UserPrior
from pfn import PFN

_SCALES = (0.3, 0.1, 0.03, 0.01, 0.003)     # of the steps from good points to candidates
_N_PARENTS = 5
_N_REFINED, _N_STEPS, _STEP, _SHRINK = 8, 12, 0.1, 0.75
_N_STARTS, _MARGIN = 3, 1e-3                # of the solution of polynomial problems; beyond the width of what is exact
_SPARE_ROWS = 6                             # of the local view, beyond two for each column
_FEWEST = 150                               # candidates, if there are many outputs
_N_IMAGINED = 32                            # candidates of a joint draw
_PRIOR_STRENGTH = 10.0


@torch.no_grad()
def propose(
    space: SearchSpace,
    history: History,
    n: int,
    *,
    model: PFN,
    settings: SearchSettings,
    generator: torch.Generator,
    prior: UserPrior | None = None,
) -> np.ndarray:
    """Points to evaluate next.

    Parameters
    ----------
    space : SearchSpace
    history : History
    n : int
        Points to choose one after the other, each as if the ones before it and the pending ones had turned out as expected.
    model : PFN
        A regression network with `scaling="cube"`.
    settings : SearchSettings
    generator : torch.Generator
    prior : UserPrior, optional
        A belief about where the optimum is, whose log density times 10 / number of trials is added to the score [1]_.

    Returns
    -------
    ndarray of shape (n, n_columns)
        Valid points that have not been evaluated and are not pending, while there are any.

    References
    ----------
    .. [1] C. Hvarfner et al., "πBO: Augmenting Acquisition Functions with User Beliefs for Bayesian Optimization",
       ICLR 2022.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    taken = set(space.keys(np.concatenate([history.x, history.pending])))
    is_noisy = has_noise(space, history, settings)
    # Nothing can be told apart in a space of one point.
    surrogate = None if space.n_columns == 0 else _surrogate(model, history, settings, rng, is_noisy)
    chosen: list[np.ndarray] = []
    for _ in range(n):
        if surrogate is None:
            tried = np.concatenate([history.x, history.pending, *(row[None] for row in chosen)])
            row = _farthest(space, tried, taken, rng)
        else:
            search = _Search(space, surrogate, settings, rng, set() if is_noisy else taken, prior)
            row = search.by_joint_draw(generator) if settings.acquisition == "thompson" else search.by_score()
            surrogate = surrogate.believing(row[None])
        taken.update(space.keys(row[None]))
        chosen.append(row)
    return np.stack(chosen) if chosen else np.empty((0, space.n_columns))


def _surrogate(
    model: PFN, history: History, settings: SearchSettings, rng: np.random.Generator, is_noisy: bool
) -> Surrogate | None:
    """With the outcomes expected at pending points; None if there are not yet two values of each output."""
    n_columns, most = history.x.shape[1], model.config.row_features
    columns = np.arange(n_columns) if n_columns <= most else np.sort(rng.choice(n_columns, most, replace=False))
    surrogate = Surrogate(
        model, history, outcome_transform=settings.outcome_transform, max_context=settings.max_context, columns=columns,
        is_noisy=is_noisy or len(columns) < n_columns,              # what is not seen is noise
    )
    if not surrogate.has_values:
        return None
    return surrogate.believing(history.pending) if len(history.pending) else surrogate


def _farthest(space: SearchSpace, tried: np.ndarray, taken: set[tuple], rng: np.random.Generator) -> np.ndarray:
    """Of random points the one that is farthest from all that were tried."""
    candidates = space.sample(256, rng)
    if not len(tried):
        return candidates[0]
    distance = np.min([np.square(candidates - row).sum(1) for row in tried], axis=0)
    return _first_new(space, candidates[np.argsort(-distance, kind="stable")], taken, rng)


def _first_new(space: SearchSpace, ordered: np.ndarray, taken: set[tuple], rng: np.random.Generator) -> np.ndarray:
    """The first row that was not taken; else a random one of those left, if there are some."""
    for row, key in zip(ordered, space.keys(ordered), strict=True):
        if key not in taken:
            return row
    if len(taken) < space.n_points:
        for _ in range(20):
            more = space.sample(256, rng)
            for row, key in zip(more, space.keys(more), strict=True):
                if key not in taken:
                    return row
    return ordered[0]


class _Search:
    """The search for one more point."""

    def __init__(
        self, space: SearchSpace, surrogate: Surrogate, settings: SearchSettings, rng: np.random.Generator,
        taken: set[tuple], prior: UserPrior | None,
    ) -> None:
        self.space, self.surrogate, self.settings, self.rng, self.prior = space, surrogate, settings, rng, prior
        self.taken = taken
        self.goal = Goal(surrogate, settings, noisy=surrogate.is_noisy)
        self.order = order_of_trials(surrogate.z[: surrogate.n_objectives], surrogate.violation)
        self.views: list[View] = [surrogate.whole]
        if settings.local:
            local = surrogate.local(surrogate.x[self.order[0]], 2 * space.n_columns + _SPARE_ROWS, ~space.is_relaxed)
            self.views += [] if local is None else [local]

    def by_score(self) -> np.ndarray:
        """The best candidate that is not taken."""
        candidates = self._candidates()
        scores = self._scores(candidates)
        order = np.argsort(-scores, kind="stable")
        view, rows = next((view, rows) for view, rows in self._by_view(candidates) if order[0] in rows)
        best = order[np.isin(order, rows)][:_N_REFINED]
        refined = self._refined(candidates[best], view)
        whole = self.surrogate.whole
        if whole.trends is not None and whole.context is None and self.surrogate.n_objectives == 1:
            refined = np.concatenate([refined, self._solved(whole.trends, candidates[order[:_N_STARTS]])])
        candidates, scores = np.concatenate([candidates, refined]), np.concatenate([scores, self._scores(refined)])
        return _first_new(self.space, candidates[np.argsort(-scores, kind="stable")], self.taken, self.rng)

    def by_joint_draw(self, generator: torch.Generator) -> np.ndarray:
        """The best of a joint draw from the posterior at a few candidates, each drawn given the ones before it."""
        candidates = self.rng.permutation(self._candidates())
        new = [i for i, key in enumerate(self.space.keys(candidates)) if key not in self.taken][:_N_IMAGINED]
        if not new:
            return _first_new(self.space, candidates, self.taken, self.rng)
        drawn = self.surrogate
        for i in new:
            drawn = drawn.imagining(candidates[i][None], generator)
        z, violation = drawn.z[: drawn.n_objectives, -len(new) :], drawn.violation[-len(new) :]
        return candidates[new[order_of_trials(z, violation)[0]]]

    def _candidates(self) -> np.ndarray:
        """Valid points: half all over the space, half near good trials, and half as many again from a user's prior."""
        # A forward pass costs as much as candidates × outputs.
        n = min(max(self.settings.n_candidates // len(self.surrogate.z), _FEWEST), self.settings.n_candidates)
        parents = self.surrogate.x[self.order[:_N_PARENTS]]
        sizes = np.bincount(np.arange(n // 2) % len(_SCALES), minlength=len(_SCALES))
        near = [
            self.space.neighbours(parents[self.rng.integers(len(parents), size=size)], scale, self.rng)
            for scale, size in zip(_SCALES, sizes, strict=True)
        ]
        believed = [] if self.prior is None else [self.prior.sample(n // 2, self.rng)]
        return np.concatenate([self.space.sample(n - n // 2, self.rng), *near, *believed])

    def _scores(self, x: np.ndarray) -> np.ndarray:
        scores = np.empty(len(x))
        for view, rows in self._by_view(x):
            posterior = self.surrogate.predict(view, torch.from_numpy(x[rows]))
            scores[rows] = self.goal.score(posterior).double().numpy()
        scores = np.nan_to_num(scores, nan=-np.inf)
        if self.prior is not None:
            scores = scores + _PRIOR_STRENGTH / max(len(self.surrogate.x), 1) * self.prior.log_density(x)
        return scores

    def _by_view(self, x: np.ndarray) -> list[tuple[View, np.ndarray]]:
        """Each view with the rows of x that it answers for: the smallest that contains them."""
        which = np.zeros(len(x), dtype=int)
        for number, view in enumerate(self.views):
            which[view.box.contains(x)] = number
        return [(view, np.flatnonzero(which == i)) for i, view in enumerate(self.views) if (which == i).any()]

    def _solved(self, trends: Trends, x: np.ndarray) -> np.ndarray:
        """Where objective and constraints are polynomials: valid points at which their minimisation (SLSQP) from x ends."""
        columns, scale = self.surrogate.columns, np.nanstd(self.surrogate.z, axis=1).clip(min=1e-12)
        free = self.space.is_relaxed[columns]
        if not free.any():
            return x

        def outputs(u: np.ndarray) -> np.ndarray:
            return trends(torch.tensor(u)[None])[:, 0].numpy() / scale

        def slopes(u: np.ndarray) -> np.ndarray:
            with torch.enable_grad():
                jacobian = torch.autograd.functional.jacobian(lambda v: trends(v[None])[:, 0], torch.tensor(u))
            return jacobian.numpy() / scale[:, None]

        found = x.copy()
        holds = {"type": "ineq", "fun": lambda u: -outputs(u)[1:] - _MARGIN, "jac": lambda u: -slopes(u)[1:]}
        for row in found:
            bounds = [(0.0, 1.0) if is_free else (value, value) for is_free, value in zip(free, row[columns], strict=True)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)     # of steps across the bounds, which SciPy takes back
                solution = minimize(
                    lambda u: outputs(u)[0], row[columns], jac=lambda u: slopes(u)[0], method="SLSQP", bounds=bounds,
                    constraints=[holds] if len(scale) > 1 else [], options={"maxiter": 50},
                )
            if np.isfinite(solution.x).all():
                row[columns] = np.clip(solution.x, 0.0, 1.0)
        return self.space.snap(found)

    def _refined(self, x: np.ndarray, view: View) -> np.ndarray:
        """Valid points in the view's box: of the ascent from each x the highest, and the one after the last step.

        Columns of choices have no gradient: they stay as they are.
        """
        free = self.space.is_relaxed.copy()
        free &= np.isin(np.arange(len(free)), self.surrogate.columns)
        if not free.any():
            return x
        mask = torch.from_numpy(free)
        low, high = (torch.from_numpy(edge) for edge in (view.box.low, view.box.high))
        points = torch.from_numpy(x)
        first = second = torch.zeros_like(points)
        found, highest = points.clone(), torch.full((len(x),), -torch.inf)
        for step in range(1, _N_STEPS + 1):                         # Adam, in units of the box and with ever smaller steps
            with torch.enable_grad():
                points.requires_grad_()
                score = self.goal.score(self.surrogate.predict(view, points))
                (gradient,) = torch.autograd.grad(score.sum(), points)
            points, score = points.detach(), score.detach().float()
            better = score > highest
            found, highest = torch.where(better.unsqueeze(1), points, found), torch.where(better, score, highest)
            gradient = torch.nan_to_num(gradient * mask * (high - low), nan=0.0, posinf=0.0, neginf=0.0)
            first = 0.8 * first + 0.2 * gradient
            second = 0.9 * second + 0.1 * gradient.square()
            direction = first / (1 - 0.8**step) / ((second / (1 - 0.9**step)).sqrt() + 1e-12)
            points = (points + _STEP * _SHRINK ** (step - 1) * (high - low) * direction).clamp(low, high)
        return self.space.snap(torch.cat([found, points]).numpy())


def has_noise(space: SearchSpace, history: History, settings: SearchSettings) -> bool:
    """Whether outcomes have noise: as the settings say, or because equal parameters were seen with different values."""
    return settings.noisy is True or (settings.noisy == "auto" and _repeats_differ(space, history))


def _repeats_differ(space: SearchSpace, history: History) -> bool:
    """Whether some parameters were evaluated twice, with different values."""
    first: dict[tuple, np.ndarray] = {}
    usable = np.flatnonzero(~history.failed & ~history.is_bound)
    for row, key in zip(usable, space.keys(history.x[usable]), strict=True):
        if not np.array_equal(first.setdefault(key, history.values[row]), history.values[row]):
            return True
    return False
