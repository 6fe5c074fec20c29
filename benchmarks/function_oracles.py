"""Predictors for `function_classes.py`: those that know the class, Bayes' rule over the classes, and baselines."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import lasso_path
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor

from pfn.studies import FUNCTION_CLASSES, NOISE, STUDIES
from priors.functions import GaussianMixture
from priors.linear import ridge

PENALTIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)                       # of Lasso
NEIGHBOURS = (1, 2, 3, 5, 7, 10, 15)
DEPTHS = (1, 2, 3, 4)                                               # of greedy trees
Oracle = Callable[[Tensor, Tensor, Tensor, Tensor], "Prediction"]
Baseline = Callable[[Tensor, Tensor, Tensor], list[Tensor]]


@dataclass(frozen=True)
class Prediction:
    """For queries of a batch of tasks: B tasks, m queries; float64."""

    mean: Tensor                                                    # (B, m)
    log_prob: Tensor | None = None                                  # (B, m), of the noisy targets of the queries
    log_evidence: Tensor | None = None                              # (B,), of the targets of the context


def normal_log_prob(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * ((y.double() - mean).square() / variance + variance.log() + math.log(2 * math.pi))


def gaussian_evidence(covariance: Tensor, y: Tensor) -> Tensor:
    """ln N(y | 0, covariance), (...); covariance (..., n, n) without the noise, y (..., n)."""
    identity = torch.eye(y.shape[-1], dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance + NOISE * identity)
    white = torch.linalg.solve_triangular(factor, y.double().unsqueeze(-1), upper=False)
    log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white.square().sum((-2, -1)) + log_determinant + y.shape[-1] * math.log(2 * math.pi))


# Predictors that know the class: context x (B, n, d), y (B, n), queries x_query (B, m, d), y_query (B, m)


def linear_oracle(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Prediction:
    prior: Any = FUNCTION_CLASSES["linear"]
    mean, variance = prior.posterior(x, y, x_query)
    return Prediction(mean, normal_log_prob(y_query, mean, variance), gaussian_evidence(x.double() @ x.double().mT, y))


def sparse_oracle(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Prediction:
    prior: Any = FUNCTION_CLASSES["sparse linear"]
    posterior: GaussianMixture = prior.posterior(x, y, x_query)
    supports = torch.tensor(list(combinations(range(x.shape[2]), prior.sparsity)))
    used = x.double()[..., supports].transpose(1, 2)                                                     # (B, S, n, s)
    evidence = gaussian_evidence(used @ used.mT, y.unsqueeze(1).expand(-1, len(supports), -1))           # (B, S)
    return Prediction(posterior.mean, posterior.log_prob(y_query), evidence.logsumexp(1) - math.log(len(supports)))


def regressions_oracle(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Prediction:
    prior: Any = FUNCTION_CLASSES["mixture of regressions"]
    posterior: GaussianMixture = prior.posterior(x, y, x_query)
    f = prior.regressors(x.shape[2]).double() @ x.double().mT                                            # (B, K, n)
    evidence = normal_log_prob(y.unsqueeze(1), f, torch.tensor(NOISE)).sum(2).logsumexp(1)
    return Prediction(posterior.mean, posterior.log_prob(y_query), evidence - math.log(prior.n_components))


def net_oracle(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Prediction:
    """Mean and error of the best linear predictor; density and evidence as if the nets were infinitely wide."""
    prior: Any = FUNCTION_CLASSES["two-layer net"]
    mean, squared_error = prior.best_linear_predictor(x, y, x_query)
    return Prediction(mean, normal_log_prob(y_query, mean, squared_error), gaussian_evidence(prior.covariance(x, x), y))


def tree_oracle(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Prediction:
    """Exact posterior over decision trees, by recursion.

    A literal a = 2j + s says that coordinate j has sign s. E_l(path) is the evidence of the rows that satisfy the l literals
    of a path, averaged over all trees below it:

        E_l(path) = 1/d Σ_j E_(l+1)(path, 2j) E_(l+1)(path, 2j + 1),

    and at the leaves, of N rows with sum T, up to what all trees share, (1 + N/v)^(-1/2) exp(T² / 2v(v + N)). A query takes
    one path for every choice of coordinates; its posterior weight is the evidence of its leaf times those of the siblings.
    """
    prior: Any = FUNCTION_CLASSES["decision tree"]
    d, depth = x.shape[2], prior.depth
    holds = torch.stack([x <= 0, x > 0], -1).flatten(2).double()                                         # (B, n, 2d)
    inside = holds                                                                                       # (B, n, paths)
    for _ in range(depth - 1):
        inside = (inside.unsqueeze(3) * holds.unsqueeze(2)).flatten(2)
    count = inside.sum(1)                                                                                # (B, (2d)^depth)
    total = (inside * y.double().unsqueeze(2)).sum(1)
    leaf = -0.5 * torch.log1p(count / NOISE) + total.square() / (2 * NOISE * (NOISE + count))
    evidence = [leaf]                                                                                    # of longest paths
    for _ in range(depth):
        below = evidence[-1].unflatten(1, (-1, d, 2))
        evidence.append(below.sum(3).logsumexp(2) - math.log(d))
    unit = normal_log_prob(y, torch.zeros(()), torch.tensor(NOISE)).sum(1)

    sign = (x_query > 0).long()                                                                          # (B, m, d)
    weight: Tensor | float = 0.0
    number: Tensor | int = 0                                                                             # of the path so far
    coordinates = torch.tensor(list(product(range(d), repeat=depth)))                                    # (d^depth, depth)
    for level, chosen in enumerate(coordinates.T):
        literal = 2 * chosen + sign[..., chosen]                                                         # (B, m, d^depth)
        sibling = number * 2 * d + literal + 1 - 2 * sign[..., chosen]
        number = number * 2 * d + literal
        weight = weight + _take(evidence[depth - 1 - level], sibling)
    in_leaf, sum_of_leaf = _take(count, number), _take(total, number)
    log_weight = (weight + _take(leaf, number)).log_softmax(-1)
    mean, variance = sum_of_leaf / (in_leaf + NOISE), NOISE + NOISE / (in_leaf + NOISE)
    log_prob = torch.logsumexp(log_weight + normal_log_prob(y_query.unsqueeze(2), mean, variance), -1)
    return Prediction((log_weight.exp() * mean).sum(-1), log_prob, evidence[-1].squeeze(1) + unit)


def _take(values: Tensor, index: Tensor) -> Tensor:                 # (B, P) at (B, m, K)
    return values.gather(1, index.flatten(1)).view(index.shape)


ORACLES: dict[str, Oracle] = {
    "linear": linear_oracle, "sparse linear": sparse_oracle, "mixture of regressions": regressions_oracle,
    "two-layer net": net_oracle, "decision tree": tree_oracle,
}


def class_weights() -> Tensor:                                      # (5,), of the prior of the recipe, in its units
    weights = [[weight for weight, one in STUDIES["functions"]().prior.components if one == prior]
               for prior in FUNCTION_CLASSES.values()]
    return torch.tensor([sum(each) for each in weights], dtype=torch.float64)


def average(predictions: list[Prediction], weights: Tensor) -> Prediction:
    """By prior weight times evidence: Bayes' rule over classes."""
    log_evidence = torch.stack([p.log_evidence for p in predictions])                                    # (K, B)
    log_weight = (log_evidence + weights.log().unsqueeze(1)).log_softmax(0).unsqueeze(2)
    mean = (log_weight.exp() * torch.stack([p.mean for p in predictions])).sum(0)
    return Prediction(mean, (log_weight + torch.stack([p.log_prob for p in predictions])).logsumexp(0))


