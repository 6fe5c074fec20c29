"""More columns for the network: predictions of kernel ridge regression, where they explain most of the targets."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimators.indicators import Points

_LEAST_EXPLAINED = 0.7                                              # of the targets' variance, else there are no columns
_LEAST_EXPLAINED_AT_FIRST = 0.3                                     # by few rows, and as if all coordinates mattered
_SQUARED_LENGTHSCALES = (np.inf, 8.0, 2.0, 0.5, 0.1)                # over the mean squared distance; inf: linear
_PENALTIES = torch.logspace(-7, 1, 17, dtype=torch.float64)
_CONSTANT = 1.0                                                     # added to every kernel: the mean is hardly penalised
_MOST_STEPS = 3
_FEW_ROWS, _MOST_ROWS = 400, 1000
_LEAST_ROOT = 1e-6                                                  # of a weight; rows of less have no say anyway


class Step(NamedTuple):
    """Settings of one regression."""

    squared_lengthscale: float                                      # infinite: linear
    penalty: float                                                  # variance of the noise over that of the function


@dataclass(frozen=True)
class KernelRidge:
    """Kernel ridge regression of k targets on all columns: linear, or with a Gaussian kernel that knows which ones matter.

    The mean of a Gaussian process, in closed form. It knows from the outset what a network has to recognise in every table,
    that functions may be linear or smooth in many columns at once; the network knows everything else, among it how far to
    trust these columns. The relevance of a coordinate, which multiplies it, is the root mean square of the targets' gradient
    with respect to it, as the regression before sees it [3]_.

    Parameters
    ----------
    coordinates : Points
    relevance : Tensor of shape (c,), float64
    points : Tensor of shape (m, c), float64
        Coordinates of the training rows times relevance; at most a thousand rows.
    squared_lengthscale : float
        Infinite for linear functions.
    penalty : float
        Variance of the noise over that of the function.
    coefficients : Tensor of shape (m, k), float64
    mean : Tensor of shape (k,), float64
        Of the targets.

    References
    ----------
    .. [1] D. H. Wolpert, "Stacked Generalization", Neural Networks 1992: predictions that cross-validation made are
       features for another model.
    .. [2] C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006, equation 2.25 and
       section 5.4.2.
    .. [3] A. Radhakrishnan et al., "Mechanism for feature learning in neural networks and backpropagation-free machine
       learning models", Science 2024: recursive feature machines, here with a diagonal matrix.
    """

    coordinates: Points
    relevance: Tensor
    points: Tensor
    squared_lengthscale: float
    penalty: float
    coefficients: Tensor
    mean: Tensor

    @classmethod
    def fit(
        cls, x: np.ndarray, targets: np.ndarray, weight: np.ndarray, categories: Collection[int] = ()
    ) -> tuple[KernelRidge, np.ndarray] | None:
        """Regression on x (n, f), targets (n, k), weight (n,), and for each row predictions from rows of other folds.

        `categories` are columns of x that hold codes. Only the ratios of the weights count. Folds depend on the order of the
        rows; of more than a thousand, evenly spaced ones are taken, and all others get the prediction of those.

        Returns
        -------
        (KernelRidge, ndarray of shape (n, k), float32), or None
            None if there are fewer than twenty rows, or if too little of the targets is explained.
        """
        if len(x) < 20:
            return None
        rows = _evenly_spaced(len(x), _MOST_ROWS)
        share = weight[rows].astype(np.float64)
        share /= share.mean()
        root = torch.from_numpy(np.sqrt(share)).unsqueeze(1)
        y = torch.from_numpy(targets[rows].astype(np.float64))
        mean = (root.square() * y).mean(0)
        target = root * (y - mean)
        few = _evenly_spaced(len(rows), _FEW_ROWS)
        found = []
        for coordinates in Points.candidates(x[rows], share, categories):
            z = coordinates(torch.from_numpy(x[rows]))
            searched = _Regression(z[few], target[few], root[few]).search()
            if searched is not None:
                found.append((*searched, _Regression(z, target, root), coordinates))
        if not found:
            return None
        error, steps, regression, coordinates = min(found, key=lambda one: float(one[0].square().sum()))
        if len(few) < len(rows):
            error = regression.errors_of_folds(steps)[-1]
        if not error.square().sum() <= (1.0 - _LEAST_EXPLAINED) * target.square().sum():
            return None
        *_, (relevance, coefficients) = regression.solutions(steps)
        made = cls(coordinates, relevance, regression.z * relevance, *steps[-1], coefficients, mean)
        columns = made(torch.from_numpy(x)).numpy()
        columns[rows] = torch.where(root > _LEAST_ROOT, y - error / root, torch.from_numpy(columns[rows]))
        return made, columns

    def __call__(self, x: Tensor) -> Tensor:  # (n, f); (n, k), float32
        """Predictions; differentiable."""
        found = [self.mean + _kernel(self.coordinates(some) * self.relevance, self.points, self.squared_lengthscale)
                 @ self.coefficients for some in x.split(4096)]
        return torch.cat(found).float()


@dataclass(frozen=True)
class _Regression:
    """Of the targets on coordinates, in steps: each learns from the one before how much every coordinate matters."""

    z: Tensor                                                       # (n, c), coordinates
    target: Tensor                                                  # (n, k), times root
    root: Tensor                                                    # (n, 1), of the weights

    def search(self) -> tuple[Tensor, list[Step]] | None:
        """The steps of least squared error on other folds, and these errors (n, k); None if the first one is hopeless.

        Leave-one-out errors choose lengthscale and penalty of each step.
        """
        steps: list[Step] = []
        relevance = self._scaled(torch.ones(self.z.shape[1], dtype=torch.float64))
        for number in range(_MOST_STEPS):
            error, step = self._best_step(relevance, _SQUARED_LENGTHSCALES[min(number, 1):])
            if number == 0 and not error <= (1.0 - _LEAST_EXPLAINED_AT_FIRST) * float(self.target.square().sum()):
                return None
            steps.append(step)
            if number < _MOST_STEPS - 1:
                relevance = self._more_relevant(relevance, self._solve(relevance, step), step)
        errors = self.errors_of_folds(steps)
        best = int(np.argmin([float(error.square().sum()) for error in errors]))
        return errors[best], steps[:best + 1]

    def solutions(self, steps: list[Step]) -> Iterator[tuple[Tensor, Tensor]]:
        """After each step the relevance (c,) and the coefficients (n, k)."""
        relevance = self._scaled(torch.ones(self.z.shape[1], dtype=torch.float64))
        for number, step in enumerate(steps):
            coefficients = self._solve(relevance, step)
            yield relevance, coefficients
            if number < len(steps) - 1:
                relevance = self._more_relevant(relevance, coefficients, step)

    def errors_of_folds(self, steps: list[Step]) -> list[Tensor]:
        """After each step root · (target - prediction from the rows of all other folds), (n, k).

        A row has no say in its own prediction, in the relevance neither.
        """
        n_folds = 10 if len(self.z) <= _FEW_ROWS else 5
        errors = [self.target.clone() for _ in steps]
        for fold in range(n_folds):
            own = torch.arange(len(self.z)) % n_folds == fold
            others = _Regression(self.z[~own], self.target[~own], self.root[~own])
            for error, step, (relevance, coefficients) in zip(errors, steps, others.solutions(steps), strict=True):
                kernel = _kernel(self.z[own] * relevance, others.z * relevance, step.squared_lengthscale)
                error[own] -= self.root[own] * (kernel @ coefficients)
        return errors

    def _best_step(self, relevance: Tensor, squared_lengthscales: tuple[float, ...]) -> tuple[float, Step]:
        points = self.z * relevance
        distances = _squared_distances(points, points)
        both = self.root @ self.root.mT
        tried = []
        for one in squared_lengthscales:
            kernel = _kernel(points, points, one, distances)
            values, vectors = torch.linalg.eigh(kernel * both)      # torch's number of threads
            values, projected, squares = values.clamp_min(0.0), vectors.mT @ self.target, vectors.square()
            for penalty in _PENALTIES:
                shrunk = values / (values + penalty)
                error = self.target - vectors @ (shrunk.unsqueeze(1) * projected)
                left_out = error / (1.0 - squares @ shrunk).clamp_min(1e-9).unsqueeze(1)
                tried.append((float(left_out.square().sum()), Step(float(one), float(penalty))))
        return min(tried, key=lambda one: one[0])

    def _solve(self, relevance: Tensor, step: Step) -> Tensor:  # (c,); (n, k)
        points = self.z * relevance
        kernel = _kernel(points, points, step.squared_lengthscale) * (self.root @ self.root.mT)
        kernel.diagonal().add_(step.penalty)
        return self.root * torch.cholesky_solve(self.target, torch.linalg.cholesky(kernel))

    def _more_relevant(self, relevance: Tensor, coefficients: Tensor, step: Step) -> Tensor:  # (c,), (n, k); (c,)
        """Root mean squares of the gradient of all targets at the training rows; as it was where there is none."""
        points = self.z * relevance
        if step.squared_lengthscale == np.inf:
            squares = (points.mT @ coefficients).square().sum(1)
        else:
            kernel = torch.exp(-0.5 * _squared_distances(points, points) / step.squared_lengthscale)
            squares = torch.zeros_like(relevance)
            for column in coefficients.mT:
                pull = kernel * column                              # of every row on every row
                gradient = pull @ points - pull.sum(1, keepdim=True) * points
                squares += (self.root * gradient).square().sum(0)
        squares = relevance.square() * squares
        return self._scaled((squares / squares.max()).sqrt()) if squares.max() > 0 else relevance

    def _scaled(self, relevance: Tensor) -> Tensor:
        """So that the mean squared distance of two rows is 1, if they differ."""
        share = self.root.square() / self.root.square().sum()
        variance = (share * (self.z - (share * self.z).sum(0)).square()).sum(0)
        total = 2.0 * (relevance.square() * variance).sum()
        return relevance / total.sqrt() if total > 0 else relevance


def _evenly_spaced(n: int, most: int) -> np.ndarray:
    """At most `most` of n positions."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:  # (n, c), (m, c); (n, m)
    return (a.square().sum(1, keepdim=True) + b.square().sum(1) - 2.0 * a @ b.mT).clamp_min(0.0)


def _kernel(a: Tensor, b: Tensor, squared_lengthscale: float, squared_distances: Tensor | None = None) -> Tensor:
    """(n, c), (m, c); (n, m)."""
    if squared_lengthscale == np.inf:
        return a @ b.mT + _CONSTANT
    distances = _squared_distances(a, b) if squared_distances is None else squared_distances
    return torch.exp(-0.5 * distances / squared_lengthscale) + _CONSTANT