# Baselines: lists of means (B, m), one for every setting


def lasso(x: Tensor, y: Tensor, x_query: Tensor) -> list[Tensor]:
    means = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                             # convergence, where there are fewer rows than features
        for one, targets, query in zip(x.double().numpy(), y.double().numpy(), x_query.double().numpy(), strict=True):
            _, w, _ = lasso_path(one, targets, alphas=PENALTIES)
            means.append(query @ w)                                                                      # (m, penalties)
    return list(torch.from_numpy(np.stack(means, 1).transpose(2, 1, 0)))


def nearest(x: Tensor, y: Tensor, x_query: Tensor) -> list[Tensor]:
    order = torch.cdist(x_query, x).argsort(-1)                                                          # (B, m, n)
    ordered = y.unsqueeze(1).expand(-1, x_query.shape[1], -1).gather(2, order).double()
    return [ordered[..., :k].mean(-1) for k in NEIGHBOURS]


def greedy_trees(x: Tensor, y: Tensor, x_query: Tensor) -> list[Tensor]:
    tasks = list(zip(x.numpy(), y.numpy(), x_query.numpy(), strict=True))
    return [
        torch.from_numpy(np.stack([
            DecisionTreeRegressor(max_depth=depth, random_state=0).fit(one, targets).predict(query)
            for one, targets, query in tasks
        ])) for depth in DEPTHS
    ]


def least_squares(x: Tensor, y: Tensor, x_query: Tensor) -> list[Tensor]:
    return [ridge(x, y, x_query, 0.0)[0]]


def best_ridge(x: Tensor, y: Tensor, x_query: Tensor) -> list[Tensor]:
    return [ridge(x, y, x_query, NOISE)[0]]


LINEAR_BASELINES: dict[str, Baseline] = {"ridge": best_ridge, "least squares": least_squares}
BASELINES: dict[str, dict[str, Baseline]] = {
    "linear": {"least squares": least_squares},
    "sparse linear": LINEAR_BASELINES | {"Lasso": lasso},
    "mixture of regressions": LINEAR_BASELINES,
    "two-layer net": LINEAR_BASELINES | {"nearest neighbours": nearest},
    "decision tree": {"ridge": best_ridge, "nearest neighbours": nearest, "greedy tree": greedy_trees},
}


def descended(x: Tensor, y: Tensor, x_query: Tensor, step: float, n_steps: int) -> Tensor:
    """Predictions (B, m) of gradient descent on |y - x w|² + NOISE·|w|² from w = 0; `step` is relative.

    With S = xᵀx + NOISE·I, w_k = S⁻¹ (I - (I - αS)^k) xᵀy. Newton's iteration for S⁻¹ from M = αI gives, after k steps, what
    this gives after 2^k: I - S M squares in every step.
    """
    x, y = x.double(), y.double().unsqueeze(2)
    eigenvalue, basis = torch.linalg.eigh(x.mT @ x + NOISE * torch.eye(x.shape[2], dtype=torch.float64))
    relative = step * eigenvalue / eigenvalue[:, -1:]
    share = (1 - (1 - relative) ** n_steps) / eigenvalue                                                 # (B, d)
    w = basis @ (share.unsqueeze(2) * (basis.mT @ (x.mT @ y)))
    return (x_query.double() @ w).squeeze(2)
